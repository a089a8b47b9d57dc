"""Continued pretraining on a board: bits per byte of corpus and general text, tokens per word, downstream gains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean, stdev
from typing import Any

from peftkit.leaderboard.runs import BoardEntry

NOTE = (
    "Bits per byte are comparable across vocabularies; ± is the sample standard deviation over seeds. General text is "
    "not from the corpus; tokens per word and split words are of the held-out text. A newly initialized head scores at "
    "chance before training. Downstream: a task's score from the base and from this model, and the gain, ± over seeds."
)


def language_cells(entries: Sequence[BoardEntry], title: str) -> list[dict[str, str]]:
    """Return a line for each entry of continued pretraining, fewest bits per byte first; empty if a board has none."""
    lines = []
    for entry in entries:
        records = [run.language for run in entry.scored_runs if run.language]
        if entry.board == title and records:
            after = fmean(each["held_out"]["after"] for each in records)
            lines.append(
                (after, {"model": entry.model, "method": entry.name, **_cells(records), "seeds": str(len(records))})
            )
    return [cells for _, cells in sorted(lines, key=lambda pair: pair[0])]


def _cells(records: Sequence[dict[str, Any]]) -> dict[str, str]:
    cells = {
        "bits per byte": _change([each["held_out"] for each in records]),
        "general text": _change([each["general"] for each in records]),
    }
    cut = [each["pieces"] for each in records if each.get("pieces")]
    for heading, name, form in (("tokens per word", "pieces_a_word", ".2f"), ("split words", "split_words", ".1%")):
        ends = [fmean(each[end][name] for each in cut) for end in ("before", "after")] if cut else []
        cells[heading] = " → ".join(format(value, form) for value in ends)
    saved = [1 - each["after"]["tokens"] / each["before"]["tokens"] for each in cut]
    cells["head"] = "newly initialized" if any(each.get("fresh_head") for each in records) else ""
    return cells | {"tokens saved": f"{fmean(saved):.1%}" if saved else "", "downstream": "; ".join(_gains(records))}


def _gains(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Return the downstream gain of each task, over all seeds and runs of the entry."""
    pairs_of: dict[str, tuple[str, list[dict[str, float]]]] = {}
    for each in records:
        for name, entry in (each.get("downstream") or {}).items():
            label = f"{entry['task']}, {entry['method']} at {entry['learning_rate']}, {entry['rows']} examples"
            _, pairs = pairs_of.setdefault(name, (label, []))
            pairs += entry["seeds"].values()
    for label, pairs in pairs_of.values():
        before, after = ([pair[end] for pair in pairs] for end in ("before", "after"))
        gains = [late - early for early, late in zip(before, after, strict=True)]
        spread = f" ± {stdev(gains):.3f}" if len(gains) > 1 else ""
        yield f"{label}: {fmean(before):.3f} → {fmean(after):.3f}, {fmean(gains):+.3f}{spread}"


def _change(pairs: Sequence[dict[str, float]]) -> str:
    before, after = ([pair[end] for pair in pairs] for end in ("before", "after"))
    spread = f" ± {stdev(after):.3f}" if len(after) > 1 else ""
    return f"{fmean(before):.3f} → {fmean(after):.3f}{spread}"
