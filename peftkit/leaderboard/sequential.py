"""Group-sequential seeds: the entries whose place in the verdict is settled before all planned seeds have run.

An entry stops when it is significantly worse than the best entry of its task and differs significantly from full
fine-tuning, both at a level far below that of the verdict (Haybittle 1971; Peto et al. 1976), so that looking early
hardly adds false claims.
"""

from collections.abc import Collection, Sequence

FIRST_LOOK = 3  # seeds before the first look; there is another one after each further seed
LEVEL = 0.01  # of a look, after Holm's correction; that of the verdict is 0.05


def settled(ranked: Sequence[int], reference: int | None, differing: Collection[tuple[int, int]]) -> list[int]:
    """Return the entries of a task that need no further seed.

    Args:
        ranked: the entries, best first.
        reference: full fine-tuning, if it is among them; it always continues, as the best entry does.
        differing: pairs, in either order, that differ at LEVEL.
    """
    anchors = {*ranked[:1], *([] if reference is None else [reference])}
    return [
        entry
        for entry in ranked
        if entry not in anchors and all((entry, a) in differing or (a, entry) in differing for a in anchors)
    ]
