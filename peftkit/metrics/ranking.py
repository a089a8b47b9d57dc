"""Metrics of the rank of the one right document for each query."""

from __future__ import annotations

import numpy as np

from peftkit.metrics.registry import Array, Scorer, mean, metric


@metric("ranks")
def recall_at_1(labels: Array, ranks: Array) -> Scorer:
    """Share of queries whose right document is the first."""
    return mean(ranks <= 1)


@metric("ranks")
def recall_at_5(labels: Array, ranks: Array) -> Scorer:
    """Share of queries whose right document is among the first five."""
    return mean(ranks <= 5)


@metric("ranks")
def recall_at_10(labels: Array, ranks: Array) -> Scorer:
    """Share of queries whose right document is among the first ten."""
    return mean(ranks <= 10)


@metric("ranks")
def mrr(labels: Array, ranks: Array) -> Scorer:
    """Mean reciprocal rank of the right document (Voorhees 1999)."""
    return mean(1 / ranks)


@metric("ranks")
def ndcg_at_10(labels: Array, ranks: Array) -> Scorer:
    """Mean of 1 / log2(1 + rank), 0 beyond the tenth (Järvelin and Kekäläinen 2002)."""
    return mean((ranks <= 10) / np.log2(1 + ranks))
