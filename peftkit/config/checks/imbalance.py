"""Checks of the keys for classes of unequal size: weights, sampling and focal loss."""

from collections.abc import Iterator, Sequence
from typing import Any

from peftkit.config.checks.rules import messages_of
from peftkit.config.errors import Refusal, refusal
from peftkit.config.jobs import JOBS
from peftkit.config.kinds import SEQ2SEQ
from peftkit.config.label_names import boolean_hint, label_name
from peftkit.config.run import RunConfig
from peftkit.config.suggestions import nearest, with_hint

KEYS = ("class_weights", "sampling", "focal_gamma")


def imbalance_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for each combination in which a weight, the sampling or the focal loss would be ignored."""
    task = run.task
    given = [key for key in KEYS if getattr(task, key) is not None]
    if run.job == "evaluate":
        return iter([refusal(f"task.{key} is for training, not for job=evaluate", f"~task.{key}") for key in given])
    if not JOBS[run.job].trains:
        return iter(())
    return messages_of(
        *(rule for key in given if key != "sampling" for rule in _loss_rules(run, f"task.{key}")),
        *_label_rules(run),
        (
            task.class_weights == "balanced" and task.sampling is not None,
            refusal(
                "task.class_weights=balanced and task.sampling=balanced correct the class sizes twice",
                "~task.sampling",
                "~task.class_weights",
            ),
        ),
        (
            task.sampling is not None and run.train.get("train_sampling_strategy") == "sequential",
            refusal(
                f"task.sampling={task.sampling} draws at random, train.train_sampling_strategy=sequential does not",
                "train.train_sampling_strategy=group_by_length",
            ),
        ),
        (
            task.focal_gamma is not None and run.train.get("label_smoothing_factor"),
            refusal(
                "task.focal_gamma and train.label_smoothing_factor exclude each other",
                "~train.label_smoothing_factor",
                "~task.focal_gamma",
            ),
        ),
    )


def _loss_rules(run: RunConfig, key: str) -> Iterator[tuple[object, str]]:
    """Yield the rules of a key that changes the loss of a classification head."""
    yield (
        run.model.family == SEQ2SEQ,
        refusal(
            f"{key} changes the loss of a classification head, and model={run.model.name} generates the label as text",
            "model=t5_encoder",
            f"~{key}",
        ),
    )
    yield (
        run.distill.teacher is not None,
        refusal(f"{key} is for the loss on labels alone, not for distillation", f"~{key}", "~distill.teacher"),
    )
    own = f"the model's own loss, which {key} replaces"
    yield (
        run.method.traits.regularized,
        refusal(f"method={run.method.name} adds a regularizer to {own}", "method=lora", f"~{key}"),
    )


def _label_rules(run: RunConfig) -> Iterator[tuple[object, str]]:
    """Yield a rule for each label with a weight that is not among those of the task."""
    weights, labels = run.task.class_weights, run.task.labels
    if isinstance(weights, dict) and labels is not None:
        names = [*map(label_name, labels)]
        for label in weights:
            yield label_name(label) not in names, unknown_label(label, weights[label], names)


def unknown_label(label: Any, weight: float, names: Sequence[str]) -> Refusal:
    """Return the message about a label of task.class_weights that the task does not have."""
    wrong = f"task.class_weights: unknown label {label}{boolean_hint([label])}"
    return with_hint(wrong, nearest(label_name(label), names, "task.class_weights={", f":{weight:g}}}"))
