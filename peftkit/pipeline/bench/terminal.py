"""The table of a bench in the terminal."""

from peftkit.config.bench_variants import PEFTKIT
from peftkit.pipeline.bench.records import BenchResults, Comparison
from peftkit.pipeline.bench.summary import ScoreDifference, Spread, VariantSummary, score_difference, summarize


def show_bench(bench: BenchResults) -> None:
    """Print the variants with their medians, and the paired difference of the scores."""
    print(f"\n{title(bench.comparison)}\n{conditions(bench)}\n")
    print(f"{'':<35}{'examples/s':>11}{'peak':>6}{'peftkit is':>11}{'process':>8}{'1st step':>9}")
    for each in summarize(bench):
        print(_line(each))
    if (difference := score_difference(bench)) is not None:
        print(f"\n{difference_sentence(difference, bench.comparison.metric)}")


def title(comparison: Comparison) -> str:
    commit = f", {comparison.git}" if comparison.git else ""
    return f"{comparison.method} on {comparison.task}, {comparison.model} ({comparison.date}{commit})"


def conditions(bench: BenchResults) -> str:
    """Return what all variants share: data, training and machine."""
    comparison = bench.comparison
    return (
        f"{comparison.examples:,} examples, {counted(comparison.epochs, 'epoch')}, batches of {comparison.batch_size}, "
        f"{comparison.precision}\n{comparison.device}, {counted(bench.probe.threads, 'thread')}"
    )


def counted(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def difference_sentence(difference: ScoreDifference, metric: str) -> str:
    """Return the difference of the scores, with its interval."""
    interval = ""
    if difference.low is not None and difference.high is not None:
        interval = f", 95 % interval {difference.low:+.4f} to {difference.high:+.4f}"
    count = len(difference.differences)
    return (
        f"{metric}, peftkit minus {difference.variant}: {difference.mean:+.4f}{interval} "
        f"({counted(count, 'seed')}, paired)"
    )


def ratio_text(ratio: Spread | None) -> str:
    return "" if ratio is None else f"{ratio.median:.2f} x"


def _line(each: VariantSummary) -> str:
    name = each.variant.replace(f"{PEFTKIT} ", "  ")  # of a means that is switched
    return (
        f"{name:<35}{each.throughput.median:>11,.0f}{each.peak_share:>6.0%}{ratio_text(each.speedup):>11}"
        f"{each.seconds.median:>7.1f}s{each.first_step_seconds.median:>8.1f}s"
    )
