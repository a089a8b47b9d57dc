"""Checks of job=push: the repository's name, and whether others can load what the run saved."""

import re
from collections.abc import Iterator
from pathlib import Path

from peftkit.config.checks.rules import messages_of
from peftkit.config.checks.run_folders import readable_config
from peftkit.config.errors import refusal
from peftkit.config.run import RunConfig, is_prompted
from peftkit.paths import is_folder

NAME = r"(?!.*(?:--|\.\.))[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?(?<!\.git)"  # huggingface_hub's rules for repositories
REPO_ID = re.compile(rf"{NAME}/{NAME}", re.ASCII)
BRANCH = re.compile(r"(?!.*(?:\.\.|//|@\{|\.lock(?:/|$)))[A-Za-z0-9_][\w./-]*(?<![./])", re.ASCII)
MAX_LENGTH = 96  # of a repository's id


def push_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for a name that the Hub does not allow, and for a run whose model cannot be pushed."""
    if run.job != "push":
        return
    yield from _id_errors("repo", run.repo)
    yield from _id_errors("push.base_model", run.push.base_model or "a/b")
    branch = run.push.revision
    if branch is not None and not BRANCH.fullmatch(branch):
        yield refusal(f"push.revision={branch}: expected the name of a branch", "push.revision=main")
    config = readable_config(run.run)
    if config is not None:
        yield from _run_errors(run, config)


def _id_errors(key: str, name: str | None) -> Iterator[str]:
    if name is None:
        yield refusal(f"job=push needs the name of a repository, {key}=NAMESPACE/NAME", f"{key}=you/name", verb="set")
    elif len(name) > MAX_LENGTH or not REPO_ID.fullmatch(name):
        parts = [re.sub(r"(?:--|\.\.|[^\w.-])+", "-", part).strip("-.") for part in name.split("/") if part]
        fixed = "/".join(parts if len(parts) == 2 else ["you", *parts[-1:]])[:MAX_LENGTH].strip("-.")
        wrong = f"{key}={name}: expected NAMESPACE/NAME of the Hub, up to {MAX_LENGTH} letters, digits and ._-"
        yield refusal(wrong, f"{key}={fixed if REPO_ID.fullmatch(fixed) else 'you/name'}")


def _run_errors(run: RunConfig, trained: RunConfig) -> Iterator[str]:
    """Yield a message for a trained run of which the chosen part does not exist, or loads in peftkit only."""
    what, has_model, traits = run.push.what, is_folder(Path(str(run.run), "model")), trained.method.traits
    is_base = is_prompted(trained) or not traits.trains
    return messages_of(
        (is_base, f"{run.run}: no weights were trained, so there is nothing to push; name another run"),
        (
            traits.has_own_model or trained.prune.heads is not None,
            f"{run.run}: only peftkit loads a model of method={trained.method.name}"
            f"{' with pruned heads' if trained.prune.heads is not None else ''}; name another run",
        ),
        (
            not is_base and has_model and what in ("adapter", "both"),
            refusal(f"{run.run}: method={trained.method.name} trains a whole model, without an adapter", "~push.what"),
        ),
        (
            not is_base and not has_model and what in ("merged", "both") and not traits.mergeable,
            refusal(f"{run.run}: method={trained.method.name} cannot be merged", "push.what=adapter"),
        ),
    )
