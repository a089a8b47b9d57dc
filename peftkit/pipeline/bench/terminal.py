"""The table of a bench in the terminal."""

from peftkit.config.bench_variants import PEFTKIT
from peftkit.pipeline.bench.records import BenchResults, Comparison
from peftkit.pipeline.bench.summary import ScoreDifference, Spread, VariantSummary, score_difference, summarize


def show_bench(bench: BenchResults) -> None:
    """Print the variants with their medians, and how peftkit compares with the baseline."""
    print(f"\n{title(bench.comparison)}\n{conditions(bench)}\n")
    print(f"{'':<33}{'examples/s':>11}{'peak':>6}{'peftkit is':>24}{'process':>9}{'1st step':>9}")
    for each in summarize(bench):
        print(_line(each))
    print("", *sentences(bench), sep="\n")


def title(comparison: Comparison) -> str:
    commit = f", {comparison.git}" if comparison.git else ""
    return f"{comparison.method} on {comparison.task}, {comparison.model} ({comparison.date}{commit})"


def conditions(bench: BenchResults) -> str:
    """Return what all variants share: data, training and machine."""
    comparison = bench.comparison
    return (
        f"{comparison.examples:,} examples, {counted(comparison.epochs, 'epoch')}, batches of {comparison.batch_size}, "
        f"{comparison.precision}\n{comparison.device}"
    )


def sentences(bench: BenchResults) -> list[str]:
    """Return how peftkit compares with the baseline, and which attention the bare loop has."""
    found = []
    baseline = next((each for each in summarize(bench) if each.variant == bench.baseline), None)
    if baseline is not None and baseline.speedup and baseline.process_ratio and baseline.first_step_ratio:
        found.append(
            f"peftkit beside {bench.baseline}, {counted(baseline.speedup.count, 'seed')}: trains "
            f"{ratio_text(baseline.speedup)} as fast, takes {ratio_text(baseline.process_ratio)} as long as a whole, "
            f"{ratio_text(baseline.first_step_ratio)} to its first step"
        )
    if (difference := score_difference(bench)) is not None:
        found.append(difference_sentence(difference, bench.comparison.metric))
    timed = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in bench.probe.attention_seconds.items())
    return [*found, f"attention of the loop: {bench.probe.attention} (the same steps with each: {timed})"]


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
    """Return a median with the lowest and the highest, where there are several."""
    if ratio is None:
        return ""
    return f"{ratio.median:.2f} x" + (f" ({ratio.low:.2f} to {ratio.high:.2f})" if ratio.count > 1 else "")


def _line(each: VariantSummary) -> str:
    name = each.variant.replace(f"{PEFTKIT} ", "  ")  # of a means that is switched
    return (
        f"{name:<33}{each.throughput.median:>11,.0f}{each.peak_share:>6.0%}{ratio_text(each.speedup):>24}"
        f"{each.seconds.median:>8.1f}s{each.first_step_seconds.median:>8.1f}s"
    )
