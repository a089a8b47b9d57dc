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
    """Return the section of the labels of each split, by name; an example may have a list of them, or None if hidden.

    Args:
        fix: the override that weights the labels; empty where there is none, and imbalance is usual.
    """
    counts = {split: _count(found) for split, found in labels.items()}
    total = sum(counts.values(), Counter())
    order = sorted(total, key=lambda label: (-total[label], label))
    rows: list[tuple[Any, ...]] = [
        (label, *(counts[split][label] for split in counts), Share(total[label] / total.total()))
        for label in order[:SHOWN]
    ]
    lines = [f"the {SHOWN} most frequent of {len(order):,} labels"] if len(order) > SHOWN else []
    for split, found in labels.items():
        if hidden := sum(each is None for each in found):
            lines.append(f"{split}: {plural(hidden, 'label')} hidden or missing")
    head, trained = ("label", *counts, "share"), counts[train]
    if not trained:
        return Section("Labels", [], lines, head, rows)
    best, most = trained.most_common(1)[0]
    if not any(isinstance(each, list) for each in labels[train]):
        lines.append(
            f"always answering {best} has an accuracy of {Share(most / trained.total())} and a macro F1 of "
            f"{2 * most / (most + trained.total()) / len(total):.3f} on {train}"
        )
    rare = sorted(total, key=lambda label: (trained[label], label))
    return Section("Labels", _warnings(counts, trained, rare, train, fix), lines, head, rows)


def _count(labels: Sequence[Any]) -> Counter[str]:
    known = (label for label in labels if label is not None)
    return Counter(name for label in known for name in (label if isinstance(label, list) else [label]))


def _warnings(
    counts: Mapping[str, Counter[str]], trained: Counter[str], rare: Sequence[str], train: str, fix: str
) -> list[str]:
    warnings = []
    best, most = trained.most_common(1)[0]
    fewest = next((label for label in rare if trained[label]), best)
    if fix and (ratio := most / trained[fewest]) >= IMBALANCE:
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
