"""Turn predictions and labels into scores: `evaluate.Metric`s that live here and ask no network."""

from __future__ import annotations

import re
import string
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

import datasets
import evaluate
import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from scipy import stats
from seqeval.metrics import f1_score as seqeval_f1
from sklearn import metrics as sklearn_metrics

NO_TAG = "-"  # of a word that got none


class _Score(evaluate.Metric):
    """A metric over rows; `higher_is_better` gives its direction."""

    higher_is_better = True
    prediction: Any = datasets.Value("int64")
    reference: Any = datasets.Value("int64")

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=(self.__doc__ or "").strip(),
            citation="",
            inputs_description="predictions and references, one a row",
            features=datasets.Features({"predictions": self.prediction, "references": self.reference}),
        )

    def _compute(self, predictions: Sequence, references: Sequence) -> dict[str, float]:  # type: ignore[override]
        return {str(self.config_name): float(self.of(references, predictions))}

    def of(self, labels: Any, predictions: Any) -> float:
        raise NotImplementedError(self.name)


class Accuracy(_Score):
    """Share of rows that are right."""

    def of(self, labels: Any, predictions: Any) -> float:
        return sklearn_metrics.accuracy_score(labels, predictions)


class F1(_Score):
    """F1 of class 1, as GLUE reports for MRPC and QQP; the mean over classes where there are more than two."""

    def of(self, labels: Any, predictions: Any) -> float:
        labels, predictions = np.asarray(labels), np.asarray(predictions)
        if not set(np.unique(labels)) | set(np.unique(predictions)) <= {0, 1}:
            return sklearn_metrics.f1_score(labels, predictions, average="macro", zero_division=0)
        return sklearn_metrics.f1_score(labels == 1, predictions == 1, zero_division=0)


class MacroF1(_Score):
    """Mean over classes of each class's F1."""

    def of(self, labels: Any, predictions: Any) -> float:
        return sklearn_metrics.f1_score(labels, predictions, average="macro", zero_division=0)


class MatthewsCorrelation(_Score):
    """Matthews correlation, as GLUE reports for CoLA and AX; 0 where all predictions are one class."""

    def of(self, labels: Any, predictions: Any) -> float:
        if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
            return 0.0
        return sklearn_metrics.matthews_corrcoef(labels, predictions)


class Pearson(_Score):
    """Pearson correlation; 0 where all predictions are one number, for which it is not defined."""

    prediction = reference = datasets.Value("float64")

    def of(self, labels: Any, predictions: Any) -> float:
        return _correlation(stats.pearsonr, labels, predictions)


class Spearman(_Score):
    """Spearman rank correlation; 0 where all predictions are one number, for which it is not defined."""

    prediction = reference = datasets.Value("float64")

    def of(self, labels: Any, predictions: Any) -> float:
        return _correlation(stats.spearmanr, labels, predictions)


class MeanSquaredError(_Score):
    """Mean of the squared differences, in the label's unit squared."""

    prediction = reference = datasets.Value("float64")
    higher_is_better = False

    def of(self, labels: Any, predictions: Any) -> float:
        return sklearn_metrics.mean_squared_error(labels, predictions)


class TokenAccuracy(_Score):
    """Share of words whose tag is right, as universal dependencies report it for parts of speech."""

    prediction = reference = datasets.List(datasets.Value("string"))

    def of(self, labels: Any, predictions: Any) -> float:
        pairs = [pair for row, said in zip(labels, predictions, strict=True) for pair in zip(row, said, strict=True)]
        return sum(label == tag for label, tag in pairs) / len(pairs)


class EntityF1(TokenAccuracy):
    """F1 of whole spans in BIO tags, as CoNLL-2003 counts it (seqeval)."""

    def of(self, labels: Any, predictions: Any) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no span predicted: then it is 0
            spans = [["O" if tag == NO_TAG else tag for tag in row] for row in predictions]
            return float(seqeval_f1(list(labels), spans, zero_division=0))


