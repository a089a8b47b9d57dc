"""Folds are those of scikit-learn, each example is in one of them, and too few examples are refused."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import KFold, StratifiedKFold

from peftkit.config import UserError
from peftkit.data.folds import fold_of


def test_folds_equal_those_of_scikit_learn() -> None:
    labels = ["b"] * 17 + ["a"] * 9 + ["c"] * 5
    rows = np.zeros(31)
    for kind, given in ((StratifiedKFold, labels), (KFold, None)):
        expected = kind(4, shuffle=True, random_state=0).split(rows, given)
        found = [fold_of(31, given, 4, fold, 0) for fold in range(4)]
        assert found == [scored.tolist() for _, scored in expected]
        assert sorted(row for rows_of in found for row in rows_of) == list(range(31))


def test_a_rare_label_is_stated_and_more_folds_than_examples_are_refused() -> None:
    assert len(fold_of(9, ["a"] * 7 + ["b"] * 2, 3, 0, 0)) == 3
    with pytest.raises(UserError, match=r"task.folds=6: every label has fewer examples; use task.folds=5"):
        fold_of(8, ["a"] * 5 + ["b"] * 3, 6, 0, 0)
    with pytest.raises(UserError, match=r"task.folds=4: there are 3 examples; use task.folds=3"):
        fold_of(3, None, 4, 0, 0)
