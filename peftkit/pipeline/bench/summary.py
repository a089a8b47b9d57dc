"""Medians, ratios to peftkit and paired differences of scores of a bench."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from peftkit.config.bench_variants import LADDER, PEFTKIT, VARIANTS, Variant
from peftkit.pipeline.bench.records import BenchResults, Measurement

LEVEL = 0.95  # of the interval of a difference of scores


@dataclass(frozen=True)
class Spread:
    """The median of repeated measurements, the lowest and the highest."""

    median: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class VariantSummary:
    """A variant over its repetitions, and peftkit in relation to it, paired by seed.

    Args:
        peak_share: FLOPs of training / (seconds of training x peak of the machine in the same precision).
        speedup: throughput of peftkit over that of the variant.
        process_ratio: seconds of peftkit's whole process over those of the variant.
        first_step_ratio: the same until the first step.
    """

    variant: str
    title: str
    precision: str
    throughput: Spread  # examples a second of training
    peak_share: float
    seconds: Spread
    cpu_seconds: Spread
    first_step_seconds: Spread
    scores: list[float]
    speedup: Spread | None
    process_ratio: Spread | None
    first_step_ratio: Spread | None


@dataclass(frozen=True)
class ScoreDifference:
    """The score of peftkit minus that of another variant, paired by seed, with a t interval of the mean."""

    variant: str
    differences: list[float]
    mean: float
    low: float | None  # None of a single seed
    high: float | None


def spread(values: Sequence[float]) -> Spread:
    return Spread(median(values), min(values), max(values), len(values))


def inverse(ratio: Spread) -> Spread:
    return Spread(1 / ratio.median, 1 / ratio.high, 1 / ratio.low, ratio.count)


def summarize(bench: BenchResults) -> list[VariantSummary]:
    """Return a summary of each measured variant, in the order of the variants and of the ladder."""
    known = [*VARIANTS.values(), *(means.variant for means in LADDER)]
    return [_summary(bench, variant) for variant in known if bench.of(variant.name)]


def _summary(bench: BenchResults, variant: Variant) -> VariantSummary:
    comparison, found, base = bench.comparison, bench.of(variant.name), bench.of(PEFTKIT)
    precision = comparison.precision if variant.precision == "auto" else variant.precision
    total = comparison.examples * comparison.epochs
    seconds = spread([each.train_seconds for each in found.values()])
    peak = bench.probe.peaks.get(precision, max(bench.probe.peaks.values()))

    def ratio(value: Callable[[Measurement], float]) -> Spread | None:
        ratios = [value(base[seed]) / value(found[seed]) for seed in found if seed in base]
        return spread(ratios) if ratios and variant.name != PEFTKIT else None

    return VariantSummary(
        variant=variant.name,
        title=variant.title,
        precision=precision,
        throughput=spread([total / each.train_seconds for each in found.values()]),
        peak_share=bench.probe.flops / (seconds.median * peak),
        seconds=spread([each.seconds for each in found.values()]),
        cpu_seconds=spread([each.cpu_seconds for each in found.values()]),
        first_step_seconds=spread([each.first_step_seconds for each in found.values()]),
        scores=[found[seed].score for seed in sorted(found)],
        speedup=ratio(lambda each: 1 / each.train_seconds),
        process_ratio=ratio(lambda each: each.seconds),
        first_step_ratio=ratio(lambda each: each.first_step_seconds),
    )


def score_difference(bench: BenchResults) -> ScoreDifference | None:
    """Return the paired difference of scores of peftkit and the baseline; None where no seed has both."""
    first, second = bench.of(PEFTKIT), bench.of(bench.baseline)
    differences = [first[seed].score - second[seed].score for seed in sorted(first) if seed in second]
    if not differences:
        return None
    mean = sum(differences) / len(differences)
    low, high = _interval(differences)
    return ScoreDifference(bench.baseline, differences, mean, low, high)


def _interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the t interval of the mean."""
    if len(values) < 2:
        return None, None
    if len({*values}) == 1:  # the variance is zero
        return values[0], values[0]
    from scipy.stats import ttest_1samp

    low, high = ttest_1samp(values, 0).confidence_interval(LEVEL)
    return float(low), float(high)


def as_record(bench: BenchResults) -> dict[str, Any]:
    """Return the summaries for the file of a bench."""
    difference = score_difference(bench)
    return {
        "variants": [asdict(each) for each in summarize(bench)],
        "score_difference": None if difference is None else asdict(difference),
    }