class ExactMatch(_Score):
    """Share of texts that equal one of their references, articles, case and punctuation aside (SQuAD)."""

    prediction = datasets.Value("string")
    reference = datasets.List(datasets.Value("string"))

    def of(self, labels: Any, predictions: Any) -> float:
        return float(np.mean([_best(self.one, texts, said) for texts, said in zip(labels, predictions, strict=True)]))

    def one(self, label: str, prediction: str) -> float:
        return float(normal(label) == normal(prediction))


class TokenF1(ExactMatch):
    """Mean F1 of the words that a text shares with its best reference (SQuAD, section 6.1)."""

    def one(self, label: str, prediction: str) -> float:
        wanted, said = normal(label).split(), normal(prediction).split()
        if not wanted or not said:
            return float(wanted == said)
        shared = sum((Counter(wanted) & Counter(said)).values())
        return 2 * shared / (len(wanted) + len(said))


class _Words:
    """Take a text apart into words of any script; rouge-score's own knows Latin letters without accents alone."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())


class RougeL(ExactMatch):
    """Mean F1 of the longest common subsequence of words with the best reference (Lin 2004, section 3)."""

    def of(self, labels: Any, predictions: Any) -> float:
        self.scorer = RougeScorer(["rougeL"], tokenizer=_Words())
        return super().of(labels, predictions)

    def one(self, label: str, prediction: str) -> float:
        return float(self.scorer.score(label, prediction)["rougeL"].fmeasure)


class Perplexity(_Score):
    """Exponential of the mean negative log-likelihood of a token; predictions are nats a row, references its tokens."""

    higher_is_better = False
    prediction = datasets.Value("float64")

    def of(self, labels: Any, predictions: Any) -> float:
        return float(np.exp(min(np.sum(predictions) / np.sum(labels), 700.0)))  # beyond it, a float ends


class BitsPerByte(Perplexity):
    """Bits that a byte of text costs, whatever the vocabulary; predictions are nats a row, references its bytes."""

    def of(self, labels: Any, predictions: Any) -> float:
        return float(np.sum(predictions) / np.sum(labels) / np.log(2))


class FormatRate(_Score):
    """Share of answers with the form of their references, 1 among the predictions; references are all 1.

    Such an answer ended by itself, before task.max_target_length, is not empty, and is a number, JSON, a list or one of
    a few labels where all references of its instruction are (peftkit/data/answer_format.py).
    """

    def of(self, labels: Any, predictions: Any) -> float:
        return float(np.mean(np.asarray(predictions) == np.asarray(labels)))


class RecallAt1(_Score):
    """Share of queries whose right document is the first; predictions are its ranks, references the 1 it is to have."""

    depth = 1

    def of(self, labels: Any, predictions: Any) -> float:
        return float(np.mean(np.asarray(predictions) <= self.depth))


class RecallAt5(RecallAt1):
    """Share of queries whose right document is among the first five."""

    depth = 5


class RecallAt10(RecallAt1):
    """Share of queries whose right document is among the first ten."""

    depth = 10


class MeanReciprocalRank(_Score):
    """Mean of one by the rank of the right document (Voorhees 1999)."""

    def of(self, labels: Any, predictions: Any) -> float:
        return float(np.mean(1 / np.asarray(predictions)))


class NDCGAt10(_Score):
    """Mean of 1 / log2(1 + rank) of the one right document, 0 beyond the tenth (Järvelin and Kekäläinen 2002)."""

    def of(self, labels: Any, predictions: Any) -> float:
        ranks = np.asarray(predictions)
        return float(np.mean((ranks <= 10) / np.log2(1 + ranks)))


class RewardAccuracy(_Score):
    """Share of pairs whose chosen answer has the higher implicit reward, a tie counts half; predictions are margins."""

    prediction = reference = datasets.Value("float64")

    def of(self, labels: Any, predictions: Any) -> float:
        return float(np.mean((np.sign(predictions) + 1) / 2))


class RewardMargin(RewardAccuracy):
    """Mean of the chosen answer's implicit reward less the rejected one's (Rafailov et al. 2023, section 4)."""

    def of(self, labels: Any, predictions: Any) -> float:
        return float(np.mean(predictions))


class ChosenPerplexity(Perplexity):
    """Exponential of the mean negative log-likelihood of a chosen answer's token: it may rise while margins grow."""


