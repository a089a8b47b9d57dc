"""A split that keeps the shares of the labels, also where some labels have few examples."""

from collections import Counter
from collections.abc import Hashable, Sequence
from math import ceil


def stratified_split(labels: Sequence[Hashable], size: float, seed: int) -> tuple[list[int], list[int]]:
    """Return the indices of the examples to keep, and of a number or a share of them that is held out.

    scikit-learn stratifies the labels of which at least one example is to be held out. One example of each rarer label
    is kept, and their other examples count as one label; a label of a single example is therefore never held out.
    """
    from sklearn.model_selection import train_test_split

    total = len(labels)
    number = ceil(size * total) if size < 1 else int(size)
    counts = Counter(labels)
    strata: list[Hashable] = [label if counts[label] * number >= total else None for label in labels]
    kept = list({label: index for index, label in enumerate(labels) if strata[index] is None}.values())
    reserved = {*kept}
    rare = sum(stratum is None for stratum in strata) - len(reserved)
    if rare * number < total:  # too few for a stratum of their own
        reserved |= {index for index, stratum in enumerate(strata) if stratum is None}
    candidates = [index for index in range(total) if index not in reserved]
    ids = {stratum: number for number, stratum in enumerate(dict.fromkeys(strata))}  # of one type, as numpy sorts
    groups = [ids[strata[index]] for index in candidates]
    if len(candidates) - number < len({*groups}) or number < len({*groups}):
        candidates, groups, reserved = list(range(total)), [], set()
    rest, held_out = train_test_split(candidates, test_size=number, random_state=seed, stratify=groups or None)
    return [*rest, *sorted(reserved)], held_out
