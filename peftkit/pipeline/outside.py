"""Detectors of texts of another kind than those of a run's task: from its scores, and from its features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from peftkit import training
from peftkit.config import RunConfig, kind_of
from peftkit.metrics.calibration import probabilities
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.encoding import encode
from peftkit.pipeline.evaluate import predictor, scores_and_features

NO_FEATURES = "a prompted model has no head, and the words of a bag have no covariance of a size that can be inverted"


@dataclass(frozen=True)
class TextOutputs:
    """What a run computes of texts: scores (texts, labels), features (texts, dim) if it has any, and their labels."""

    scores: np.ndarray
    features: np.ndarray | None
    labels: Any
    truncated: int


def text_outputs(config: RunConfig, bundle: TrainingBundle, examples: Dataset) -> TextOutputs:
    """Compute the scores and features of examples, in the precision of the run."""
    encoded, trainer, traits = encode(bundle.format, examples), predictor(config, bundle), config.method.traits
    if traits.prompted or traits.reads_words:
        found = training.predict_scores(trainer, encoded.inputs, encoded.lengths).scores
        return TextOutputs(found, None, encoded.labels, encoded.truncated)
    return TextOutputs(*scores_and_features(bundle, trainer, encoded), encoded.labels, encoded.truncated)


def detector_values(
    config: RunConfig, groups: list[TextOutputs], trained_on: TextOutputs | None
) -> dict[str, list[np.ndarray]]:
    """Return by detector the values (texts,) of each group of texts: higher for those that are less like the task's.

    Args:
        trained_on: the training examples; None leaves out the distance.
    """
    several = kind_of(config.task).several_labels
    found = {
        "max_softmax": [1 - _largest_probability(each.scores, several) for each in groups],
        "energy": [energy(each.scores, several) for each in groups],
    }
    if trained_on is not None and trained_on.features is not None:
        labels = np.zeros(len(trained_on.features), int) if several else np.asarray(trained_on.labels)
        distances = ClassDistances.fit(trained_on.features, labels)
        found["mahalanobis"] = [distances(each.features) for each in groups if each.features is not None]
    return found


def _largest_probability(scores: np.ndarray, several: bool) -> np.ndarray:
    return probabilities(scores.astype(float), several_labels=several).max(axis=-1)


def energy(scores: np.ndarray, several: bool = False) -> np.ndarray:
    """Return -log sum exp of scores (texts, labels) (Liu et al. 2020, equation 4, with temperature 1).

    Of several labels it is the sum of the energies of all (Wang et al. 2021, equation 6).
    """
    wide: np.ndarray = scores.astype(float)
    return -np.logaddexp(0, wide).sum(axis=-1) if several else -np.logaddexp.reduce(wide, axis=-1)


@dataclass(frozen=True)
class ClassDistances:
    """Squared Mahalanobis distances from the nearest class mean (Lee et al. 2018, section 2.1).

    Args:
        means: (classes, dim).
        precision: (dim, dim), the inverse of the covariance within the classes, shrunk as in Ledoit and Wolf (2004).
    """

    means: np.ndarray
    precision: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray, labels: np.ndarray) -> ClassDistances:
        """Estimate means and covariance of features (texts, dim) with class ids (texts,)."""
        from sklearn.covariance import LedoitWolf

        wide: np.ndarray = features.astype(float)
        classes, places = np.unique(labels, return_inverse=True)
        means = np.stack([wide[places == number].mean(axis=0) for number in range(len(classes))])
        return cls(means, LedoitWolf(assume_centered=True).fit(wide - means[places]).precision_)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return the distance (texts,) of features (texts, dim)."""
        away = (features - mean for mean in self.means)
        return np.min([((each @ self.precision) * each).sum(axis=-1) for each in away], axis=0)
