"""Paired bootstrap resamples of the scores of a task's entries, from their predictions on the same examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from peftkit.leaderboard.archive import read_predictions
from peftkit.leaderboard.contrast import Cell, Entry, all_pairs
from peftkit.leaderboard.entries import BoardEntry
from peftkit.leaderboard.stats import counting
from peftkit.metrics import METRICS, RECORDED

Array = np.ndarray
MOST, LEAST, WORK = 1000, 200, 80_000_000  # resamples: at most, at least; examples x runs x resamples at most
CHUNK = 150_000  # numbers in a block of resamples, which fits in the cache
LIMIT, FARTHEST = 40, 100  # entries tested in all pairs; entries tested against the best
CLOSE = 1e-4  # tolerance between a score from the predictions and the recorded one
ABSENT, OTHER, WRONG = (
    "no predictions",
    "predictions on other examples",
    "predictions that do not reproduce the recorded score",
)


@dataclass(frozen=True)
class RunPredictions:
    """The predictions of one run on the examples whose label is known."""

    ids: Array  # (examples,) split and id, as text
    splits: Array
    labels: Array  # numbers, or objects that are lists
    predictions: Array

    @property
    def key(self) -> int:
        """A hash of the examples, independent of their order."""
        return hash(tuple(sorted(zip(self.ids.tolist(), map(str, self.labels.tolist()), strict=True))))


@dataclass
class Notes:
    """Why entries are left out of a test over examples: reason -> entries."""

    left_out: dict[str, list[str]] = field(default_factory=dict)
    not_resampled: list[str] = field(default_factory=list)  # metrics that cannot be resampled


def cell_of(entries: Sequence[BoardEntry], limit: int = LIMIT, most: int = FARTHEST) -> tuple[Cell, Notes]:
    """Return a task's entries with their resampled scores, best first; those of a single entry are not read.

    Entries whose metrics differ from those of most are in no pair.
    """
    first, second = all_pairs(len(entries), limit, most)
    metrics = Counter(tuple(entry.scores) for entry in entries).most_common(1)[0][0]
    alike = np.array([tuple(entry.scores) == metrics for entry in entries])
    alike[most:] = False
    first, second = first[alike[first] & alike[second]], second[alike[first] & alike[second]]
    notes = Notes()
    if not len(first):
        return Cell([Entry(_values(entry), None) for entry in entries], 0, first, second), notes
    predictions_of = _predictions_by_entry(
        [entry if same else None for entry, same in zip(entries, alike, strict=True)], metrics, notes
    )
    if len(predictions_of) < 2:
        return Cell([Entry(_values(entry), None) for entry in entries], 0, first, second), notes
    reference = next(iter(predictions_of.values()))[0]
    runs = [run for each in predictions_of.values() for run in each]
    predictions = _stacked([run.predictions for run in runs])
    count = int(np.clip(WORK // (len(runs) * len(reference.labels)), LEAST, MOST))
    whole, resampled = scores_by_resample(metrics, reference.labels, predictions, reference.splits, count)
    is_plain = metrics == ("accuracy",) and all(len(entry.by_seed) == 1 for entry in entries)
    scores, start = [], 0
    rights: list[Array | None] = []
    for place, entry in enumerate(entries):
        own = slice(start, start + len(predictions_of.get(place, [])))
        start = own.stop
        agrees = place in predictions_of and bool(np.allclose(whole[own], _values(entry), rtol=0, atol=CLOSE))
        if place in predictions_of and not agrees:
            notes.left_out.setdefault(WRONG, []).append(entry.name)
        scores.append(Entry(_values(entry), resampled[:, own] if agrees else None))
        rights.append(predictions[own][0] == reference.labels if agrees and is_plain else None)
    return Cell(scores, len(reference.labels), first, second, rights if is_plain else None), notes


def _predictions_by_entry(
    entries: Sequence[BoardEntry | None], metrics: Sequence[str], notes: Notes
) -> dict[int, list[RunPredictions]]:
    """Return the predictions by seed of the entries that have all of them, on the examples that most entries share."""
    complete: dict[int, list[RunPredictions]] = {}
    for place, entry in enumerate(entries):
        if entry is not None:
            runs = [run for seed in entry.by_seed if (run := read_run_predictions(entry.folders[seed])) is not None]
            if len(runs) == len(entry.by_seed):
                complete[place] = runs
            else:
                notes.left_out.setdefault(ABSENT, []).append(entry.name)
    if not complete:
        return {}
    common = Counter(runs[0].key for runs in complete.values()).most_common(1)[0][0]
    reference = next(runs[0] for runs in complete.values() if runs[0].key == common)
    if not can_resample(metrics, reference):
        notes.not_resampled = list(metrics)
        return {}
    aligned: dict[int, list[RunPredictions]] = {}
    for place, runs in complete.items():
        ordered = [same for run in runs if (same := _in_order(run, reference)) is not None]
        if len(ordered) == len(runs):
            aligned[place] = ordered
        else:
            notes.left_out.setdefault(OTHER, []).append(entries[place].name)  # type: ignore[union-attr]
    return aligned


def _in_order(run: RunPredictions, reference: RunPredictions) -> RunPredictions | None:
    """Return the predictions in the order of the reference; None where examples or labels differ."""
    if len(run.ids) != len(reference.ids) or run.predictions.dtype.kind != reference.predictions.dtype.kind:
        return None
    if not np.array_equal(run.ids, reference.ids):
        mine, its = np.argsort(run.ids, kind="stable"), np.argsort(reference.ids, kind="stable")
        if not np.array_equal(run.ids[mine], reference.ids[its]):
            return None
        order = np.empty_like(mine)
        order[its] = mine
        run = RunPredictions(run.ids[order], run.splits[order], run.labels[order], run.predictions[order])
    same = all(map(np.array_equal, run.labels, reference.labels)) if _is_list(run.labels) else None
    return run if (np.array_equal(run.labels, reference.labels) if same is None else same) else None


def read_run_predictions(folder: Path) -> RunPredictions | None:
    """Return the folder's predictions, or None where there are none that can be read."""
    import pyarrow as pa

    try:
        table = read_predictions(folder)
        if table is None:
            return None
        if table["label"].null_count:
            table = table.filter(table["label"].is_valid())
        splits, ids, labels, predictions = (np.asarray(table[name]) for name in ("split", "id", "label", "prediction"))
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return None
    if set(splits.tolist()) == {"validation"}:
        return RunPredictions(ids.astype(str), splits, labels, predictions)
    return RunPredictions(
        np.char.add(np.char.add(splits.astype(str), "/"), ids.astype(str)), splits, labels, predictions
    )


