"""The search of settings by trials, equally many for every method, scored on held-out training examples."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from peftkit.config import RunConfig, Search, UserError, error_summary, is_prompted
from peftkit.config.console import log
from peftkit.config.quoting import as_override
from peftkit.config.search_space import Candidate, candidates, extended_grids, lacking_keys, with_candidate
from peftkit.leaderboard.stats import task_score
from peftkit.results import run_folder
from peftkit.results.run_result import RunResult

TRIAL_SEED = 0  # of every trial; the seeds of a comparison share their trials


def search(config: RunConfig, train: Callable[[RunConfig], Path]) -> tuple[dict[str, Any], Candidate | None]:
    """Try each candidate, scored on examples held out from the training split; return trials and the best candidate.

    A trial that another seed or process finished is not run again. A failed trial does not stop the search, and the
    next seed repeats it. A method without trained weights has no trials, and no best candidate.

    Args:
        train: trains the run of one trial, and returns its folder.

    Returns:
        trials (learning_rate, config, score, status), chosen (the best rate) and chosen_config, its curve (epoch,
        seconds, score), the number of examples that scored them, seed, seconds of all trials; lacking (keys of the grid
        that the method does not have), and extended (grids with one more value, where the best one is at an end).

    Raises:
        RuntimeError: every trial failed.
    """
    own, lacking = float(config.train["learning_rate"]), lacking_keys(config)
    grid = [] if is_prompted(config) else candidates(config)
    if lacking and grid:
        log(f"   {config.method.name} has no {', '.join(lacking)}: it tries {len(grid)} learning rates instead")
    trials = [(each, _run_trial(trial_config(config, each), each, train)) for each in grid]
    finished = [(each, trial) for each, trial in trials if trial["score"] is not None]
    if trials and not finished:
        raise RuntimeError(f"every trial failed, so that nothing can be chosen: {trials[0][1]['status']}")
    # ties: the rate nearest to the method's own
    best, outcome = max(
        finished, key=lambda pair: (pair[1]["score"], -abs(pair[0].learning_rate - own)), default=(None, {})
    )
    where = f"{len(trials)} trials of {config.method.name} on {config.task.name}"
    log(f"   best of {where}: {best}" if best else f"   {config.method.name} trains nothing: no trials")
    extended = {} if best is None else extended_grids(config, best)
    for key, values in extended.items():
        log(
            f"!! {config.task.name}, {config.method.name}: the best of {key} is at the end of its grid; "
            f"try {key}={as_override(values)} for every method"
        )
    names = ("learning_rate", "config", "score", "status")
    return {
        "trials": [{name: trial[name] for name in names if name in trial} for _, trial in trials],
        "chosen": None if best is None else best.learning_rate,
        **({"chosen_config": dict(best.config)} if best is not None and best.config else {}),
        "curve": outcome.get("curve"),
        "rows": config.search.samples,
        "seed": TRIAL_SEED,
        "seconds": sum(trial["seconds"] for _, trial in trials),
        **({"lacking": lacking} if lacking else {}),
        **({"extended": extended} if extended else {}),
    }, best


def trial_config(config: RunConfig, candidate: Candidate) -> RunConfig:
    """Return the config that tries one candidate."""
    given = [name for name in ("lr_multipliers", "learning_rates", "config") if getattr(config.search, name)]
    changes = ["trial=true", f"seed={TRIAL_SEED}", *(f"search.{name}=null" for name in given)]
    changes += [f"train.learning_rate={candidate.learning_rate}"]
    changes += [f"method.config.{name}={as_override(value)}" for name, value in candidate.config.items()]
    return replace(
        with_candidate(config, candidate),
        trial=True,
        seed=TRIAL_SEED,
        force=False,
        search=Search(lr_multipliers=None, samples=config.search.samples, learning_rates=None, config=None),
        overrides=(*config.overrides, *changes),
    )


def _run_trial(config: RunConfig, candidate: Candidate, train: Callable[[RunConfig], Path]) -> dict[str, Any]:
    """Return the settings of a trial, its score (None if it failed), status, seconds, and score by epoch."""
    trial: dict[str, Any] = {"learning_rate": candidate.learning_rate, "score": None, "seconds": 0.0}
    trial |= {"config": dict(candidate.config)} if candidate.config else {}
    with run_lock(config):
        try:
            result = RunResult(train(config)).record
        except UserError:
            raise
        except Exception as error:
            status = f"failed: {error_summary(error)}"
            log(f"   trial with {candidate} {status}")
            return {**trial, "status": status}
    seconds = result["costs"]["train_seconds"] + result["costs"]["eval_seconds"]
    scored = {"score": task_score(result["scores"]), "seconds": seconds, "curve": result.get("curve")}
    return {**trial, **scored, "status": "finished"}


def run_lock(config: RunConfig) -> AbstractContextManager:
    """Lock a run that several processes need, such as a trial that several seeds share."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return nullcontext()  # the processes of one run train together
    folder = Path(config.out, ".locks")
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{run_folder.run_id(config, {}, {})}.lock")
