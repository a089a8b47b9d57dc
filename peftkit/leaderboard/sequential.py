"""Group-sequential seeds: the entries whose part of the verdict is settled before all planned seeds have run.

An entry stops when it is significantly worse than the best entry of its task and differs significantly from full
fine-tuning, both at a level below that of the verdict (Haybittle 1971; Peto et al. 1976), so that looking early
hardly adds false claims; tests/benchmarks/sequential.py measures how often.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

FIRST_LOOK = 3  # seeds before the first look; there is another one after each further seed
LEVEL = 0.01  # of a look, after Holm's correction; that of the verdict is 0.05


def settled_runs(folders: Sequence[Path], seeds: int) -> list[Path]:
    """Return the folders of all runs of entries that have this number of seeds and need no further one.

    The folders are those of all entries of a command; the tests are those of their board.
    """
    from peftkit.leaderboard.board import Board
    from peftkit.leaderboard.verdict import rank_tasks

    board = Board.read(folders)
    entries, verdict = board.entries, board.verdict()
    differing = {(each.first, each.second) for each in verdict.comparisons if each.p_holm <= LEVEL}
    found: list[int] = []
    for ranking in rank_tasks(entries, verdict.groups):
        references = [number for number in ranking.ranked if entries[number].is_reference]
        found += settled(ranking.ranked, references, differing)
    return [run.folder for number in found if len(entries[number].seeds) == seeds for run in entries[number].runs]


def settled(ranked: Sequence[int], references: Collection[int], differing: Collection[tuple[int, int]]) -> list[int]:
    """Return the entries of a task that need no further seed.

    Args:
        ranked: the entries, best first.
        references: full fine-tuning, of each model; it always continues, as the best entry does.
        differing: pairs, in either order, that differ at LEVEL.
    """
    anchors = {*ranked[:1], *references}
    return [
        entry
        for entry in ranked
        if entry not in anchors and all((entry, a) in differing or (a, entry) in differing for a in anchors)
    ]
