"""What training with other tasks changed: entries of several tasks beside those of the task alone, in words."""

from collections.abc import Sequence

from peftkit.leaderboard.runs import BoardEntry
from peftkit.leaderboard.verdict import Comparison


def transfer_sentences(entries: Sequence[BoardEntry], comparisons: Sequence[Comparison]) -> dict[tuple[str, str], str]:
    """Return for each (board, task) what the tests found between a task that was trained with others and alone.

    Both entries have the same model, method and settings. Negative transfer is a significantly lower score (a higher
    error) than alone.
    """
    found: dict[tuple[str, str], str] = {}
    for together, alone, test in pairs_of(entries, comparisons):
        if test is not None:
            place, is_better = (together.board, together.task), entries[test.first] is together
            found[place] = f"{found.get(place, '')} {_sentence(together, alone, test, is_better)}"
    return found


def pairs_of(
    entries: Sequence[BoardEntry], comparisons: Sequence[Comparison]
) -> list[tuple[BoardEntry, BoardEntry, Comparison | None]]:
    """Return each entry that was trained with other tasks, that of the task alone, and their test, if there is one."""
    tests = {frozenset((each.first, each.second)): each for each in comparisons}
    alone = {_key(entry): number for number, entry in enumerate(entries) if "tasks" not in entry.all_settings}
    pairs = [
        (number, alone[_key(entry)])
        for number, entry in enumerate(entries)
        if "tasks" in entry.all_settings and _key(entry) in alone
    ]
    return [(entries[one], entries[other], tests.get(frozenset((one, other)))) for one, other in pairs]


def _key(entry: BoardEntry) -> tuple:
    """Return what an entry has in common with that of the task alone."""
    settings = {n: v for n, v in entry.all_settings.items() if n != "tasks" and not n.startswith("multitask.")}
    return entry.board, entry.task, entry.model, entry.method, tuple(sorted(settings.items()))


def _sentence(entry: BoardEntry, alone: BoardEntry, test: Comparison, is_better: bool) -> str:
    sign = 1 if is_better else -1
    scale, digits = (100, ".1f") if entry.greater_is_better else (-1, ".3g")  # a score is an error, negated
    low, high = sorted((scale * sign * test.low, scale * sign * test.high))
    unit = " points" if entry.greater_is_better else ""
    numbers = f"{scale * sign * test.difference:+{digits}}{unit} (95 % interval {low:+{digits}} to {high:+{digits}})"
    kind = "No significant transfer" if not test.differs else "Positive transfer" if is_better else "Negative transfer"
    return f"{kind}: {entry.label} against {alone.label} trained on {entry.task} alone, {numbers}."
