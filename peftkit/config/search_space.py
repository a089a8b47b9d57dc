"""The settings that the trials of a search try, equally many for every method, and grids that extend them."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from peftkit.config.run import RunConfig
from peftkit.config.signatures import fields_of

SPREAD = 3.0  # factor below and above a single learning rate, where learning rates replace other settings


@dataclass(frozen=True)
class Candidate:
    """The settings of one trial."""

    learning_rate: float
    config: Mapping[str, Any] = field(default_factory=dict)  # of method.config

    def __str__(self) -> str:
        return ", ".join([f"learning rate {self.learning_rate:g}", *(f"{name} {v}" for name, v in self.config.items())])


def candidates(run: RunConfig) -> list[Candidate]:
    """Return every combination of the learning rates and the values of method.config.

    A method that lacks a key of search.config tries more learning rates instead, evenly spaced on a logarithmic scale
    between the lowest and the highest, so that its number of trials is that of the others.
    """
    if not run.search.is_set:
        return []
    axes, rates = run.search.config or {}, learning_rates(run)
    lacking = lacking_keys(run)
    if run.method.traits.estimator:
        return _penalties(run, len(rates) * math.prod(len(axes[name]) for name in lacking))
    if (factor := math.prod(len(axes[name]) for name in lacking)) > 1:
        low, high = (min(rates), max(rates)) if len(rates) > 1 else (rates[0] / SPREAD, rates[0] * SPREAD)
        number = len(rates) * factor
        rates = [float(f"{low * (high / low) ** (step / (number - 1)):.3g}") for step in range(number)]
    own = {name: values for name, values in axes.items() if name not in lacking}
    combinations = [dict(zip(own, values, strict=True)) for values in itertools.product(*own.values())]
    return [Candidate(rate, config) for config in combinations for rate in rates]


def _penalties(run: RunConfig, number: int) -> list[Candidate]:
    """Return candidates of a method without a learning rate, which has the penalty C in its place.

    Without search.config.C, that many values a factor of ten apart, with its own in the middle. With it, the values of
    the grid, or, where others try more rates, more values between the lowest and the highest.
    """
    axes = {name: values for name, values in (run.search.config or {}).items() if name not in lacking_keys(run)}
    if "C" not in axes:
        own = float(run.method.config["C"])
        axes["C"] = [float(f"{own * 10 ** (step - (number - 1) / 2):.3g}") for step in range(number)]
    elif number > 1:
        low, high, count = min(axes["C"]), max(axes["C"]), number * len(axes["C"])
        axes["C"] = [float(f"{low * (high / low) ** (step / (count - 1)):.3g}") for step in range(count)]
    rate = float(run.train["learning_rate"])
    return [Candidate(rate, dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]


def halving_rounds(trials: int, factor: int | None) -> list[tuple[int, float]]:
    """Return for each round the number of trials and their share of the run's budget (Jamieson & Talwalkar 2016).

    Each round keeps one in `factor` trials and gives it `factor` times the budget; the run of the last one left is the
    round that follows. Without a factor every trial has the whole budget; no trials have no round.
    """
    if not trials:
        return []
    if factor is None:
        return [(trials, 1.0)]
    counts = [trials]
    while (left := math.ceil(counts[-1] / factor)) > 1:
        counts.append(left)
    return [(count, float(factor) ** (number - len(counts))) for number, count in enumerate(counts)]


def with_share(run: RunConfig, share: float) -> RunConfig:
    """Return the config of a run that sees a share of the examples: of its epochs, or steps where they are set."""
    steps = int(run.train.get("max_steps") or -1)
    if steps > 0:
        budget: dict[str, Any] = {"max_steps": max(1, round(steps * share))}
    else:
        budget = {"num_train_epochs": float(run.train["num_train_epochs"]) * share}
    return run if share == 1 else replace(run, train={**run.train, **budget})


def learning_rates(run: RunConfig) -> list[float]:
    """Return the learning rates of the grid; multiples are rounded to three digits."""
    own = float(run.train["learning_rate"])
    if run.search.lr_multipliers is not None:
        return [float(f"{own * multiplier:.3g}") for multiplier in run.search.lr_multipliers]
    return [float(rate) for rate in run.search.learning_rates or [own]]


def lacking_keys(run: RunConfig) -> list[str]:
    """Return the keys of search.config that the config of the method does not have."""
    known = fields_of(str(run.method.config.get("_target_"))) or {}
    return [name for name in run.search.config or {} if name not in known]


def with_candidate(run: RunConfig, candidate: Candidate) -> RunConfig:
    """Return the config of a run with the settings of a candidate."""
    method = replace(run.method, config={**run.method.config, **candidate.config})
    return replace(run, method=method, train={**run.train, "learning_rate": candidate.learning_rate})


def extended_grids(run: RunConfig, best: Candidate) -> dict[str, list[Any]]:
    """Return, for each key whose best value is the lowest or the highest of its grid, the grid with one more value."""
    found: dict[str, list[Any] | None] = {}
    name = "lr_multipliers" if run.search.lr_multipliers is not None else "learning_rates"
    if (grid := getattr(run.search, name)) and not run.method.traits.estimator:
        tried = [each.learning_rate for each in candidates(run)]
        ends = {min(tried): min(grid), max(tried): max(grid)}
        found[f"search.{name}"] = _with_next_value(grid, ends.get(best.learning_rate))
    for key, value in best.config.items():
        values = _with_next_value((run.search.config or {}).get(key, []), value)
        found[f"search.config.{key}"] = None if values and "dropout" in key and values[-1] >= 1 else values
    return {key: values for key, values in found.items() if values is not None}


def _with_next_value(grid: Sequence[Any], best: Any) -> list[Any] | None:
    """Return the sorted grid with the value after the best one; None where the best is inside or nothing is beyond it.

    The ratio of the last two values continues, or their distance where the grid has 0.
    """
    values = sorted(set(grid)) if all(type(value) in (int, float) for value in grid) else []
    if len(values) < 2 or best not in (values[0], values[-1]):
        return None
    end, inner = (values[-1], values[-2]) if best == values[-1] else (values[0], values[1])
    new = end * end / inner if values[0] > 0 else 2 * end - inner
    new = round(new) if all(isinstance(value, int) for value in values) else float(f"{new:.3g}")
    return sorted([*values, new]) if new > 0 and new not in values else None
