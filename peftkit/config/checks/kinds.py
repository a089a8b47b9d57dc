"""The cross-checks that single kinds of task add to those of their records."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from peftkit.config.checks.rules import broken
from peftkit.config.jobs import JOBS
from peftkit.config.kinds import ENCODER
from peftkit.config.run import RunConfig


def kind_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for each setting that the kind of the task does not allow."""
    if check := CHECKS.get(run.task.kind):
        yield from check(run)


def _classification(run: RunConfig) -> Iterator[str]:
    return broken(
        (
            "f1" in run.task.metrics and run.task.labels is not None and len(run.task.labels) != 2,
            "f1 is for two labels; set task.metrics=[accuracy,macro_f1]",
        )
    )


def _language_modeling(run: RunConfig) -> Iterator[str]:
    task = run.task
    return broken(
        (
            task.packing and task.join_documents,
            "task.packing separates documents, task.join_documents joins them; drop one",
        ),
        (
            task.whole_words and run.model.family != ENCODER,
            f"task.whole_words is for encoders, model={run.model.name} is none; drop it",
        ),
        (
            len(task.splits.get("validation") or []) != 1,
            "task.kind=language_modeling holds out one split; set task.splits.validation=[held_out]",
        ),
        (
            run.train.get("dataloader_persistent_workers"),
            "train.dataloader_persistent_workers would mask the same tokens in every epoch; drop it",
        ),
        (task.template is not None, "task.template is not for task.kind=language_modeling; drop it"),
    )


def _instructions(run: RunConfig) -> Iterator[str]:
    task = run.task
    return broken(
        (
            task.label is None and len(task.text) > 1,
            "columns of instructions need a column of answers; set task.label=output",
        ),
        (
            task.label is not None and "messages" in task.text,
            "a column of messages contains its answers; drop task.label",
        ),
        (
            task.template is not None,
            "task.template is not for task.kind=instructions, which uses the tokenizer's chat template; drop it",
        ),
    )


def _retrieval(run: RunConfig) -> Iterator[str]:
    is_alone = run.train.get("per_device_train_batch_size") == 1 and len(run.task.text) == 2
    return broken(
        (
            JOBS[run.job].trains and is_alone,
            "a batch of one query has no negative document; set train.per_device_train_batch_size=32",
        )
    )


def _preferences(run: RunConfig) -> Iterator[str]:
    task, method, trains = run.task, run.method, JOBS[run.job].trains
    return broken(
        (
            task.loss_type == "robust" and not task.label_smoothing,
            "task.loss_type=robust needs the share of swapped pairs; set task.label_smoothing=0.1",
        ),
        (
            task.loss_type not in ("robust", None) and task.label_smoothing,
            f"task.loss_type={task.loss_type} ignores task.label_smoothing; use task.loss_type=robust",
        ),
        (
            trains and method.traits.prompted,
            f"method={method.name} trains nothing, so it prefers no answer; use method=lora",
        ),
        (
            trains and run.vocab is not None,
            "vocab= is not for task.kind=preferences, whose reference is the model before training; "
            "train with it first, job=merge, and set model.checkpoint=FOLDER",
        ),
        (
            trains and method.traits.lengthens_text,
            f"{method.config['_target_']} shifts the tokens of a text; "
            "use method=prompt, method=p_tuning or method=prefix",
        ),
    )


CHECKS: dict[str, Callable[[RunConfig], Iterator[str]]] = {
    "classification": _classification,
    "instructions": _instructions,
    "language_modeling": _language_modeling,
    "preferences": _preferences,
    "retrieval": _retrieval,
}
