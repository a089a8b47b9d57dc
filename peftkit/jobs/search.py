"""Turn a method into its best learning rate, by as many trials as every other method gets."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

from filelock import FileLock

from peftkit.config import RunConfig, UserError, error_summary
from peftkit.leaderboard.stats import task_score
from peftkit.results import run_folder
from peftkit.results.console import log

SEED = 0  # of every trial: the seeds of a row share them
Train = Callable[
    [RunConfig, dict[str, Any], list[str]], Path
]  # a trial's choice, and the words for it -> its run folder


def search(run: RunConfig, config: Mapping[str, Any], train: Train) -> dict[str, Any]:
    """Try each rate on rows set apart from the training split, and return the trials and the rate that was best.

    A trial that is finished, by whichever seed or process, is not run again; one that fails counts as tried, and is
    tried again by the next seed.

    Returns:
        trials (learning_rate, score, status), chosen (a rate), its curve (epoch, seconds, score), the number of rows
        that scored them, seed, seconds of all trials.

    Raises:
        RuntimeError: every trial failed.
    """
    trials = [_trial(dict(config), rate, train) for rate in rates(run)]
    finished = [trial for trial in trials if trial["score"] is not None]
    if not finished:
        raise RuntimeError(f"no trial finished, so there is no rate to choose: {trials[0]['status']}")
    own = float(run.train["learning_rate"])
    # of equal ones the nearest to the method's own, which comes first where it is no worse
    best = max(finished, key=lambda trial: (trial["score"], -abs(trial["learning_rate"] - own)))
    chosen = best["learning_rate"]
    log(f"   best of {len(trials)} rates for {run.method.name} on {run.task.name}: {chosen:g}")
    return {
        "trials": [{name: trial[name] for name in ("learning_rate", "score", "status")} for trial in trials],
        "chosen": chosen,
        "curve": best["curve"],
        "rows": run.search.samples,
        "seed": SEED,
        "seconds": sum(trial["seconds"] for trial in trials),
    }


def no_search(run: RunConfig) -> dict[str, Any]:
    """Return what is told of a search where nothing trains, so that there is no rate to try."""
    log(f"   {run.method.name} trains nothing: no trials for it")
    return {"trials": [], "chosen": None, "curve": None, "rows": run.search.samples, "seed": SEED, "seconds": 0.0}


def rates(run: RunConfig) -> list[float]:
    """Return the rates to try, rounded to three digits."""
    return [float(f"{float(run.train['learning_rate']) * factor:.3g}") for factor in run.search.lr_multipliers or []]


def trial_config(config: Mapping[str, Any], rate: float) -> dict[str, Any]:
    """Return the choice that tries one rate."""
    tried = deepcopy(dict(config)) | {"trial": True, "seed": SEED, "force": False}
    tried["search"]["lr_multipliers"] = None
    tried["train"]["learning_rate"] = rate
    return tried


def _trial(config: dict[str, Any], rate: float, train: Train) -> dict[str, Any]:
    tried = trial_config(config, rate)
    chosen = RunConfig.from_config(tried)
    with alone(chosen):
        try:
            words = ["trial=true", f"seed={SEED}", "search.lr_multipliers=null", f"train.learning_rate={rate}"]
            folder = train(chosen, tried, words)
        except UserError:
            raise
        except Exception as error:
            status = f"failed: {error_summary(error)}"
            log(f"   the trial of {rate:g} {status}")
            return {"learning_rate": rate, "score": None, "status": status, "seconds": 0.0, "curve": None}
    result = run_folder.read_result(folder)
    assert result is not None
    costs = result["costs"]
    return {
        "learning_rate": rate,
        "score": task_score(result["scores"]),
        "status": "finished",
        "seconds": costs["train_seconds"] + costs["eval_seconds"],
        "curve": result.get("curve"),
    }


def alone(config: RunConfig) -> AbstractContextManager:
    """Let one command at a time do a run that several need: a trial, where several seeds of a row are run at once."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return nullcontext()  # the processes of one run train together
    folder = Path(config.out, ".locks")
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{run_folder.run_id(config, {}, {})}.lock")