def can_resample(metrics: Sequence[str], run: RunPredictions) -> bool:
    """Return whether all of a task's metrics can be computed from these predictions."""
    resolved = [_resolve(name, sorted(set(run.splits.tolist()))) for name in counting(metrics)]
    wants_lists = any(each is not None and METRICS[each[0]].input == "tags" for each in resolved)
    return None not in resolved and wants_lists == _is_list(run.labels) == _is_list(run.predictions)


def scores_by_resample(
    metrics: Sequence[str], labels: Array, predictions: Array, splits: Array, count: int, seed: int = 0
) -> tuple[Array, Array]:
    """Return the task's score of every run, and the same over `count` bootstrap resamples of the examples.

    All runs share the resamples, so that their differences are paired (Efron & Tibshirani 1993, chapter 8;
    Berg-Kirkpatrick et al. 2012 for NLP).

    Args:
        metrics: names as in result.json, with the suffix of their split, if any.
        labels, splits: (examples,).
        predictions: (runs, examples).

    Returns:
        (runs,) and (count, runs), in the units of `task_score`.
    """
    found = [(METRICS[name], split) for name, split in _all_resolved(counting(metrics), splits)]
    counted = [each for each in found if each[0].higher_is_better] or found
    sign = 1 if counted[0][0].higher_is_better else -1
    places = [slice(None) if split is None else np.flatnonzero(splits == split) for _, split in counted]
    scorers = [
        metric.function(labels[here], predictions[:, here]) for (metric, _), here in zip(counted, places, strict=True)
    ]

    def task_scores(weights: Array) -> Array:
        total = sum(scorer(weights[:, here]) for scorer, here in zip(scorers, places, strict=True))
        return np.asarray(sign * total / len(counted))

    random, parts, left = np.random.default_rng(seed), [], count
    while left > 0:
        size = min(left, max(1, CHUNK // len(labels)))
        parts.append(task_scores(_resamples(len(labels), size, random)))
        left -= size
    return task_scores(np.ones((1, len(labels))))[0], np.concatenate(parts)


def _resamples(examples: int, count: int, random: np.random.Generator) -> Array:
    """Return (count, examples): how often each resample drew each example."""
    drawn = random.integers(0, examples, (count, examples)) + examples * np.arange(count)[:, None]
    return np.bincount(drawn.ravel(), minlength=count * examples).reshape(count, examples).astype(float)


def _all_resolved(metrics: Sequence[str], splits: Array) -> list[tuple[str, str | None]]:
    names = sorted(set(splits.tolist()))
    return [each for name in metrics if (each := _resolve(name, names)) is not None]


def _resolve(name: str, splits: Sequence[str]) -> tuple[str, str | None] | None:
    """Return the metric and the split of a recorded name: accuracy_matched is accuracy on validation_matched."""
    known = {metric.name for metric in METRICS.values() if metric.input in RECORDED}
    if name in known and len(splits) == 1:
        return name, None
    for split in splits:
        suffix = split.removeprefix("validation")
        if suffix and name.endswith(suffix) and name.removesuffix(suffix) in known:
            return name.removesuffix(suffix), split
    return None


def _values(entry: BoardEntry) -> Array:
    return np.array(list(entry.by_seed.values()))


def _stacked(runs: Sequence[Array]) -> Array:
    if not _is_list(runs[0]):
        return np.stack(runs)
    found: Array = np.empty(
        (len(runs), len(runs[0])), dtype=object
    )  # numpy would make lists of one length another dimension
    for place, run in enumerate(runs):
        found[place, :] = run
    return found


def _is_list(values: Array) -> bool:
    return values.dtype.kind not in "iufb"
