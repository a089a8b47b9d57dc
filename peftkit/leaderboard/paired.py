"""Paired bootstrap resamples of the scores of a task's entries, from their predictions on the same examples."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from peftkit.leaderboard.contrast import EntrySample, TaskSample, all_pairs
from peftkit.leaderboard.predictions import RunPredictions, in_order, is_list, read_run_predictions
from peftkit.leaderboard.runs import BoardEntry
from peftkit.leaderboard.stats import score_metrics
from peftkit.metrics import METRICS, RECORDED, Metric, import_own_metrics, split_suffix

Array = np.ndarray
MAX_RESAMPLES, MIN_RESAMPLES, MAX_NUMBERS = 1000, 200, 80_000_000  # the last: examples x runs x resamples
CHUNK = 150_000  # weights in a block of resamples, which fits in the CPU's cache
MAX_ALL_PAIRS, MAX_TESTED = 40, 100  # entries tested in all pairs; entries tested at least against the best
SCORE_TOLERANCE = 1e-4  # between a score computed from the predictions and the recorded one
NO_PREDICTIONS, OTHER_EXAMPLES, NOT_REPRODUCED = (
    "no predictions",
    "predictions on other examples",
    "predictions that do not reproduce the recorded score",
)


def sample_of(
    entries: Sequence[BoardEntry],
    limit: int = MAX_ALL_PAIRS,
    most: int = MAX_TESTED,
    baselines: Sequence[BoardEntry] | None = None,
) -> TaskSample:
    """Return a task's entries with their resampled scores, best first; the predictions of a single entry are not read.

    Entries whose metrics differ from those of most are in no pair.

    Args:
        baselines: those with a constant answer. They follow the entries, and after them a score of zero; each entry
            is paired with its baseline, and with zero, which gives the variance of its own score. None: neither.
    """
    first, second = all_pairs(len(entries), limit, most)
    metrics = Counter(tuple(entry.scores) for entry in entries).most_common(1)[0][0]
    has_metrics = np.array([tuple(entry.scores) == metrics for entry in entries])
    pairs = has_metrics[first] & has_metrics[second]
    fixed = [] if baselines is None else [*baselines, None]
    samples = [EntrySample(np.array([*entry.by_seed.values()])) for entry in entries]
    samples += [EntrySample(np.array([each.score if each else 0.0]), is_fixed=True) for each in fixed]
    added = _fixed_pairs(entries[:most], len(entries), fixed)
    first, second = (np.concatenate([ends[pairs], each]) for ends, each in zip((first, second), added, strict=True))
    sample = TaskSample(samples, 0, first, second)
    tested = {n: entry for n, entry in enumerate(entries[:most]) if has_metrics[n]} if len(first) else {}
    runs_of = _predictions_by_entry(tested, metrics, sample)
    if len(runs_of) < (2 if baselines is None else 1):
        return sample
    runs = [run for each in runs_of.values() for run in each]
    labels, splits = runs[0].examples.labels, runs[0].examples.splits
    constant = [constant_predictions(labels, each.answer) for each in baselines or ()]
    predictions = np.stack([*(run.predictions for run in runs), *constant])
    count = int(np.clip(MAX_NUMBERS // predictions.size, MIN_RESAMPLES, MAX_RESAMPLES))
    names = entries[next(iter(runs_of))].scored_runs[0].audit.get("label_names")
    classes = len(names) if names else None
    whole, resampled = scores_by_resample(metrics, labels, predictions, splits, count, classes=classes)
    is_plain = metrics == ("accuracy",) and all(len(entry.by_seed) == 1 for entry in entries)
    start = 0
    counts = {index: len(each) for index, each in runs_of.items()}
    for index, number in (counts | {len(entries) + n: 1 for n in range(len(constant))}).items():
        own = slice(start, start + number)
        start = own.stop
        if np.allclose(whole[own], samples[index].values, rtol=0, atol=SCORE_TOLERANCE):
            right = predictions[own][0] == labels if is_plain else None
            samples[index] = replace(samples[index], resampled=resampled[:, own], right=right)
        elif index < len(entries):
            sample.left_out.setdefault(NOT_REPRODUCED, []).append(entries[index].name)
    if fixed:
        samples[-1] = replace(samples[-1], resampled=np.zeros((len(resampled), 1)))
    return replace(sample, examples=len(labels))


def _fixed_pairs(entries: Sequence[BoardEntry], start: int, fixed: Sequence[BoardEntry | None]) -> tuple[Array, Array]:
    """Return the pairs of each entry with its baseline, and with zero (None), which follow at `start`."""
    pairs = [
        (number, start + place)
        for place, each in enumerate(fixed)
        for number, entry in enumerate(entries)
        if each is None or each.name == entry.constant_baseline
    ]
    first, second = np.array(pairs, int).reshape(-1, 2).T
    return first, second


def constant_predictions(labels: Array, answer: Any) -> Array:
    """Return an answer for each label: a class, a number, a text or a list of classes; or one tag for each word."""
    if not is_list(labels):
        return np.full(len(labels), answer)
    answers = (answer if isinstance(answer, str | list) else [answer] * len(each) for each in labels)
    return np.fromiter(answers, object, len(labels))


def _predictions_by_entry(
    entries: Mapping[int, BoardEntry], metrics: Sequence[str], sample: TaskSample
) -> dict[int, list[RunPredictions]]:
    """Return the predictions by seed of the entries that have all of them, on the examples that most entries have."""
    every = iter(read_run_predictions([run.folder for entry in entries.values() for run in entry.scored_runs]))
    read = {index: list(islice(every, len(entry.scored_runs))) for index, entry in entries.items()}
    complete = _complete_only(read, entries, sample.left_out, NO_PREDICTIONS)
    if not complete:
        return {}
    common = Counter(runs[0].examples.key for runs in complete.values()).most_common(1)[0][0]
    reference = next(runs[0] for runs in complete.values() if runs[0].examples.key == common)
    if not can_resample(metrics, reference):
        sample.not_resampled.extend(metrics)
        return {}
    aligned = {index: [in_order(run, reference) for run in runs] for index, runs in complete.items()}
    return _complete_only(aligned, entries, sample.left_out, OTHER_EXAMPLES)


def _complete_only(
    found: Mapping[int, Sequence[RunPredictions | None]],
    entries: Mapping[int, BoardEntry],
    left_out: dict[str, list[str]],
    reason: str,
) -> dict[int, list[RunPredictions]]:
    """Return the entries with predictions for every seed; add the names of the others to `left_out`."""
    known = {index: [run for run in runs if run is not None] for index, runs in found.items()}
    if incomplete := [entries[index].name for index, runs in found.items() if len(known[index]) < len(runs)]:
        left_out[reason] = incomplete
    return {index: runs for index, runs in known.items() if len(runs) == len(found[index])}


def can_resample(metrics: Sequence[str], run: RunPredictions) -> bool:
    """Return whether all of a task's metrics can be computed from these predictions."""
    resolved = [resolve_metric(name, run.examples.splits) for name in score_metrics(metrics)]
    found, has_lists = [each[0] for each in resolved if each is not None], is_list(run.examples.labels)
    if has_lists:
        is_fitting = all(each.input == "tags" for each in found) or all(map(reads_label_sets, found))
    else:
        is_fitting = all(each.input not in ("tags", "label_sets") for each in found)
    return len(found) == len(resolved) and is_fitting and has_lists == is_list(run.predictions)


