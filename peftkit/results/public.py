"""Texts that leave this machine: without its paths, and refused where one of them or a secret is left."""

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from peftkit.config import UserError
from peftkit.config.secrets import without_secrets
from peftkit.paths import exists
from peftkit.results.run_result import RunResult

PATH_KEYS = {  # of the config and the command line
    "data_root", "out", "run", "start", "runs", "results", "input", "output", "vocab", "recipe", "model.checkpoint",
    "task.dataset", "tasks.dataset", "distill.teacher", "extend.terms", "extend.corpus", "generate.model",
    "generate.seeds", "generate.decontaminate", "train.deepspeed", "train.logging_dir",
}  # fmt: skip
PATHS = {  # of result.json
    *(f"run.config.{key}" for key in PATH_KEYS), "audit.sources.model.name", "audit.sources.model.substituted_for",
    "audit.sources.data.name", "audit.sources.data.substituted_for", "audit.start.name", "combination.runs.folder",
    "pruning.run",
}  # fmt: skip
ITEM = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s,\[\]][^,\[\]]*""")  # of a list, or the only one


def public_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of result.json as it may be published: of each path only the last name remains.

    Other texts stay as they are, such as templates and labels, which the code of a model card contains.
    """
    return {name: _public(value, name) for name, value in result.items()}


def _public(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return {name: _public(each, f"{key}.{name}") for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_public_override(each) if key == "run.overrides" else _public(each, key) for each in value]
    return _last_name(value) if isinstance(value, str) and key in PATHS else value


def _public_override(override: str) -> str:
    key, equals, value = override.partition("=")
    if key.lstrip("+") not in PATH_KEYS:
        return override
    return f"{key}{equals}{ITEM.sub(lambda item: _last_name(item[0]), value)}"


def _last_name(path: str) -> str:
    """Return the last name of an absolute path, in the path's quotes, and any other text as it is."""
    quote = path[0] if path[:1] in ("'", '"') else ""
    inner = path[1:-1] if quote else path
    return f"{quote}{PurePosixPath(inner).name or inner}{quote}" if inner.startswith(("/", "~")) else path


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
