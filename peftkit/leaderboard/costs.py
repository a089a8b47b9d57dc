"""Costs relative to full fine-tuning: time to a given quality, and a composite score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peftkit.leaderboard.entries import BoardEntry

QUALITY = 0.95  # of the score of full fine-tuning on the held-out training examples


def with_quality(entries: Sequence[BoardEntry], reference: BoardEntry | None) -> list[BoardEntry]:
    """Add seconds_to_quality: training time until the chosen trial scored 95 % of the reference's last score.

    The curve is the trial's, scored after each epoch on held-out training examples; the seconds are those of the
    entry's own training on each machine. It is missing where the level is never reached or there is no curve. Without
    a reference the best entry replaces it.

    Args:
        entries: those of one task, model and training split.
    """
    if not _is_share(entries):
        return list(entries)
    ends = [entry.curve[-1][1] for entry in ([reference] if reference is not None else entries) if entry.curve]
    if not ends or max(ends) <= 0:
        return list(entries)
    level = QUALITY * max(ends)
    result = []
    for entry in entries:
        share = next((share for share, score in entry.curve if score >= level), None)
        result.append(
            _add(entry, "seconds_to_quality", {d: share and share * c["train_seconds"] for d, c in _timed(entry)})
        )
    return result


def with_pscp(entries: Sequence[BoardEntry], reference: BoardEntry | None) -> list[BoardEntry]:
    """Add pscp: the score, divided by 1 + cost / constant for each of three costs (Belanec et al. 2025, PEFT-Bench).

    The formula is the paper's with all exponents 1. The constants are ours, so that they suit a model of any size: all
    parameters of the model for the trained ones, and full fine-tuning's latency and peak memory on the same machine.
    The value of full fine-tuning is therefore an eighth of its score; without it there are no constants.
    """
    if reference is None or not _is_share(entries):
        return list(entries)
    result = []
    for entry in entries:
        values = {}
        for device, costs in _timed(entry):
            full, total = reference.timed.get(device, {}), entry.costs.get("total_params")
            pairs = [(entry.costs.get("trainable_params"), total)]
            pairs += [(costs.get(name), full.get(name)) for name in ("latency_ms", "train_peak_bytes")]
            value = entry.score
            for cost, constant in pairs:
                value = None if value is None or cost is None or not constant else value / (1 + cost / constant)
            values[device] = value
        result.append(_add(entry, "pscp", values))
    return result


def _is_share(entries: Sequence[BoardEntry]) -> bool:
    """Return whether higher is better for all entries: shares of an error are meaningless."""
    return all(all(entry.higher_is_better.values()) for entry in entries)


def _timed(entry: BoardEntry) -> list[tuple[str, dict[str, float]]]:
    return [(device, costs) for device, costs in entry.timed.items() if "train_seconds" in costs]


def _add(entry: BoardEntry, name: str, values: dict[str, float | None]) -> BoardEntry:
    more = {device: {name: value} for device, value in values.items() if value is not None}
    return replace(entry, timed={device: {**costs, **more.get(device, {})} for device, costs in entry.timed.items()})
