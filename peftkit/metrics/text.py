"""Metrics of texts, each compared with the best of its references, and of a tag for each word."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from peftkit.config.tag_schemes import scheme_of
from peftkit.metrics.registry import NO_TAG, Array, Scorer, mean, metric, ratio
from peftkit.metrics.words import answer_words, rouge_l_scores, text_words

References = Sequence[Sequence[str]]  # of examples; empty for an unanswerable question
Texts = Sequence[Sequence[str]]  # of runs
Tags = Sequence[Sequence]  # of examples


@metric("tags")
def token_accuracy(labels: Tags, predictions: Sequence[Tags]) -> Scorer:
    """Share of words whose tag is correct, as Universal Dependencies reports it for parts of speech."""
    correct = [[sum(np.equal(a, b)) for a, b in zip(labels, run, strict=True)] for run in predictions]
    return ratio(np.array(correct, float), np.array([len(example) for example in labels], float))


@metric("tag_names")
def entity_f1(labels: Tags, predictions: Sequence[Tags]) -> Scorer:
    """F1 of whole spans in the scheme of the labels (IOB1, IOB2, IOE1, IOE2, IOBES or BILOU), strict as in seqeval.

    A tag that its scheme does not allow, such as I-PER after O in IOB2, is part of no span.
    """
    true, *predicted = _spans_of_runs(labels, predictions)
    both = [[2 * len(a & b) for a, b in zip(true, run, strict=True)] for run in predicted]
    total = [[len(a) + len(b) for a, b in zip(true, run, strict=True)] for run in predicted]
    return ratio(np.array(both, float), np.array(total, float))


def span_counts(labels: Tags, predictions: Tags) -> dict[str, tuple[int, int, int]]:
    """Return by type of span how many are labeled, predicted, and both; the spans are those of `entity_f1`."""
    true, predicted = _spans_of_runs(labels, [predictions])
    counts = [
        Counter(kind for sentence in sentences for _, kind, *_ in sentence)
        for sentences in (true, predicted, [a & b for a, b in zip(true, predicted, strict=True)])
    ]
    kinds = sorted({kind for each in counts for kind in each})
    return {kind: (counts[0][kind], counts[1][kind], counts[2][kind]) for kind in kinds}


def _spans_of_runs(labels: Tags, predictions: Sequence[Tags]) -> list[list[set[tuple]]]:
    """Return the spans of each sentence: of the labels, then of the predictions of each run."""
    found = [[["O" if tag in (NO_TAG, None) else tag for tag in example] for example in run] for run in predictions]
    names = {tag for run in (labels, *found) for example in run for tag in example}
    scheme = scheme_of(labels, names) or "IOB2"
    return [_spans(examples, scheme) for examples in (labels, *found)]


def _spans(sentences: Tags, scheme: str) -> list[set[tuple]]:
    """Return the spans of each sentence."""
    from seqeval import scheme as schemes

    found = schemes.Entities([list(tags) for tags in sentences], getattr(schemes, scheme)).entities
    return [{entity.to_tuple() for entity in spans} for spans in found]


@metric("texts")
def exact_match(references: References, texts: Texts) -> Scorer:
    """Share of texts that equal one of their references, ignoring articles, case and punctuation (SQuAD)."""
    return _best(lambda reference, text: answer_words(reference) == answer_words(text), references, texts)


@metric("texts")
def token_f1(references: References, texts: Texts) -> Scorer:
    """Mean F1 of the words that a text shares with its best reference (SQuAD, section 6.1)."""
    return _best(_overlap, references, texts)


def best_token_f1(references: Sequence[str], text: str) -> float:
    """Return the F1 of the words that a text shares with its best reference; without one, with the empty text."""
    return max(_overlap(each, text) for each in references or [""])


def _overlap(reference: str, text: str) -> float:
    expected, words = answer_words(reference), answer_words(text)
    if not expected or not words:
        return float(expected == words)
    return 2 * sum((Counter(expected) & Counter(words)).values()) / (len(expected) + len(words))


@metric("texts")
def rouge_l(references: References, texts: Texts) -> Scorer:
    """Mean F1 of the longest common subsequence of words with the best reference (Lin 2004, section 3)."""
    return _best(lambda known, text: rouge_l_scores(text_words(known), [text_words(text)])[0], references, texts)


@metric("format")
def format_rate(labels: Array, follows_format: Array) -> Scorer:
    """Share of answers with the format of their references.

    Such an answer ended by itself, before task.max_target_length, is not empty, and is a number, JSON, a list or one of
    a few labels where all references of its instruction are (peftkit/data/formats/instructions.py).
    """
    return mean(follows_format == labels)


def _best(of: Callable[[str, str], float], references: References, runs: Texts) -> Scorer:
    pairs = [zip(references, texts, strict=True) for texts in runs]
    return mean(np.array([[max(of(each, text) for each in known or [""]) for known, text in run] for run in pairs]))