def normal(text: str) -> str:
    """Return a text without articles, punctuation, case and double spaces, as SQuAD compares them."""
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


METRICS: dict[str, type[_Score]] = {
    "accuracy": Accuracy,
    "f1": F1,
    "macro_f1": MacroF1,
    "matthews_correlation": MatthewsCorrelation,
    "pearson": Pearson,
    "spearman": Spearman,
    "mean_squared_error": MeanSquaredError,
    "token_accuracy": TokenAccuracy,
    "entity_f1": EntityF1,
    "exact_match": ExactMatch,
    "token_f1": TokenF1,
    "rouge_l": RougeL,
    "perplexity": Perplexity,
    "bits_per_byte": BitsPerByte,
    "format_rate": FormatRate,
    "recall_at_1": RecallAt1,
    "recall_at_5": RecallAt5,
    "recall_at_10": RecallAt10,
    "mrr": MeanReciprocalRank,
    "ndcg_at_10": NDCGAt10,
    "reward_accuracy": RewardAccuracy,
    "reward_margin": RewardMargin,
    "chosen_perplexity": ChosenPerplexity,
}


def score(
    names: Sequence[str],
    predictions: Any,
    labels: Any,
    suffix: str = "",
    label_names: list[str] | None = None,
    likelihoods: tuple[np.ndarray, np.ndarray] | None = None,
    in_form: np.ndarray | None = None,
) -> dict[str, dict[str, Any]]:
    """Return {metric: {value, higher_is_better}}; `suffix` tells apart the splits of one task (accuracy_matched).

    Args:
        predictions: (rows,) class ids, numbers, texts, or lists of the tags' ids, -1 for none.
        labels: (rows,), of the same kind; for texts, lists of those that are right, empty where none is.
        label_names: what the ids of tags mean.
        likelihoods: nats (rows,) that the labels cost, and the tokens (rows,) that they have, or the bytes.
        in_form: (rows,), 1 for a text that has the form of its labels, else 0.

    Raises:
        ValueError: there is no metric of that name, no rows, or a prediction that is no number (training diverged).
    """
    if len(labels) == 0:
        raise ValueError("there are no rows to score; the split is empty")
    if any(isinstance(said, (float, np.floating)) and not np.isfinite(said) for said in predictions):
        raise ValueError("a prediction is no finite number: training diverged; try a smaller train.learning_rate=")
    scores = {}
    for name in names:
        if name not in METRICS:
            close = get_close_matches(name, METRICS, n=1) or list(METRICS)
            raise ValueError(f"there is no metric {name}; did you mean {', '.join(close)}?")
        is_likelihood = issubclass(METRICS[name], Perplexity) and likelihoods is not None
        said, right = likelihoods if is_likelihood else (predictions, labels)  # type: ignore[misc]
        if METRICS[name] is FormatRate and in_form is not None:
            said, right = in_form, np.ones_like(in_form)
        if issubclass(METRICS[name], TokenAccuracy):
            said, right = _named(said, label_names or []), _named(right, label_names or [])
        # evaluate makes a folder for every metric, also in memory: not in a home that may be read-only
        with tempfile.TemporaryDirectory() as scratch:
            metric = METRICS[name](config_name=name, keep_in_memory=True, cache_dir=scratch)
            value = metric.compute(predictions=said, references=right)[name]
        scores[name + suffix] = {"value": value, "higher_is_better": metric.higher_is_better}
    return scores


def _named(rows: Any, names: list[str]) -> list[list[str]]:
    """Return tags by their names."""
    return [[NO_TAG if tag < 0 else names[tag] for tag in row] for row in rows]


def _best(of: Callable[[str, str], float], texts: list[str], said: str) -> float:
    return max(of(text, said) for text in texts or [""])


def _correlation(of: Callable[..., Any], labels: np.ndarray, predictions: np.ndarray) -> float:
    if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        return float(of(labels, predictions).statistic)
