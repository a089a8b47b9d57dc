"""Metrics of likelihoods: of texts under a model, and of preferences."""

from __future__ import annotations

import numpy as np

from peftkit.metrics.registry import Array, Scorer, mean, metric, ratio

LARGEST_EXPONENT = 700.0  # beyond it, a float overflows


@metric("likelihoods", range=(1, np.inf), higher_is_better=False)
def perplexity(tokens: Array, nats: Array) -> Scorer:
    """Exponential of the mean negative log-likelihood of a token."""
    average = ratio(nats, tokens)
    return lambda weights: np.exp(np.minimum(average(weights), LARGEST_EXPONENT))


@metric("likelihoods", range=(1, np.inf), higher_is_better=False, diagnostic=True)
def chosen_perplexity(tokens: Array, nats: Array) -> Scorer:
    """Perplexity of the chosen answers: it may rise while margins grow."""
    return perplexity(tokens, nats)


@metric("bytes", range=(0, np.inf), higher_is_better=False)
def bits_per_byte(sizes: Array, bits: Array) -> Scorer:
    """Bits for each byte of text, which compares models of different vocabularies."""
    return ratio(bits * sizes, sizes)


@metric("margins")
def reward_accuracy(labels: Array, margins: Array) -> Scorer:
    """Share of pairs whose chosen answer has the higher implicit reward; a tie counts half."""
    return mean((np.sign(margins) + 1) / 2)


@metric("margins", range=(-np.inf, np.inf), diagnostic=True)
def reward_margin(labels: Array, margins: Array) -> Scorer:
    """Mean of the chosen answer's implicit reward less the rejected one's (Rafailov et al. 2023, section 4).

    It grows with every training step, so it is no part of a task's score.
    """
    return mean(margins)
