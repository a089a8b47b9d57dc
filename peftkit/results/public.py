"""Texts that leave this machine: without its paths, and refused where one of them or a secret is left."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftkit.config import UserError
from peftkit.config.secrets import without_secrets
from peftkit.paths import exists
from peftkit.results.run_result import RunResult

QUOTED_PATH = re.compile(r"(['\"])[~/][^'\"]*?/([^'\"/]+)/*\1")
PATH = re.compile(r"(?<![\w./:<~])(?:~|/[\w.@~+-])[^\s,;()\[\]{}'\"]*?/([^\s,;()\[\]{}'\"/]+)/*(?![^\s,;()\[\]{}'\"])")
TOP_FOLDER = re.compile(r"(?<==)/([\w.+-]+)/*(?![^\s,])")
WHOLE_PATH = re.compile(r"[~/].*/([^/]+)/*", re.DOTALL)


def public_values(values: Any) -> Any:
    """Return values as they may be published: of each path in a text, at any depth, only the last name remains."""
    if isinstance(values, Mapping):
        return {name: public_values(each) for name, each in values.items()}
    if isinstance(values, list | tuple):
        return [public_values(each) for each in values]
    if not isinstance(values, str):
        return values
    if whole := WHOLE_PATH.fullmatch(values):
        return whole[1]
    return TOP_FOLDER.sub(r"\1", PATH.sub(r"\1", QUOTED_PATH.sub(r"\1\2\1", values)))


def check_public(name: str, text: str, run: RunResult) -> None:
    """Check a text that is about to be published.

    Raises:
        UserError: it names a folder of this machine, or it has a secret.
    """
    for folder in _private_folders(run):
        if folder in text:
            raise UserError(f"{name} would publish a path of this machine, {folder}; report this, nothing was sent")
    if without_secrets(text) != text:
        raise UserError(f"{name} would publish a secret of the environment or an access token; remove it there")


def _private_folders(run: RunResult) -> set[str]:
    config = run.config
    named = (str(run.folder), config.data_root, config.task.dataset, config.model.checkpoint, config.out)
    paths = [Path.home(), Path.cwd(), *(Path(each).expanduser() for each in named if each and exists(each))]
    found = {str(path.absolute()) for path in paths} | {os.path.realpath(path) for path in paths}
    found.discard("/")  # of a container, whose working folder that may be
    return {each if each.count("/") > 1 else f"{each}/" for each in found}
