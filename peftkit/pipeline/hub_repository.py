"""A repository on the Hub: what it holds, and one commit that replaces what a run has there."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from peftkit.compat.hub import NETWORK_ERRORS
from peftkit.config import UserError, error_summary, refusal
from peftkit.config.errors import WriteError
from peftkit.paths import sha256_of
from peftkit.pipeline.release import RECORD, Base

BY_THE_HUB = {".gitattributes", "README.md", "LICENSE"}  # files that a repository may have from its start
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass
class Repository:
    """A repository as it was found, None of what does not exist yet."""

    name: str
    branch: str
    private: bool | None = None
    commit: str | None = None  # of the branch, or of main from which the branch is made
    has_branch: bool = False
    files: set[str] = field(default_factory=set)
    record: dict[str, Any] = field(default_factory=dict)  # of the run that was pushed before


def check_login() -> None:
    """Check that the Hub can be used, and that there is a token.

    Raises:
        UserError: there is none, or the environment forbids the network.
        WriteError: the Hub does not answer.
    """
    for name in OFFLINE:
        if os.environ.get(name, "").upper() in constants.ENV_VARS_TRUE_VALUES:
            raise UserError(f"{name} is set, which forbids the network; unset it, or list the files: push.dry_run=true")
    if get_token() is None:
        raise UserError("the Hub needs a token with write access; run: hf auth login, or set HF_TOKEN")
    if constants.HF_HUB_OFFLINE:  # set where the Hub did not answer
        raise WriteError(f"{constants.ENDPOINT} does not answer; connect to the network and repeat the command")


def find_repository(name: str, branch: str) -> Repository:
    """Return what a repository of models holds; nothing is created.

    Raises:
        UserError: the token is refused.
        WriteError: the Hub does not answer as it should.
    """
    api, found = HfApi(), Repository(name, branch)
    with _network(name):
        try:
            info = api.model_info(name)
        except RepositoryNotFoundError:
            return found
        found.private = info.private
        try:
            found.commit = api.model_info(name, revision=branch).sha
            found.has_branch = True
        except RevisionNotFoundError:
            found.commit = info.sha
        found.files = {*api.list_repo_files(name, revision=found.commit)}
        if RECORD in found.files:
            try:
                file = api.hf_hub_download(name, RECORD, revision=found.commit)
                record = json.loads(Path(file).read_text(encoding="utf-8"))
                found.record = record if isinstance(record, dict) else {}
            except (EntryNotFoundError, ValueError):
                found.record = {}
    return found


def check_repository(found: Repository, run: str, private: bool, force: bool) -> None:
    """Check that a repository is empty or has this run.

    Args:
        run: the name of the run's folder.

    Raises:
        UserError: it has another run, something else, or it is public and should not be.
    """
    name, before = found.name, found.record
    if found.private is False and private:
        raise UserError(refusal(f"{name} is public", "push.private=false", verb="set"))
    if others := found.files - BY_THE_HUB if not before else ():
        shown = f"{', '.join(sorted(others)[:3])}{', ...' * (len(others) > 3)}"
        wrong = f"{name} holds something that peftkit did not push: {shown}"
        raise UserError(refusal(wrong, f"repo={name}-{before.get('method', 'peftkit')}"))
    if before and before.get("run") != run and not force:
        held = f"{before.get('method')} of {before.get('model')} on {before.get('task')}, {before.get('run')}"
        raise UserError(refusal(f"{name} holds another run: {held}", "force=true", f"repo={name}-2"))


def upload(found: Repository, folder: Path, private: bool, message: str) -> tuple[str, bool]:
    """Create the repository and the branch where they are missing, and commit a folder's files in one commit.

    Files that an earlier push left there and this one lacks are deleted, others stay.

    Returns:
        The URL of the commit, and whether anything changed.

    Raises:
        UserError: the token may not write.
        WriteError: the Hub does not answer as it should; nothing or everything was committed.
    """
    api, files = HfApi(), [file for file in sorted(folder.rglob("*")) if file.is_file()]
    names = {file.relative_to(folder).as_posix() for file in files}
    old = ({*found.record.get("files", ())} & found.files) - names
    with _network(found.name):
        if found.private is None:
            api.create_repo(found.name, private=private)
            found.commit = api.model_info(found.name).sha
            found.has_branch = found.branch == "main"
        if not found.has_branch:
            api.create_branch(found.name, branch=found.branch, exist_ok=True)
        additions = [CommitOperationAdd(file.relative_to(folder).as_posix(), str(file)) for file in files]
        deletions = [CommitOperationDelete(name, is_folder=False) for name in sorted(old)]
        commit = api.create_commit(
            found.name, [*deletions, *additions], commit_message=message, revision=found.branch,
            parent_commit=found.commit,
        )  # fmt: skip
    return str(commit.commit_url), commit.oid != found.commit


def compared_base(base: Base) -> Base:
    """Return a base with the commit of the Hub whose weights are those that the run read.

    Raises:
        UserError: it does not exist, or its weights are others or not in safetensors files.
    """
    api, name = HfApi(), base.name
    with _network(name):
        try:
            commit = api.model_info(name).sha
            infos = api.get_paths_info(name, [file.name for file in base.weights], revision=commit)
            known: dict[str, Any] = {each.path: each for each in infos}
        except RepositoryNotFoundError as error:
            raise UserError(f"push.base_model={name}: the Hub has no such model for you; check the name") from error
    for file in base.weights:
        entry = known.get(file.name)
        if entry is None or entry.lfs is None or entry.lfs.sha256 != sha256_of(file):
            raise UserError(
                f"push.base_model={name} has other weights than {file.parent}, on which the run was trained; "
                "name its checkpoint, or set push.what=merged"
            )
    return replace(base, revision=commit)


@contextmanager
def _network(name: str) -> Iterator[None]:
    """Turn what goes wrong on the way to the Hub into one sentence."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise UserError("the Hub does not accept the token; run: hf auth login, or set HF_TOKEN") from error
        if status == 403:
            wrong = f"the token may not write to {name}"
            raise UserError(f"{wrong}; use one with write access, or a repository of yours: repo=you/NAME") from error
        reason = "it changed meanwhile" if status == 412 else f"the Hub answered {status}"
        raise _unwritten(name, reason) from error
    except NETWORK_ERRORS as error:
        raise _unwritten(name, error_summary(error)) from error


def _unwritten(name: str, reason: str) -> WriteError:
    return WriteError(f"{name} cannot be written: {reason}; a push is one commit, so repeat the command")
