"""The jobs as the command line runs them, by overrides, in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from peftkit import api
from peftkit.cli import choose, compose_config
from peftkit.cli.compose import build_run


def run(overrides: Sequence[str], recipe: str | None = None, begin: Callable[[Path], None] | None = None) -> Any:
    """Run one job and return what it returns; `begin` is called with the folder of a run that trains."""
    return api.run_job(build_run(compose_config(overrides), recipe, overrides), begin)


def finetune(*overrides: str) -> list[Path]:
    """Train every run of the sweep and return the run folders.

    Raises:
        UserError: anything is wrong with the overrides; nothing was loaded or trained.
    """
    return [folder for folder in _run("finetune", overrides) if folder is not None]


def evaluate(folder: str | Path, *overrides: str) -> Path:
    (found,) = _run("evaluate", (f"run={folder}", *overrides))
    assert found is not None
    return found


def predict(folder: str | Path | Sequence[str | Path], input: str | Path, *overrides: str) -> None:
    """Predict with a run, or with several runs, each example by the run that its column `task` names."""
    one = isinstance(folder, (str, Path))
    chosen = f"run={folder}" if one else f"runs=[{','.join(map(str, folder))}]"  # type: ignore[arg-type]
    _run("predict", (chosen, f"input='{input}'", *overrides))


def merge(folder: str | Path, *overrides: str) -> Path:
    (found,) = _run("merge", (f"run={folder}", *overrides))
    assert found is not None
    return found


def plan(*overrides: str) -> None:
    _run("plan", overrides)


def _run(job: str, overrides: Sequence[str]) -> list[Path | None]:
    return [api.run_job(config) for config in choose([f"job={job}", *overrides])]
