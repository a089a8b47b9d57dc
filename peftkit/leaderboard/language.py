"""Continued pretraining on a board: bits per byte of corpus and general text, tokens per word, downstream gains."""

from collections.abc import Iterator, Sequence
from statistics import fmean, stdev
from typing import Any

from peftkit.leaderboard.runs import BoardEntry

STAGES = ("before", "after")
NOTE = (
    "Bits per byte are comparable across vocabularies; ± is the sample standard deviation over seeds. General text is "
    "not from the corpus; tokens per word and split words are measured on the held-out text. A newly initialized head "
    "scores at chance before training. Downstream: a task's score from the base and from this model, and the gain, ± "
    "over seeds."
)


def language_cells(entries: Sequence[BoardEntry], title: str) -> list[dict[str, str]]:
    """Return a line for each entry of continued pretraining, fewest bits per byte first; none if a board has none."""
    adapted = [(entry, [run.language for run in entry.scored_runs if run.language]) for entry in entries]
    adapted = [(entry, records) for entry, records in adapted if entry.board == title and records]
    adapted.sort(key=lambda pair: fmean(each["held_out"]["after"] for each in pair[1]))
    return [
        {"model": entry.model, "method": entry.name, **_cells(records), "seeds": str(len(records))}
        for entry, records in adapted
    ]


def _cells(records: Sequence[dict[str, Any]]) -> dict[str, str]:
    bits, general = ([each[text] for each in records] for text in ("held_out", "general"))
    pieces = [each["pieces"] for each in records if each.get("pieces")]
    saved = [1 - each["after"]["tokens"] / each["before"]["tokens"] for each in pieces]
    return {
        "bits per byte": _change(bits) + _spread([each["after"] for each in bits]),
        "general text": _change(general) + _spread([each["after"] for each in general]),
        "tokens per word": _change(
            [{stage: each[stage]["pieces_a_word"] for stage in STAGES} for each in pieces], ".2f"
        ),
        "split words": _change([{stage: each[stage]["split_words"] for stage in STAGES} for each in pieces], ".1%"),
        "head": "newly initialized" if any(each.get("fresh_head") for each in records) else "",
        "tokens saved": f"{fmean(saved):.1%}" if saved else "",
        "downstream": "; ".join(_gains(records)),
    }


def _gains(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Return the downstream gain of each task, over all seeds and runs of the entry."""
    found = [task for each in records for task in (each.get("downstream") or {}).items()]
    for name, first in dict(reversed(found)).items():
        pairs = [pair for other, entry in found if other == name for pair in entry["seeds"].values()]
        gains = [pair["after"] - pair["before"] for pair in pairs]
        label = f"{first['task']}, {first['method']} at {first['learning_rate']}, {first['rows']} examples"
        yield f"{label}: {_change(pairs)}, {fmean(gains):+.3f}{_spread(gains)}"


def _change(pairs: Sequence[dict[str, float]], form: str = ".3f") -> str:
    return " → ".join(format(fmean(pair[stage] for pair in pairs), form) for stage in STAGES) if pairs else ""


def _spread(values: Sequence[float]) -> str:
    return f" ± {stdev(values):.3f}" if len(values) > 1 else ""