def reads_label_sets(metric: Metric) -> bool:
    """Return whether a metric is computed from 0 and 1 for each class."""
    return metric.input == "label_sets" or metric.name == "macro_f1"


def scores_by_resample(
    metrics: Sequence[str],
    labels: Array,
    predictions: Array,
    splits: Array,
    count: int,
    seed: int = 0,
    classes: int | None = None,
) -> tuple[Array, Array]:
    """Return the task's score of every run, and the same over `count` bootstrap resamples of the examples.

    All runs share the resamples, so that their differences are paired (Efron & Tibshirani 1993, chapter 8;
    Berg-Kirkpatrick et al. 2012 for NLP).

    Args:
        metrics: names as in result.json, with the suffix of their split, if any.
        labels, splits: (examples,).
        predictions: (runs, examples).
        classes: the number of the task's classes, where it has any.

    Returns:
        (runs,) and (count, runs), in the units of `task_score`.
    """
    found = [each for name in score_metrics(metrics) if (each := resolve_metric(name, splits)) is not None]
    counted = [each for each in found if each[0].higher_is_better] or found
    sign = 1 if counted[0][0].higher_is_better else -1
    parts = [slice(None) if split is None else np.flatnonzero(splits == split) for _, split in counted]
    if reads_label_sets(counted[0][0]) and is_list(labels):
        labels, predictions = (label_indicators(each, classes or 0) for each in (labels, predictions))
    scorers = [
        metric.scorer(labels[part], predictions[:, part], classes)
        for (metric, _), part in zip(counted, parts, strict=True)
    ]

    def task_scores(weights: Array) -> Array:
        total = sum(scorer(weights[:, part]) for scorer, part in zip(scorers, parts, strict=True))
        return np.asarray(sign * total / len(counted))

    random = np.random.default_rng(seed)
    size = max(1, CHUNK // len(labels))
    blocks = [task_scores(_resamples(len(labels), min(size, count - start), random)) for start in range(0, count, size)]
    return task_scores(np.ones((1, len(labels))))[0], np.concatenate(blocks)


def label_indicators(ids: Array, classes: int) -> Array:
    """Return 0 and 1 for each class (..., classes) from lists of ids (...)."""
    found: Array = np.zeros((*ids.shape, classes), bool)
    for place, each in np.ndenumerate(ids):
        known = [number for number in each if isinstance(number, int | np.integer) and 0 <= number < classes]
        found[place][known] = True
    return found


def _resamples(examples: int, count: int, random: np.random.Generator) -> Array:
    """Return (count, examples): how often each resample contains each example."""
    drawn = random.integers(0, examples, (count, examples)) + examples * np.arange(count)[:, None]
    return np.bincount(drawn.ravel(), minlength=count * examples).reshape(count, examples).astype(float)


def resolve_metric(name: str, splits: Array, inputs: Sequence[str] = RECORDED) -> tuple[Metric, str | None] | None:
    """Return the metric and the split of a recorded name: accuracy_matched is accuracy on validation_matched."""
    import_own_metrics()
    known = {metric.name: metric for metric in METRICS.values() if metric.input in inputs}
    names = sorted(set(splits.tolist()))
    if name in known and len(names) == 1:
        return known[name], None
    plain = {split: name.removesuffix(split_suffix(split, names)) for split in names}
    return next(((known[n], split) for split, n in plain.items() if n != name and n in known), None)
