"""How often each label occurs in each split: imbalance, rare labels, and labels of one split alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from peftkit.pipeline.inspection.sections import Section, Share, plural

IMBALANCE = 3.0  # examples of the most frequent label for each of the rarest, from which on it is stated
FEW = 10  # training examples of a label
SHOWN = 30  # labels
NAMED = 5


def label_section(labels: Mapping[str, Sequence[Any]], train: str, fix: str) -> Section:
    """Return the section of the labels by name of each split; None is a hidden label.

    Args:
        fix: the overrides that weight the labels.
    """
    counts = {split: Counter(label for label in found if label is not None) for split, found in labels.items()}
    total = sum(counts.values(), Counter())
    order = sorted(total, key=lambda label: (-total[label], label))
    rows: list[tuple[Any, ...]] = [
        (label, *(counts[split][label] for split in counts), Share(total[label] / total.total()))
        for label in order[:SHOWN]
    ]
    lines = [f"the {SHOWN} most frequent of {len(order):,} labels"] if len(order) > SHOWN else []
    if hidden := {split: number for split in labels if (number := sum(each is None for each in labels[split]))}:
        lines += [f"{split}: {plural(number, 'label')} hidden or missing" for split, number in hidden.items()]
    if not (trained := counts[train]):
        return Section("Labels", [], lines, ("label", *counts, "share"), rows)
    (best, most), rare = trained.most_common(1)[0], sorted(total, key=lambda label: (trained[label], label))
    lines.append(
        f"always answering {best} has an accuracy of {Share(most / trained.total())} and a macro F1 of "
        f"{2 * most / (most + trained.total()) / len(total):.3f} on {train}"
    )
    return Section("Labels", _warnings(counts, trained, rare, train, fix), lines, ("label", *counts, "share"), rows)


def _warnings(
    counts: Mapping[str, Counter[str]], trained: Counter[str], rare: Sequence[str], train: str, fix: str
) -> list[str]:
    warnings = []
    best, most = trained.most_common(1)[0]
    fewest = next((label for label in rare if trained[label]), best)
    if (ratio := most / trained[fewest]) >= IMBALANCE:
        warnings.append(
            f"imbalance: {best} has {ratio:.1f} times as many examples as {fewest}; read macro F1 beside accuracy, and "
            f"weight the labels: {fix}"
        )
    if few := [label for label in rare if 0 < trained[label] < FEW]:
        warnings.append(f"{plural(len(few), 'label')} with fewer than {FEW} examples in {train}: {_named(few)}")
    for split, found in counts.items():
        if split != train and found:
            if unseen := sorted(found.keys() - trained.keys()):
                warnings.append(f"{split} has labels that {train} lacks, which cannot be learned: {_named(unseen)}")
            if missing := sorted(trained.keys() - found.keys()):
                warnings.append(f"{split} has no example of {_named(missing)}: its scores show nothing about them")
    return warnings


def _named(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - NAMED:,} more" if len(labels) > NAMED else ""
    return ", ".join(labels[:NAMED]) + more


def number_section(labels: Mapping[str, Sequence[float | None]]) -> Section:
    """Return the section of the labels of a regression."""
    rows = []
    for split, found in labels.items():
        known = np.array([each for each in found if each is not None], dtype=float)
        if len(known):
            quartiles = (float(each) for each in np.quantile(known, [0, 0.25, 0.5, 0.75, 1]))
            rows.append((split, len(known), *quartiles, float(known.mean()), float(known.std())))
    head = ("split", "labels", "minimum", "25 %", "median", "75 %", "maximum", "mean", "deviation")
    return Section("Labels", [], [], head, rows)
