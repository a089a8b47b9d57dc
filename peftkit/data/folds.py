"""Folds of cross-validation, by scikit-learn."""

import warnings
from collections import Counter
from collections.abc import Hashable, Sequence

from peftkit.config import UserError, refusal
from peftkit.config.console import assume


def fold_of(examples: int, labels: Sequence[Hashable] | None, folds: int, fold: int, seed: int) -> list[int]:
    """Return the indices of the examples of one fold; with labels, each fold has about their shares.

    Raises:
        UserError: there are fewer examples, or fewer of every label, than folds.
    """
    import numpy as np
    from sklearn.model_selection import KFold, StratifiedKFold

    counts = Counter(labels or ())
    most = min(max(counts.values()) if labels else examples, examples)
    if folds > most:
        of = "every label has fewer examples" if labels else f"there are {examples} examples"
        raise UserError(refusal(f"task.folds={folds}: {of}", f"task.folds={most}" if most > 1 else "~task.folds"))
    if rare := [count for count in counts.values() if count < folds]:
        assume(
            f"!! {len(rare)} of {len(counts)} labels have fewer examples than the {folds} folds: some folds lack them"
        )
    rows, ids = np.zeros(examples), {label: number for number, label in enumerate(counts)}
    splitter = (KFold if labels is None else StratifiedKFold)(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of scikit-learn, about the rare labels
        found = list(splitter.split(rows, None if labels is None else [ids[label] for label in labels]))
    return [int(row) for row in found[fold][1]]
