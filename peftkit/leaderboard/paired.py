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
MOST, LEAST, WORK = 1000, 200, 80_000_000  # resamples, and examples x runs x resamples at most
CHUNK = 150_000  # numbers of a block of resamples, so that it stays in the cache
LIMIT, FARTHEST = 40, 100  # entries tested in all pairs; entries tested against the best
CLOSE = 1e-4  # by which a score from the predictions may miss the recorded one
ABSENT, OTHER, WRONG = "no predictions", "predictions on other examples", "predictions that miss the recorded score"


@dataclass(frozen=True)
class Sheet:
    """The predictions of one run on the examples whose label is known."""

    ids: Array  # (examples,) split and id, as text
    splits: Array
    labels: Array  # numbers, or objects that are lists
    predictions: Array

    @property
    def key(self) -> int:
        """A hash of the examples, whatever their order."""
        return hash(tuple(sorted(zip(self.ids.tolist(), map(str, self.labels.tolist()), strict=True))))


@dataclass
class Notes:
    """Why entries are left out of a test over examples: reason -> entries."""

    left_out: dict[str, list[str]] = field(default_factory=dict)
    no_form: list[str] = field(default_factory=list)  # metrics that cannot be resampled here


def cell_of(rows: Sequence[BoardEntry], limit: int = LIMIT, most: int = FARTHEST) -> tuple[Cell, Notes]:
    """Return a task's entries with their resampled scores, best first; the predictions of a single one stay unread.

    Entries with other metrics than most are in no pair.
    """
    first, second = all_pairs(len(rows), limit, most)
    metrics = Counter(tuple(row.scores) for row in rows).most_common(1)[0][0]
    alike = np.array([tuple(row.scores) == metrics for row in rows])
    alike[most:] = False
    first, second = first[alike[first] & alike[second]], second[alike[first] & alike[second]]
    notes = Notes()
    if not len(first):
        return Cell([Entry(_values(row), None) for row in rows], 0, first, second), notes
    sheets = _sheets([row if same else None for row, same in zip(rows, alike, strict=True)], metrics, notes)
    if len(sheets) < 2:
        return Cell([Entry(_values(row), None) for row in rows], 0, first, second), notes
    reference = next(iter(sheets.values()))[0]
    runs = [sheet for each in sheets.values() for sheet in each]
    predictions = _stacked([sheet.predictions for sheet in runs])
    count = int(np.clip(WORK // (len(runs) * len(reference.labels)), LEAST, MOST))
    whole, resampled = scores_by_resample(metrics, reference.labels, predictions, reference.splits, count)
    is_plain = metrics == ("accuracy",) and all(len(row.by_seed) == 1 for row in rows)
    entries, start = [], 0
    rights: list[Array | None] = []
    for place, row in enumerate(rows):
        here = slice(start, start + len(sheets.get(place, [])))
        start = here.stop
        agrees = place in sheets and bool(np.allclose(whole[here], _values(row), rtol=0, atol=CLOSE))
        if place in sheets and not agrees:
            notes.left_out.setdefault(WRONG, []).append(row.name)
        entries.append(Entry(_values(row), resampled[:, here] if agrees else None))
        rights.append(predictions[here][0] == reference.labels if agrees and is_plain else None)
    return Cell(entries, len(reference.labels), first, second, rights if is_plain else None), notes


def _sheets(rows: Sequence[BoardEntry | None], metrics: Sequence[str], notes: Notes) -> dict[int, list[Sheet]]:
    """Return the predictions of each seed, for entries that have them all on the examples that most entries have."""
    read: dict[int, list[Sheet]] = {}
    for place, row in enumerate(rows):
        if row is not None:
            sheets = [sheet for seed in row.by_seed if (sheet := read_sheet(row.folders[seed])) is not None]
            if len(sheets) == len(row.by_seed):
                read[place] = sheets
            else:
                notes.left_out.setdefault(ABSENT, []).append(row.name)
    if not read:
        return {}
    common = Counter(sheets[0].key for sheets in read.values()).most_common(1)[0][0]
    reference = next(sheets[0] for sheets in read.values() if sheets[0].key == common)
    if not is_weighable(metrics, reference):
        notes.no_form = list(metrics)
        return {}
    found: dict[int, list[Sheet]] = {}
    for place, sheets in read.items():
        ordered = [same for sheet in sheets if (same := _in_order(sheet, reference)) is not None]
        if len(ordered) == len(sheets):
            found[place] = ordered
        else:
            notes.left_out.setdefault(OTHER, []).append(rows[place].name)  # type: ignore[union-attr]
    return found


def _in_order(sheet: Sheet, reference: Sheet) -> Sheet | None:
    """Return the sheet in the reference's order, or None where the examples or their labels are others."""
    if len(sheet.ids) != len(reference.ids) or sheet.predictions.dtype.kind != reference.predictions.dtype.kind:
        return None
    if not np.array_equal(sheet.ids, reference.ids):
        mine, its = np.argsort(sheet.ids, kind="stable"), np.argsort(reference.ids, kind="stable")
        if not np.array_equal(sheet.ids[mine], reference.ids[its]):
            return None
        order = np.empty_like(mine)
        order[its] = mine
        sheet = Sheet(sheet.ids[order], sheet.splits[order], sheet.labels[order], sheet.predictions[order])
    same = all(map(np.array_equal, sheet.labels, reference.labels)) if _is_list(sheet.labels) else None
    return sheet if (np.array_equal(sheet.labels, reference.labels) if same is None else same) else None


def read_sheet(folder: Path) -> Sheet | None:
    """Return the folder's predictions, or None where there are none that can be read."""
    import pyarrow as pa

    try:
        table = read_predictions(folder)
        if table is None:
            return None
        if table["label"].null_count:
            table = table.filter(table["label"].is_valid())
        splits, ids, labels, said = (np.asarray(table[name]) for name in ("split", "id", "label", "prediction"))
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return None
    if set(splits.tolist()) == {"validation"}:
        return Sheet(ids.astype(str), splits, labels, said)
    return Sheet(np.char.add(np.char.add(splits.astype(str), "/"), ids.astype(str)), splits, labels, said)


def is_weighable(metrics: Sequence[str], sheet: Sheet) -> bool:
    """Return whether all of a task's metrics can be computed from these predictions."""
    found = [_resolve(name, sorted(set(sheet.splits.tolist()))) for name in counting(metrics)]
    wants_lists = any(each is not None and METRICS[each[0]].input == "tags" for each in found)
    return None not in found and wants_lists == _is_list(sheet.labels) == _is_list(sheet.predictions)


def scores_by_resample(
    metrics: Sequence[str], labels: Array, predictions: Array, splits: Array, count: int, seed: int = 0
) -> tuple[Array, Array]:
    """Return the task's score of every run, and the same over `count` bootstrap resamples of the examples.

    All runs have the same resamples, so that their differences are paired (Efron & Tibshirani 1993, chapter 8;
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


def _values(row: BoardEntry) -> Array:
    return np.array(list(row.by_seed.values()))


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
