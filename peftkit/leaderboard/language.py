"""Continued pretraining on a board: bits a byte of corpus and general text, tokens a word, downstream gains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean, stdev
from typing import Any

from peftkit.leaderboard.entries import BoardEntry
from peftkit.leaderboard.runs import BoardRun, UnreadableRun

NOTE = (
    "Bits a byte compare across vocabularies; ± is the sample standard deviation over seeds, general text is not the "
    "corpus, pieces and split words are of the held-out text. Before training, a newly initialized head scores by chance. "
    "Downstream: a task's score from the base and from this model, and the gain, ± over pairs of one seed."
)


def language_cells(
    rows: Sequence[BoardEntry], results: Iterable[BoardRun | UnreadableRun], title: str
) -> list[dict[str, str]]:
    """Return a line a row of a board that went on pretraining, fewest bits a byte first; empty where none did."""
    by_folder = {
        result.folder: result.language for result in results if isinstance(result, BoardRun) and result.language
    }
    found = []
    for row in rows:
        told = [by_folder[folder] for folder in row.folders.values() if folder in by_folder]
        if row.board == title and told:
            after = fmean(each["held_out"]["after"] for each in told)
            found.append((after, {"model": row.model, "method": row.name, **_cells(told), "seeds": str(len(told))}))
    return [cells for _, cells in sorted(found, key=lambda pair: pair[0])]


def _cells(told: Sequence[dict[str, Any]]) -> dict[str, str]:
    cells = {
        "bits a byte": _change([each["held_out"] for each in told]),
        "general text": _change([each["general"] for each in told]),
    }
    cut = [each["pieces"] for each in told if each.get("pieces")]
    for heading, name, form in (("pieces a word", "pieces_a_word", ".2f"), ("split words", "split_words", ".1%")):
        ends = [fmean(each[end][name] for each in cut) for end in ("before", "after")] if cut else []
        cells[heading] = " → ".join(format(value, form) for value in ends)
    saved = [1 - each["after"]["tokens"] / each["before"]["tokens"] for each in cut]
    cells["head"] = "newly initialized" if any(each.get("fresh_head") for each in told) else ""
    return cells | {"tokens saved": f"{fmean(saved):.1%}" if saved else "", "downstream": "; ".join(_gains(told))}


def _gains(told: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Say what tasks gained: all seeds of a task that was trained in one way, over all runs of the row."""
    found: dict[str, tuple[str, list[dict[str, float]]]] = {}
    for each in told:
        for name, entry in (each.get("downstream") or {}).items():
            label = f"{entry['task']}, {entry['method']} at {entry['learning_rate']}, {entry['rows']} rows"
            _, pairs = found.setdefault(name, (label, []))
            pairs += entry["seeds"].values()
    for label, pairs in found.values():
        before, after = ([pair[end] for pair in pairs] for end in ("before", "after"))
        gains = [late - early for early, late in zip(before, after, strict=True)]
        spread = f" ± {stdev(gains):.3f}" if len(gains) > 1 else ""
        yield f"{label}: {fmean(before):.3f} → {fmean(after):.3f}, {fmean(gains):+.3f}{spread}"


def _change(pairs: Sequence[dict[str, float]]) -> str:
    before, after = ([pair[end] for pair in pairs] for end in ("before", "after"))
    spread = f" ± {stdev(after):.3f}" if len(after) > 1 else ""
    return f"{fmean(before):.3f} → {fmean(after):.3f}{spread}"
