"""The sections of a report that every kind of task has: scores, learning curve, data, settings and costs."""

from __future__ import annotations

import math
import operator
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import yaml

from peftkit.config import kind_of
from peftkit.leaderboard.costs import COSTS
from peftkit.leaderboard.paired import label_indicators
from peftkit.metrics import METRICS, Metric, split_suffix
from peftkit.metrics.per_class import share
from peftkit.pipeline.report.run_data import RunData, Section
from peftkit.results.page import Html, details, element, joined, list_of, paragraph, table
from peftkit.results.page.charts import Point, line_chart

RESAMPLES, MIN_RESAMPLES = 1000, 200  # of scores
MAX_OPERATIONS = 20_000_000  # resamples x examples, or x pairs x classes, so that a report takes less than a second
RESAMPLED = ("classes", "label_sets", "numbers", "tags", "ranks", "margins", "bytes")  # inputs of metrics
NOTABLE_SHARE = 0.05  # of truncated examples or unknown tokens
SHOWN_LABELS, SHOWN_POINTS = 50, 500
RISE = 3.0  # of the training loss from the first to the last point of its curve
CURVE = "Learning curve"


def headline(run: RunData) -> Html:
    """Return what was trained on what, and the scores with their 95 % intervals over validation examples."""
    config, meta, rows = run.config, run.record["meta"], run.audit.get("rows", {})
    sources = run.audit["sources"]
    counts = ", ".join(f"{count:,} {split}" for split, count in rows.items())
    scores = [
        element("div", element("dt", name), element("dd", f"{entry['value']:.3f} ", element("small", interval)))
        for name, entry in run.record["scores"].items()
        for interval in (score_interval(run, name),)
    ]
    note = (
        "Intervals: 95 %, over validation examples, of this one run. Other seeds and other training data add to them."
    )
    return joined(
        [
            paragraph(
                f"{config.method.name} of {sources['model']['name']} on {config.task.name}, "
                f"data {sources['data']['name']}, seed {config.seed}. Examples: {counts}. "
                f"Trained on {meta['device']}, {meta['started'][:10]}."
            ),
            element("dl", *scores, class_="scores") if scores else paragraph("The labels are hidden: no scores."),
            element("p", note, class_="muted") if any(" to " in each for each in scores) else None,
        ]
    )


def score_interval(run: RunData, name: str) -> str:
    """Return the 95 % interval of a score: Wilson's for accuracy, else of bootstrap resamples; empty where unknown."""
    found = _metric_of(run, name)
    if found is None:
        return ""
    metric, chosen = found
    labels: Any
    predictions: Any
    labels, predictions = ([run.columns[column][n] for n in chosen] for column in ("label", "prediction"))
    if metric.name == "accuracy":
        interval = share(sum(map(operator.eq, labels, predictions)), len(labels))
        return f"{interval.low:.3f} to {interval.high:.3f}"
    if kind_of(run.config.task).several_labels:
        labels, predictions = (
            label_indicators(np.fromiter(sets, object, len(sets)), len(run.names)).astype(int)
            for sets in (labels, predictions)
        )
    low, high = resampled_interval(metric, labels, predictions, len(run.names) or None)
    shown = [f"{round(limit, 3) + 0.0:.3f}" for limit in (low, high)]  # without -0.000
    return " to ".join(shown) if low < high and shown[0] != shown[1] else ""


