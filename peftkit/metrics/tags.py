"""Metrics of a tag for each word."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from peftkit.metrics.registry import Scorer, metric, ratio

NO_TAG = "-"  # of a word without a prediction
Tags = Sequence[Sequence]  # of examples


@metric("tags")
def token_accuracy(labels: Tags, predictions: Sequence[Tags]) -> Scorer:
    """Share of words whose tag is right, as Universal Dependencies reports it for parts of speech."""
    right = [[sum(np.equal(a, b)) for a, b in zip(labels, run, strict=True)] for run in predictions]
    return ratio(np.array(right, float), np.array([len(example) for example in labels], float))


@metric("tag_names")
def entity_f1(labels: Tags, predictions: Sequence[Tags]) -> Scorer:
    """F1 of whole spans in BIO tags, as CoNLL-2003 counts them (seqeval)."""
    true = [_spans(example) for example in labels]
    predicted = [[_spans(["O" if tag == NO_TAG else tag for tag in example]) for example in run] for run in predictions]
    both = [[2 * len(a & b) for a, b in zip(true, run, strict=True)] for run in predicted]
    total = [[len(a) + len(b) for a, b in zip(true, run, strict=True)] for run in predicted]
    return ratio(np.array(both, float), np.array(total, float))


def _spans(tags: Sequence[str]) -> set[tuple]:
    from seqeval.metrics.sequence_labeling import get_entities

    return set(get_entities(list(tags)))
