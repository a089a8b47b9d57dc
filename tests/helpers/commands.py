"""The jobs as the command line runs them, by overrides, in this process."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from peftkit import api
from peftkit.cli.compose import build_run, open_composer, plan_sweep, without_hydra
from peftkit.cli.overrides import normalize_override
from peftkit.cli.validate import command_errors
from peftkit.config import RunConfig, UserError


def check(overrides: Sequence[str], extra: Path | None = None, multirun: bool = True) -> list[str]:
    """Return every error of the command's runs; empty where they can start."""
    with open_composer(extra) as composer:
        return command_errors([*map(normalize_override, overrides)], composer, extra, multirun)


def apply_fix(command: Sequence[str], fix: str) -> list[str]:
    """Return a command with a fix as a user types it in a shell."""
    command = [*command]
    for part in shlex.split(fix):
        old, arrow, new = part.partition("->")
        if arrow:
            command = [f"{new}{each.removeprefix(old)}" if each.startswith(f"{old}=") else each for each in command]
            continue
        key, _, _ = part.removeprefix("~").partition("=")
        command = [each for each in command if each.partition("=")[0].lstrip("+") != key]
        command += [] if part.startswith("~") else [part]
    return command


def choose(overrides: Sequence[str]) -> list[RunConfig]:
    """Return the config of each run of these overrides.

    Raises:
        UserError: every error of them.
    """
    overrides = [normalize_override(override) for override in overrides]
    with open_composer(None) as composer:
        if messages := command_errors(overrides, composer, None, multirun=True):
            raise UserError("; ".join(messages))
        return [
            build_run(without_hydra(cfg), cfg.hydra.runtime.choices.get("recipe"), run)
            for run in plan_sweep(overrides, composer).runs
            for cfg in (composer(run),)
        ]


def compose_config(overrides: Sequence[str], extra: Path | None = None) -> DictConfig:
    """Compose the config of one run; that of shipped files, which many tests start from, once."""
    is_shipped = extra is None and not any(override.startswith("recipe=") for override in overrides)
    compose = _compose_once if is_shipped else _compose
    return copy.deepcopy(compose(tuple(overrides), extra))


def _compose(overrides: tuple[str, ...], extra: Path | None) -> DictConfig:
    with open_composer(extra) as composer:
        return without_hydra(composer([normalize_override(override) for override in overrides]))


_compose_once = lru_cache(maxsize=32)(_compose)


def expand_sweep(overrides: Sequence[str], extra: Path | None = None) -> list[list[str]]:
    """Return the overrides of each run: one list, or the product of the sweeps of command line and recipe."""
    with open_composer(extra) as composer:
        return plan_sweep([normalize_override(override) for override in overrides], composer).runs


def run(overrides: Sequence[str], recipe: str | None = None, on_start: Callable[[Path], None] | None = None) -> Any:
    """Run one job and return what it returns; `on_start` is called with the folder of a run that trains."""
    return api.run_job(build_run(compose_config(overrides), recipe, overrides), on_start)


def finetune(*overrides: str) -> list[Path]:
    """Train every run of the sweep and return the run folders.

    Raises:
        UserError: anything is wrong with the overrides; nothing was loaded or trained.
    """
    return [folder for folder in _run("finetune", overrides) if folder is not None]


def trained_once(checkpoints: Mapping[str, Path], out: Path, *common: str) -> Callable[..., Path]:
    """Return a function that trains a tiny model for a few steps, each only once, and returns the run folder.

    Args:
        checkpoints: by family.
        common: overrides of all runs.
    """
    done: dict[tuple[str, ...], Path] = {}

    def find(model: str, method: str, *overrides: str) -> Path:
        key = (model, method, *overrides)
        if key not in done:
            checkpoint = checkpoints[model.removesuffix("_encoder")]
            (done[key],) = finetune(
                f"model={model}", f"model.checkpoint={checkpoint}", "source=offline", f"out={out}", f"method={method}",
                "task.max_train_samples=24", "task.max_eval_samples=8", "train.num_train_epochs=1",
                "train.per_device_train_batch_size=8", "train.disable_tqdm=true", *common, *overrides,
            )  # fmt: skip
        return done[key]

    return find


def evaluate(folder: str | Path, *overrides: str) -> Path:
    (found,) = _run("evaluate", (f"run={folder}", *overrides))
    assert found is not None
    return found


def predict(folder: str | Path | Sequence[str | Path], input: str | Path, *overrides: str) -> None:
    """Predict with a run, or with several runs, each example by the run that its column `task` names."""
    one = isinstance(folder, (str, Path))
    chosen = f"run={folder}" if one else f"runs=[{','.join(map(str, folder))}]"  # type: ignore[arg-type]
    _run("predict", (chosen, f"input={input}", *overrides))


def merge(folder: str | Path, *overrides: str) -> Path:
    (found,) = _run("merge", (f"run={folder}", *overrides))
    assert found is not None
    return found


def plan(*overrides: str) -> list[Any]:
    return _run("plan", overrides)


def _run(job: str, overrides: Sequence[str]) -> list[Any]:
    return [api.run_job(config) for config in choose([f"job={job}", *overrides])]