def resampled_interval(
    metric: Metric, labels: Sequence[Any], predictions: Sequence[Any], classes: int | None
) -> tuple[float, float]:
    """Return the 95 % percentile interval of a metric over bootstrap resamples; NaN where they would take long.

    Examples with the same label and prediction are drawn together, by one multinomial: there are few such pairs.
    """
    counts: np.ndarray = np.ones(len(labels), int)
    if metric.input == "classes" and np.ndim(labels) == 1:
        size = 1 + int(np.max([labels, predictions]))
        pairs, counts = np.unique(np.asarray(labels) * size + np.asarray(predictions), return_counts=True)
        labels, predictions = divmod(pairs, size)
    elif metric.input != "tags":
        labels, predictions = np.asarray(labels), np.asarray(predictions)
    resamples = min(RESAMPLES, MAX_OPERATIONS // (len(counts) * (classes or 1)))
    if resamples < MIN_RESAMPLES:
        return math.nan, math.nan
    runs = [predictions] if metric.input == "tags" else np.array([predictions])
    drawn = np.random.default_rng(0).multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    values = metric.scorer(labels, runs, classes)(drawn.astype(float))[:, 0]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _metric_of(run: RunData, name: str) -> tuple[Metric, list[int]] | None:
    """Return the metric of a score and the examples that it is of; None where predictions do not determine it."""
    names = run.columns.get("split", [])
    for split in (splits := dict.fromkeys(names)):
        suffix = split_suffix(split, splits)
        metric = METRICS.get(name.removesuffix(suffix)) if name.endswith(suffix) else None
        if metric is not None and metric.input in RESAMPLED:
            return metric, [n for n, other in enumerate(names) if other == split]
    return None


def common_sections(run: RunData) -> list[Section]:
    # each fold has its own, and a combination was not trained
    curve = [] if run.record.get("cross_validation") or run.record.get("combination") else [_curve(run)]
    return [*curve, _data(run), _settings(run), _costs(run)]


def _curve(run: RunData) -> Section:
    losses = _points(run, "loss")
    scores = _points(run, "eval_score")
    charts = []
    if len(losses) > 1:
        caption = "Mean training loss since the point before."
        charts.append(line_chart("Training loss by step", caption, "step", "training loss", {"loss": losses}))
    if len(scores) > 1:
        caption = "Score on examples held out from training, which chose the epoch."
        charts.append(line_chart("Held-out score by step", caption, "step", "score", {"score": scores}))
    if not charts:
        steps = run.record["costs"].get("steps") or 0
        return Section(
            CURVE,
            [paragraph(f"The log has too few points for a curve of {steps:,} steps; lower train.logging_steps.")],
        )
    return Section(CURVE, [element("div", *charts, class_="plots")], tuple(_rise(run, losses)))


def _rise(run: RunData, losses: Sequence[Point]) -> Iterator[str]:
    """Yield a warning where training made the loss much larger."""
    if len(losses) > 1 and losses[-1][1] > RISE * abs(losses[0][1]):
        rate = float(run.config.train["learning_rate"])
        yield (
            f"The training loss rose from {losses[0][1]:.3g} to {losses[-1][1]:.3g}; "
            f"try train.learning_rate={rate / 10:g}."
        )


def _points(run: RunData, name: str) -> list[Point]:
    """Return the steps and values of a log entry, of more than SHOWN_POINTS an even sample with both ends."""
    logged: list[tuple[Any, Any]] = [(entry.get("step"), entry.get(name)) for entry in run.log]
    points = [(float(x), float(y)) for x, y in logged if _is_number(x) and _is_number(y)]
    chosen = np.linspace(0, len(points) - 1, min(len(points), SHOWN_POINTS)).round().astype(int).tolist()
    return [points[number] for number in chosen]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _data(run: RunData) -> Section:
    audit = run.audit
    headings = ["split", "examples", "dropped", "truncated", "unknown tokens"]
    rows = [
        (
            split,
            f"{count:,}",
            f"{audit.get('dropped', {}).get(split, 0):,}",
            f"{audit.get('truncated', {}).get(split, 0):,}",
            _percent(audit.get("unknown_tokens", {}).get(split)),
        )
        for split, count in audit.get("rows", {}).items()
    ]
    note = f"Dropped: without text or label. Truncated: at {run.config.task.max_length} tokens."
    sources = [
        f"{part}: {source['name']} ({source['kind']}), revision {source.get('revision') or 'unknown'}"
        for part, source in audit["sources"].items()
    ]
    content = [
        table("Examples by split", headings, rows, headings[1:]),
        paragraph(note),
        *_label_counts(run),
        list_of(sources),
    ]
    return Section("Data", content, tuple(_data_warnings(run)))


def _label_counts(run: RunData) -> list[Html]:
    counts: Mapping[str, Mapping[str, Any]] = run.audit.get("label_counts") or {}
    labels = list(dict.fromkeys(label for each in counts.values() for label in each))
    if not labels:
        return []
    rows = [(label, *(_count(each.get(label)) for each in counts.values())) for label in labels[:SHOWN_LABELS]]
    more = f", the first {SHOWN_LABELS} of {len(labels)}" if len(labels) > SHOWN_LABELS else ""
    return [table(f"Labels by split{more}", ["", *counts], rows, list(counts))]


def _data_warnings(run: RunData) -> list[str]:
    audit, found = run.audit, []
    for part, source in audit["sources"].items():
        if source.get("substituted_for"):
            found.append(
                f"{part}: {source['name']} ({source['kind']}) replaces {source['substituted_for']}, "
                "whose scores these are not"
            )
    limit = run.config.task.max_length
    for split, count in audit.get("rows", {}).items():
        truncated, unknown = audit.get("truncated", {}).get(split, 0), audit.get("unknown_tokens", {}).get(split) or 0
        if count and truncated / count >= NOTABLE_SHARE:
            found.append(f"{truncated / count:.0%} of {split} is truncated at {limit} tokens; raise task.max_length")
        if unknown >= NOTABLE_SHARE:
            found.append(f"{unknown:.0%} of the tokens of {split} are unknown to the tokenizer")
    if not run.record["scores"]:
        found.append("no validation example has a label, so nothing was scored")
    return found


def _settings(run: RunData) -> Section:
    config, setup, versions = run.config, run.record["run"].get("setup", {}), run.record["meta"].get("versions", {})
    train = config.train
    search = run.record.get("search") or {}
    rate = f"{train['learning_rate']:g}"
    if search.get("trials"):
        tried = ", ".join(dict.fromkeys(f"{trial['learning_rate']:g}" for trial in search["trials"]))
        rate += f" (the best of {tried}, on {search['rows']} examples held out from training)"
    rows = [
        ("method", config.method.name),
        ("model", f"{config.model.name}, {run.audit['sources']['model']['name']}"),
        ("learning rate", rate),
        ("epochs", f"{train['num_train_epochs']:g}"),
        ("batch size", f"{train['per_device_train_batch_size']}"),
        ("most tokens per example", f"{config.task.max_length}"),
        ("seed", f"{config.seed}"),
        ("precision", str(setup.get("precision", run.record["meta"].get("precision")))),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version)),
    ]
    command = f"python -m peftkit {shlex.join(run.record['run'].get('overrides') or [])}"
    whole = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
    return Section(
        "Settings",
        [
            table("The main settings", ["setting", "value"], rows),
            paragraph("Command:"),
            element("pre", command),
            details("All settings", element("pre", whole)),
        ],
    )


def _costs(run: RunData) -> Section:
    costs = run.record.get("costs") or {}
    rows = [
        (cost.label, f"{costs[name]:.1%}" if cost.unit == "%" else cost.text(costs[name]))
        for name, cost in COSTS.items()
        if costs.get(name) is not None
    ]
    rows += [(name, f"{costs[name]:,.12g}") for name in ("steps", "epochs", "tokens") if costs.get(name) is not None]
    gates = run.record.get("gates") or {}
    checks = [
        f"{name.replace('_', ' ')} {value:.2g}" for name, value in gates.items() if name != "rows" and _is_number(value)
    ]
    verified = (
        f"Verified on {gates.get('rows')} examples after loading it again: {', '.join(checks)}." if checks else None
    )
    return Section(
        "Costs",
        [table("Measured costs", ["cost", "value"], rows, ["value"]), *([paragraph(verified)] if verified else [])],
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _count(value: Any) -> str:
    """Return a number, a text such as the most frequent answer, or the counts of several forms; None is a dash."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_count(number)}" for name, number in value.items())
    if isinstance(value, str):
        return value
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
