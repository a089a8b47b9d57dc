"""The range of a task's score, and 95 % intervals inside it."""

import math
from collections.abc import Mapping
from statistics import fmean

from peftkit.leaderboard.stats import score_metrics
from peftkit.metrics import METRICS, Metric
from peftkit.metrics.per_class import Z, wilson_interval
from peftkit.metrics.registry import import_own_metrics

Range = tuple[float, float]


def metric_of(name: str) -> Metric | None:
    """Return the metric of a recorded name such as accuracy_matched; None for one that is not peftkit's."""
    import_own_metrics()
    known = [metric for metric in METRICS if name == metric or name.startswith(f"{metric}_")]
    return METRICS[max(known, key=len)] if known else None


def score_range(higher_is_better: Mapping[str, bool]) -> Range:
    """Return the lowest and the highest possible task score: the mean of the ranges of the metrics in it.

    Args:
        higher_is_better: of each recorded metric. Where none is, the task score is the negative mean of errors.
    """
    counted = score_metrics(higher_is_better)
    up = [name for name in counted if higher_is_better[name]]
    known = [metric_of(name) for name in up or counted]
    low, high = (
        fmean(math.inf * sign if each is None else each.range[end] for each in known) for end, sign in ((0, -1), (1, 1))
    )
    return (low, high) if up else (-high, -low)


def score_interval(mean: float, error: float, limits: Range, examples: int) -> Range | None:
    """Return the 95 % interval of a mean score with a standard error, inside the range of the score.

    In a bounded range it is Wilson's (1927), with the number of independent observations that has this standard error
    (the effective sample size; Korn and Graubard 1998): symmetric in the middle, and never beyond an end. A score at an
    end has no standard error; there the number of observations is that of the examples. With one open end the interval
    is symmetric in the logarithm of the distance from the other end.

    Args:
        error: of the mean, over new seeds and new examples.
        examples: scored ones, 0 if unknown.

    Returns:
        None where the interval cannot be estimated.
    """
    low, high = limits
    if math.isinf(low) and math.isinf(high):
        return mean - Z * error, mean + Z * error
    if math.isinf(low) or math.isinf(high):
        sign, end = (1, low) if math.isinf(high) else (-1, high)
        distance = sign * (mean - end)
        if distance <= 0:
            return None
        factor = math.exp(min(Z * error / distance, 700.0))
        ends = sorted((end + sign * distance / factor, end + sign * distance * factor))
        return ends[0], ends[1]
    share = (mean - low) / (high - low)
    spread = error / (high - low)
    if share * (1 - share) > 1e-12:
        count = share * (1 - share) / max(spread, 1e-12) ** 2
    elif examples:
        count = float(examples)
    else:
        return None
    share = min(max(share, 0.0), 1.0)
    lower, upper = wilson_interval(share, count)
    return low + (high - low) * max(lower, 0.0), low + (high - low) * min(upper, 1.0)
