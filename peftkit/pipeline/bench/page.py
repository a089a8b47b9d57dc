"""All benches of a folder as one HTML file."""

from collections.abc import Sequence
from pathlib import Path

from peftkit.config.bench_variants import LADDER, VARIANTS
from peftkit.pipeline.bench.records import BenchResults
from peftkit.pipeline.bench.summary import (
    Spread,
    VariantSummary,
    inverse,
    summarize,
)
from peftkit.pipeline.bench.terminal import conditions, counted, sentences, title
from peftkit.results.page import Html, details, element, joined, list_of, page, paragraph, section, table, write_page
from peftkit.results.page.charts import ranked_bars

COLUMNS = (
    "variant", "examples/s", "share of the peak", "peftkit is", "whole process", "processors", "first step",
    "process of peftkit", "score",
)  # fmt: skip
READING = (
    "examples/s: training examples x epochs / seconds of training. Median over the seeds, lowest to highest.",
    "share of the peak: FLOPs of training / (seconds of training x peak). The FLOPs are those of the matrix products "
    "of the forward and backward passes of batches of similar length, counted by torch.utils.flop_counter; the peak "
    "is 2 n^3 / seconds of a product of square matrices of the same precision on this machine.",
    "peftkit is: throughput of peftkit / that of the variant, paired by seed. "
    "process of peftkit: seconds of its whole process / those of the variant.",
    "whole process: from its start to its end, with imports, data, training, evaluation and saving; peftkit's also "
    "verifies what it saved. processors: seconds of all processors. first step: from the start of the process to the "
    "end of the first optimizer step.",
)


def write_bench_page(benches: Sequence[BenchResults], file: Path) -> None:
    write_page(render_benches(benches), file)


def render_benches(benches: Sequence[BenchResults]) -> str:
    """Return the page; all text is escaped."""
    links = (element("a", title(each.comparison), href=f"#{each.comparison.id}") for each in benches)
    return page(
        "The cost of training beside plain scripts",
        element("p", "Written by ", element("code", "python -m peftkit job=bench"), class_="muted"),
        element("nav", *links, aria_label="On this page") if len(benches) > 1 else None,
        *map(_bench_section, benches),
        section("How to read it", list_of([*(f"{each.name}: {each.title}." for each in VARIANTS.values()), *READING])),
    )


def _bench_section(bench: BenchResults) -> Html:
    comparison, summaries = bench.comparison, summarize(bench)
    variants = [each for each in summaries if each.variant in VARIANTS]
    return element(
        "section",
        element("h2", title(comparison)),
        paragraph(f"{conditions(bench)}. Each measurement is a new process; the variants alternate."),
        element("div", *_charts(variants), class_="plots"),
        _variant_table(variants, comparison.metric),
        list_of(sentences(bench)),
        _ladder_table(summaries),
        details("Machine and versions", list_of(_machine(bench))),
        id=comparison.id,
    )


def _charts(variants: Sequence[VariantSummary]) -> list[Html]:
    def bars(name: str) -> dict[str, tuple[float, float, float]]:
        found = {each.variant: getattr(each, name) for each in variants}
        return {variant: (each.median, each.low, each.high) for variant, each in found.items()}

    return [
        ranked_bars("Training speed", "Training, examples a second: more is better.", bars("throughput"), "/s"),
        ranked_bars("Whole process", "Seconds of the whole process: less is better.", bars("seconds"), "s"),
    ]


def _variant_table(variants: Sequence[VariantSummary], metric: str) -> Html:
    headings = [*COLUMNS[:-1], metric]
    rows = [
        [
            each.variant,
            _spread(each.throughput),
            f"{each.peak_share:.0%} ({each.precision})",
            _ratio(each.speedup),
            _spread(each.seconds, " s"),
            _spread(each.cpu_seconds, " s"),
            _spread(each.first_step_seconds, " s"),
            _ratio(each.process_ratio),
            f"{sum(each.scores) / len(each.scores):.4f}",
        ]
        for each in variants
    ]
    counts = sorted({each.throughput.count for each in variants})
    caption = f"Variants: median, lowest to highest of {' or '.join(map(str, counts))} seeds"
    return table(caption, headings, rows, headings[1:])


def _ladder_table(summaries: Sequence[VariantSummary]) -> Html | None:
    """Return what each means gains: throughput with it over that without it, of the same seed."""
    found = {each.variant: each for each in summaries}
    rows = []
    for means in LADDER:
        if (each := found.get(means.variant.name)) is None or each.speedup is None:
            continue
        gain = each.speedup if means.is_default else inverse(each.speedup)
        rows.append([means.name, "on" if means.is_default else "off", _spread(each.throughput), _ratio(gain)])
    headings = ["means", "by default", "examples/s when switched", "gain of the means"]
    return table("Each means of peftkit switched alone", headings, rows, headings[2:]) if rows else None


def _machine(bench: BenchResults) -> list[str]:
    comparison, probe = bench.comparison, bench.probe
    versions = ", ".join(f"{name} {version}" for name, version in comparison.versions.items() if version)
    peaks = ", ".join(f"{name} {value / 1e9:,.0f}" for name, value in sorted(probe.peaks.items()))
    return [
        f"{comparison.device}, PyTorch has {counted(probe.threads, 'thread')}",
        f"commit {comparison.git or 'unknown'}; {versions}",
        f"peak of matrix products, GFLOP/s: {peaks}; training needs {probe.flops / 1e9:,.0f} GFLOP",
        f"data: {comparison.data}, {comparison.validation_examples:,} validation examples",
    ]


def _spread(spread: Spread, unit: str = "") -> Html:
    digits = 0 if spread.median >= 100 else 1
    interval = f"{spread.low:,.{digits}f} to {spread.high:,.{digits}f}"
    return joined([f"{spread.median:,.{digits}f}{unit} ", element("small", interval)])


def _ratio(ratio: Spread | None) -> Html | str:
    if ratio is None:
        return ""
    return joined([f"{ratio.median:.2f} x ", element("small", f"{ratio.low:.2f} to {ratio.high:.2f}")])
