"""Checks of task.label, which names no column, one, or of several labels one for each."""

from collections.abc import Iterator

from peftkit.config.checks.rules import messages_of
from peftkit.config.errors import refusal
from peftkit.config.kinds import kind_of, label_columns
from peftkit.config.run import RunConfig


def label_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message about task.label where the kind needs another number of columns, or a text has it too."""
    task, kind = run.task, kind_of(run.task)
    return messages_of(
        (
            task.label is None and kind.label == "required",
            refusal(f"task.label is not set, which task.kind={kind.name} needs", "task.label=label", verb="set"),
        ),
        (
            task.label is not None and kind.label == "no",
            refusal(f"task.label is not for task.kind={kind.name}", "~task.label"),
        ),
        *(
            (
                label in task.text,
                f"task.label={label} is a column of task.text too, so that the text contains the label; drop it there",
            )
            for label in label_columns(task)
        ),
        (
            isinstance(task.label, list) and not kind.several_labels,
            refusal(
                f"task.label=[{','.join(label_columns(task))}]: task.kind={kind.name} takes one column",
                "task=multilabel",
                f"task.label={(label_columns(task) or ['label'])[0]}",
            ),
        ),
    )


def multilabel_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for each setting that several labels for an example do not allow."""
    task, columns = run.task, label_columns(run.task)
    has_columns = isinstance(task.label, list)
    return messages_of(
        (
            has_columns and len({*columns}) < max(2, len(columns)),
            refusal(
                f"task.label=[{','.join(columns)}]: expected two different columns or more",
                f"task=classification task.label={(columns or ['label'])[0]}",
            ),
        ),
        (
            has_columns and task.labels is not None,
            refusal("the columns of task.label are the labels, so that task.labels is not used", "~task.labels"),
        ),
        (
            has_columns and task.label_separator is not None,
            refusal("task.label_separator is for labels in one column", "~task.label_separator", "task.label=labels"),
        ),
        (
            task.label_separator == "",
            refusal("task.label_separator is empty", "task.label_separator='|'"),
        ),
        (
            run.train.get("label_smoothing_factor"),
            refusal(
                "train.label_smoothing_factor spreads probability over classes that exclude each other, which the "
                "labels of task.kind=multilabel do not",
                "~train.label_smoothing_factor",
            ),
        ),
    )
