"""Costs relative to full fine-tuning: time to a given quality, and a composite score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peftkit.leaderboard.entries import BoardEntry

QUALITY = 0.95  # of what full fine-tuning reaches on the rows set apart


def with_quality(rows: Sequence[BoardEntry], reference: BoardEntry | None) -> list[BoardEntry]:
    """Add seconds_to_quality: of training, until a row's chosen trial had 95 % of the reference's last score.

    The curve is the trial's, scored after each epoch on the rows set apart; the seconds are those of the row's own
    training on each machine. A row that never gets there, or has no curve, has none; without a reference the best row
    takes its place.

    Args:
        rows: those of one task, model and training split.
    """
    if not _is_share(rows):
        return list(rows)
    ends = [row.curve[-1][1] for row in ([reference] if reference is not None else rows) if row.curve]
    if not ends or max(ends) <= 0:
        return list(rows)
    level = QUALITY * max(ends)
    found = []
    for row in rows:
        share = next((share for share, score in row.curve if score >= level), None)
        found.append(_add(row, "seconds_to_quality", {d: share and share * c["train_seconds"] for d, c in _timed(row)}))
    return found


def with_pscp(rows: Sequence[BoardEntry], reference: BoardEntry | None) -> list[BoardEntry]:
    """Add pscp: the score, divided by 1 + cost / constant for each of three costs (Belanec et al. 2025, PEFT-Bench).

    The form is the paper's with all exponents 1, the constants are ours, so that they suit a model of any size: the
    model's weights for those that train, and full fine-tuning's latency and peak memory on the same machine. Full
    fine-tuning has an eighth of its score by that; without it there are no constants.
    """
    if reference is None or not _is_share(rows):
        return list(rows)
    found = []
    for row in rows:
        values = {}
        for device, costs in _timed(row):
            full, total = reference.timed.get(device, {}), row.costs.get("total_params")
            pairs = [(row.costs.get("trainable_params"), total)]
            pairs += [(costs.get(name), full.get(name)) for name in ("latency_ms", "train_peak_bytes")]
            value = row.score
            for cost, constant in pairs:
                value = None if value is None or cost is None or not constant else value / (1 + cost / constant)
            values[device] = value
        found.append(_add(row, "pscp", values))
    return found


def _is_share(rows: Sequence[BoardEntry]) -> bool:
    """Tell whether more is better for all of them: an error is no share of anything."""
    return all(all(row.higher_is_better.values()) for row in rows)


def _timed(row: BoardEntry) -> list[tuple[str, dict[str, float]]]:
    return [(device, costs) for device, costs in row.timed.items() if "train_seconds" in costs]


def _add(row: BoardEntry, name: str, values: dict[str, float | None]) -> BoardEntry:
    more = {device: {name: value} for device, value in values.items() if value is not None}
    return replace(row, timed={device: {**costs, **more.get(device, {})} for device, costs in row.timed.items()})
