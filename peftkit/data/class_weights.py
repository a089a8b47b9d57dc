"""Weights of the labels in a loss: balanced by their numbers of training examples, or given by name."""

from collections.abc import Sequence

import numpy as np

from peftkit.config import TaskConfig, refuse
from peftkit.config.checks.imbalance import unknown_label
from peftkit.config.label_names import label_name

BALANCED = "balanced"


def class_weights(task: TaskConfig, names: Sequence[str] | None, labels: np.ndarray) -> dict[str, float] | None:
    """Return the weight of each label by its name, None where the task sets none.

    Balanced weights are scikit-learn's `compute_class_weight`: examples / (classes * examples of the class). Of several
    labels for an example, they are the examples without the label / those with it, as torch's BCEWithLogitsLoss
    recommends for its pos_weight. The weight is 1 where one of these numbers is 0.

    Args:
        labels: of the training examples: class ids (examples,), or 0 and 1 for each label (examples, labels).
    """
    if task.class_weights is None or names is None:
        return None
    if task.class_weights != BALANCED:
        return given_weights(task, names)
    if labels.ndim > 1:
        counts = labels.sum(0)
        ratios = np.where(counts * (len(labels) - counts) > 0, (len(labels) - counts) / np.maximum(counts, 1), 1.0)
        return dict(zip(names, map(float, ratios), strict=True))
    from sklearn.utils.class_weight import compute_class_weight  # half a second

    classes = np.unique(labels)
    balanced = dict(zip(classes.tolist(), compute_class_weight(BALANCED, classes=classes, y=labels), strict=True))
    return {name: float(balanced.get(number, 1.0)) for number, name in enumerate(names)}


def given_weights(task: TaskConfig, names: Sequence[str]) -> dict[str, float]:
    """Return the weights of `task.class_weights`, 1 for a label that it does not name.

    Raises:
        UserError: it names a label that the data does not have.
    """
    given = task.class_weights if isinstance(task.class_weights, dict) else {}
    refuse(*((label_name(label) not in names, unknown_label(label, weight, names)) for label, weight in given.items()))
    weights = {label_name(label): float(weight) for label, weight in given.items()}
    return {name: weights.get(name, 1.0) for name in names}
