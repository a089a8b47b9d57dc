"""Heads that scikit-learn fits at once, on TF-IDF of words or on features of a frozen model."""

import time
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from peftkit import training
from peftkit.config import RunConfig, UserError, kind_of, refusal
from peftkit.config.progress import stage
from peftkit.data.arrow_columns import arrow_column
from peftkit.data.formats import Encoded
from peftkit.models.bags import SPECIAL
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.evaluate import scores_and_features

MAX_ITERATIONS = 1000  # of lbfgs
ABSENT = 30.0  # how far the score of a class without a training example is below the lowest intercept


class LinearWeights(NamedTuple):
    """Weights (outputs, dim) and intercepts (outputs,)."""

    weight: np.ndarray
    bias: np.ndarray


def fit_estimator(
    config: RunConfig, bundle: TrainingBundle, trainer: Any, encoded: Encoded
) -> training.TrainingSummary:
    """Fit the head of a model on training examples, and set its weights.

    Raises:
        UserError: the head has more than one layer.
    """
    layers = [each for each in bundle.model.modules() if isinstance(each, nn.Linear) and each.weight.requires_grad]
    if len(layers) != 1:
        wrong = f"the head of model={config.model.name} has {len(layers)} layers, of which only the last can be fitted"
        raise UserError(refusal(wrong, "model.pooling=mean", "method=linear_probe", verb="set"))
    (head,), started = layers, time.perf_counter()
    penalty, labels = float(config.method.config["C"]), np.asarray(encoded.labels)
    with training.peak_memory() as peak:
        if config.method.traits.reads_words:
            features = _fit_tfidf(bundle.model, encoded)
            scale = shift = None
        else:
            _, features = scores_and_features(bundle, trainer, encoded)
            features, scale, shift = _standardized(features, head.bias is not None)
        with stage("fitting", len(labels)):
            found = _fit(config, features, labels, penalty, head)
        if scale is not None and shift is not None:
            weight = found.weight / scale
            found = LinearWeights(weight, found.bias - weight @ shift)
        with torch.no_grad():
            head.weight.copy_(torch.as_tensor(found.weight))
            if head.bias is not None:
                head.bias.copy_(torch.as_tensor(found.bias))
        return training.TrainingSummary(time.perf_counter() - started, peak(), None, steps=0, epochs=1.0)


def _fit_tfidf(model: Any, encoded: Encoded) -> Any:
    """Set the inverse document frequencies of a bag of words, and return TF-IDF (examples, words), sparse."""
    import pyarrow.compute as pc
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfTransformer

    ids = arrow_column(encoded.inputs, "input_ids")
    words, starts = pc.list_flatten(ids).to_numpy().copy(), np.concatenate([[0], np.cumsum(encoded.lengths)])
    counts = csr_matrix((words >= len(SPECIAL), words, starts), (len(ids), model.config.vocab_size), dtype=float)
    counts.sum_duplicates()
    counts.eliminate_zeros()
    tfidf = TfidfTransformer().fit(counts)
    with torch.no_grad():
        model.document_weights.copy_(torch.as_tensor(tfidf.idf_))
    return tfidf.transform(counts)


def _standardized(features: np.ndarray, is_centered: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features with variance one, and mean zero where the head has an intercept; also the scale and the mean."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler(with_mean=is_centered).fit(features.astype(float))
    mean = scaler.mean_ if is_centered else np.zeros(features.shape[1])
    return scaler.transform(features.astype(float)), scaler.scale_, mean


def _fit(config: RunConfig, features: Any, labels: np.ndarray, penalty: float, head: nn.Linear) -> LinearWeights:
    """Return the weights of a head (outputs, dim) for labels: class ids, 0 and 1 of each class, or numbers."""
    from sklearn.linear_model import Ridge

    has_bias = head.bias is not None
    if not kind_of(config.task).has_label_names:
        ridge = Ridge(alpha=1 / (2 * penalty), fit_intercept=has_bias).fit(features, labels)
        return LinearWeights(np.reshape(ridge.coef_, (1, -1)), np.reshape(ridge.intercept_, (1,)) * 1.0)
    if labels.ndim == 2:
        parts = [_fit_classes(features, column, 2, penalty, has_bias) for column in labels.T.astype(int)]
        return LinearWeights(
            np.stack([each.weight[1] - each.weight[0] for each in parts]),
            np.stack([each.bias[1] - each.bias[0] for each in parts]),
        )
    return _fit_classes(features, labels, head.out_features, penalty, has_bias)


def _fit_classes(features: Any, labels: np.ndarray, classes: int, penalty: float, has_bias: bool) -> LinearWeights:
    """Return weights whose softmax is that of logistic regression; a class without an example has a low score."""
    from sklearn.linear_model import LogisticRegression

    weight, bias = np.zeros((classes, features.shape[1])), np.zeros(classes)
    known = np.unique(labels)
    if len(known) > 1:
        model = LogisticRegression(C=penalty, fit_intercept=has_bias, max_iter=MAX_ITERATIONS).fit(features, labels)
        coefficients, intercepts = model.coef_, np.reshape(model.intercept_, -1) * np.ones(len(model.coef_))
        if len(known) == 2:  # one row, whose sigmoid is the probability of the second class
            coefficients, intercepts = (np.concatenate([-each / 2, each / 2]) for each in (coefficients, intercepts))
        weight[known], bias[known] = coefficients, intercepts
    absent = np.setdiff1d(np.arange(classes), known)
    bias[absent] = bias[known].min() - ABSENT
    return LinearWeights(weight, bias)
