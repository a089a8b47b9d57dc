"""The search of settings by trials, equally many for every method, scored on held-out training examples."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peftkit.config import RunConfig, Search, UserError, error_summary, is_prompted
from peftkit.config.console import log
from peftkit.config.errors import WriteError
from peftkit.config.quoting import as_override
from peftkit.config.search_space import (
    Candidate,
    candidates,
    extended_grids,
    halving_rounds,
    lacking_keys,
    with_candidate,
    with_share,
)
from peftkit.leaderboard.stats import task_score
from peftkit.results.run_result import RunResult

GRIDS = ("lr_multipliers", "learning_rates", "config", "halving_factor")  # settings of a search that a trial lacks
BUDGET = ("num_train_epochs", "max_steps")
TRIAL_SEED = 0  # of every trial; the seeds of a comparison share their trials


def search(config: RunConfig, train: Callable[[RunConfig], Path]) -> tuple[dict[str, Any], Candidate | None]:
    """Try each candidate, scored on examples held out from the training split; return trials and the best candidate.

    With `search.halving_factor` the trials have rounds, and each but the first has the best candidates of the one
    before. A trial that another seed or process finished is not run again. A failed trial does not stop the search, and
    the next seed repeats it. A method without trained weights tries only its own keys of `search.config`;
    without any it has no trials, and no best candidate.

    Args:
        train: trains the run of one trial, and returns its folder.

    Returns:
        trials (learning_rate, config, examples_seen, score, status: of the last trial of each candidate), rounds
        (number of trials, and the most examples that one saw), chosen (the best rate) and chosen_config, its curve
        (epoch, seconds, score; of a trial with the whole budget), the number of examples that scored them, seed,
        seconds of all trials; lacking (keys of the grid that the method does not have), and extended (grids with one
        more value, where the best one is at an end).

    Raises:
        RuntimeError: every trial failed.
    """
    lacking = lacking_keys(config)
    grid = _prompted_candidates(config) if is_prompted(config) else candidates(config)
    if lacking and grid:
        other = "values of C" if config.method.traits.estimator else "learning rates"
        log(f"   {config.method.name} has no {', '.join(lacking)}: it tries {len(grid)} {other} instead")
    trials, rounds, seconds, left = _run_rounds(config, grid, train)
    if trials and not left:
        status = next(trial["status"] for trial in trials if trial["score"] is None)
        raise RuntimeError(f"every trial failed, so that nothing can be chosen: {status}")
    best = grid[left[0]] if left else None
    where = f"{len(trials)} trials of {config.method.name} on {config.task.name}"
    log(f"   best of {where}: {best}" if best else f"   {config.method.name} trains nothing: no trials")
    extended = {} if best is None else extended_grids(config, best)
    for key, values in extended.items():
        log(
            f"!! {config.task.name}, {config.method.name}: the best of {key} is at the end of its grid; "
            f"try {key}={as_override(values)} for every method"
        )
    names = ("learning_rate", "config", "examples_seen", "score", "status")
    has_curve = best is not None and config.search.halving_factor is None
    return {
        "trials": [{name: trial[name] for name in names if name in trial} for trial in trials],
        "rounds": rounds,
        "chosen": None if best is None else best.learning_rate,
        **({"chosen_config": dict(best.config)} if best is not None and best.config else {}),
        "curve": trials[left[0]].get("curve") if has_curve else None,
        "rows": config.search.samples,
        "seed": TRIAL_SEED,
        "seconds": seconds,
        **({"lacking": lacking} if lacking else {}),
        **({"extended": extended} if extended else {}),
    }, best


def _prompted_candidates(config: RunConfig) -> list[Candidate]:
    """Return every combination of the keys that a method without a learning rate has; nothing where it has none."""
    own = {name: values for name, values in (config.search.config or {}).items() if name not in lacking_keys(config)}
    search = replace(config.search, lr_multipliers=None, learning_rates=None, config=own or None)
    return candidates(replace(config, search=search))


def _run_rounds(
    config: RunConfig, grid: Sequence[Candidate], train: Callable[[RunConfig], Path]
) -> tuple[list[dict[str, Any]], list[dict[str, int]], float, list[int]]:
    """Return the last trial of each candidate, the rounds, the seconds of all trials, and the best of the last round.

    These are positions, best first; of equal scores that with the learning rate nearest to the method's own.
    """
    own = float(config.train["learning_rate"])
    trials: list[dict[str, Any]] = [{} for _ in grid]
    rounds, seconds, left = [], 0.0, list(range(len(grid)))
    for count, share in halving_rounds(len(grid), config.search.halving_factor):
        if not (left := left[:count]):
            break
        for number in left:
            trial = trial_config(with_share(config, share), grid[number])
            trials[number] = _run_trial(trial, grid[number], train)
            seconds += trials[number]["seconds"]
        seen = max(trials[number]["examples_seen"] or 0 for number in left)
        rounds.append({"trials": len(left), "examples_seen": seen})
        if config.search.halving_factor is not None:
            log(f"   {len(left)} trials of {config.method.name} with {seen:,} examples seen each")
        finished = [number for number in left if trials[number]["score"] is not None]
        left = sorted(finished, key=lambda n: (-trials[n]["score"], abs(grid[n].learning_rate - own)))
    return trials, rounds, seconds, left


def trial_config(config: RunConfig, candidate: Candidate) -> RunConfig:
    """Return the config that tries one candidate, with the epochs or steps of `config`."""
    given = [name for name in GRIDS if getattr(config.search, name)]
    changes = ["trial=true", f"seed={TRIAL_SEED}", *(f"search.{name}=null" for name in given)]
    changes += [f"train.learning_rate={candidate.learning_rate}"]
    if config.search.halving_factor is not None:
        changes += [f"train.{name}={config.train[name]}" for name in BUDGET if name in config.train]
    changes += [f"method.config.{name}={as_override(value)}" for name, value in candidate.config.items()]
    return replace(
        with_candidate(config, candidate),
        trial=True,
        seed=TRIAL_SEED,
        force=False,
        search=Search(**dict.fromkeys(GRIDS), samples=config.search.samples),
        overrides=(*config.overrides, *changes),
    )


def _run_trial(config: RunConfig, candidate: Candidate, train: Callable[[RunConfig], Path]) -> dict[str, Any]:
    """Return the settings of a trial, examples seen and score (None if it failed), status, seconds, score by epoch."""
    trial: dict[str, Any] = {"learning_rate": candidate.learning_rate, "score": None, "seconds": 0.0}
    trial |= {"config": dict(candidate.config)} if candidate.config else {}
    try:
        result = RunResult(train(config)).record
    except (UserError, WriteError):  # another candidate would be chosen if the disk had room
        raise
    except Exception as error:
        status = f"failed: {error_summary(error)}"
        log(f"   trial with {candidate} {status}")
        return {**trial, "examples_seen": None, "status": status}
    costs = result["costs"]
    seen = round(result["audit"]["rows"][config.task.splits["train"]] * costs["epochs"])
    seconds = costs["train_seconds"] + costs["eval_seconds"]
    scored = {"score": task_score(result["scores"]), "seconds": seconds, "curve": result.get("curve")}
    return {**trial, **scored, "examples_seen": seen, "status": "finished"}
