"""Search of the learning rate: every method gets the same number of trials."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from peftkit.config import RunConfig, UserError, error_summary, is_prompted
from peftkit.leaderboard.stats import task_score
from peftkit.results import run_folder
from peftkit.results.console import log
from peftkit.results.run_result import RunResult

SEED = 0  # of every trial: all seeds of a comparison share them


@dataclass(frozen=True)
class Trial:
    """One learning rate that was tried; its score is None where it failed."""

    learning_rate: float
    score: float | None
    status: str
    seconds: float = 0.0
    curve: list[dict[str, float]] | None = None  # epoch, seconds, score


def search(config: RunConfig, train: Callable[[RunConfig], Path]) -> dict[str, Any]:
    """Try each learning rate on examples set apart from the training split; return the trials and the best rate.

    A finished trial, of whichever seed or process, is not run again; one that fails counts as tried, and the next seed
    tries it again. `train` trains one trial and returns its run folder. A method without trained weights has no trials.

    Returns:
        trials (learning_rate, score, status), chosen (a rate), its curve (epoch, seconds, score), the number of
        examples that scored them, seed, seconds of all trials.

    Raises:
        RuntimeError: every trial failed.
    """
    trials = [] if is_prompted(config) else [_run_trial(trial_config(config, rate), train) for rate in rates(config)]
    finished = [(trial.score, trial) for trial in trials if trial.score is not None]
    if trials and not finished:
        raise RuntimeError(f"every trial failed, so no learning rate can be chosen: {trials[0].status}")
    own, best = float(config.train["learning_rate"]), None
    if finished:
        # of equal scores the nearest to the method's own rate, which comes first where it is not worse
        _, best = max(finished, key=lambda scored: (scored[0], -abs(scored[1].learning_rate - own)))
        name = f"{config.method.name} on {config.task.name}"
        log(f"   best of {len(trials)} learning rates for {name}: {best.learning_rate:g}")
    else:
        log(f"   {config.method.name} trains nothing: no trials")
    return {
        "trials": [{"learning_rate": t.learning_rate, "score": t.score, "status": t.status} for t in trials],
        "chosen": None if best is None else best.learning_rate,
        "curve": None if best is None else best.curve,
        "rows": config.search.samples,
        "seed": SEED,
        "seconds": sum(trial.seconds for trial in trials),
    }


def rates(config: RunConfig) -> list[float]:
    """Return the learning rates to try, rounded to three digits."""
    own = float(config.train["learning_rate"])
    return [float(f"{own * multiplier:.3g}") for multiplier in config.search.lr_multipliers or []]


def trial_config(config: RunConfig, rate: float) -> RunConfig:
    """Return the config that tries one learning rate."""
    changes = ("trial=true", f"seed={SEED}", "search.lr_multipliers=null", f"train.learning_rate={rate}")
    return replace(
        config,
        trial=True,
        seed=SEED,
        force=False,
        search=replace(config.search, lr_multipliers=None),
        train={**config.train, "learning_rate": rate},
        overrides=(*config.overrides, *changes),
    )


def run_lock(config: RunConfig) -> AbstractContextManager:
    """Let one process at a time do a run that several need, such as a trial that several seeds share."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return nullcontext()  # the processes of one run train together
    folder = Path(config.out, ".locks")
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{run_folder.run_id(config, {}, {})}.lock")


def _run_trial(config: RunConfig, train: Callable[[RunConfig], Path]) -> Trial:
    rate = config.train["learning_rate"]
    with run_lock(config):
        try:
            folder = train(config)
        except UserError:
            raise
        except Exception as error:
            status = f"failed: {error_summary(error)}"
            log(f"   the trial of {rate:g} {status}")
            return Trial(rate, None, status)
    result = RunResult(folder).record
    seconds = result["costs"]["train_seconds"] + result["costs"]["eval_seconds"]
    return Trial(rate, task_score(result["scores"]), "finished", seconds, result.get("curve"))
