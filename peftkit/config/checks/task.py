"""Checks of a task against the record of its kind, and the rules of single kinds."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec

from peftkit.config.checks.labels import label_errors, multilabel_errors
from peftkit.config.checks.rules import messages_of
from peftkit.config.errors import refusal
from peftkit.config.jobs import JOBS
from peftkit.config.kinds import ENCODER, KINDS, kind_of
from peftkit.config.metric_names import metric_error
from peftkit.config.run import RunConfig
from peftkit.config.suggestions import nearest, renamed_key
from peftkit.config.templates import parse_template

SPLITS = ("train", "validation")


def task_errors(run: RunConfig) -> list[str]:
    """Return a message for each key of the task that does not fit its kind."""
    task, kind = run.task, kind_of(run.task)
    unknown_metrics = [
        error for name in task.metrics if (error := metric_error(name, kind, run.allow_code or ())) is not None
    ]
    needs_label = kind.unlabeled_metrics and not {*task.metrics} <= {*kind.unlabeled_metrics}
    fewest, most = kind.column_count
    count = f"{fewest}" if most == fewest else f"{fewest} or more" if most is None else f"{fewest} or {most}"
    package, extra = kind.package or ("", "")
    rules = messages_of(
        (
            not unknown_metrics and task.label is None and needs_label,
            refusal(
                f"task.metrics=[{','.join(task.metrics)}] need a label",
                f"task.metrics=[{','.join(kind.unlabeled_metrics)}]",
                "task.label=label",
                verb="set",
            ),
        ),
        (
            len({*task.text}) < len(task.text),
            refusal(
                f"task.text=[{','.join(task.text)}] names a column twice",
                f"task.text=[{','.join(dict.fromkeys(task.text))}]",
            ),
        ),
        (
            task.text and not fewest <= len(task.text) <= (most or len(task.text)),
            refusal(
                f"task.text=[{','.join(task.text)}]: task.kind={kind.name} takes {count} column{'s' * (count != '1')}",
                f"task.text=[{','.join(kind.columns)}]",
            ),
        ),
        (
            package and JOBS[run.job].trains and find_spec(package) is None,
            f"task.kind={kind.name} needs the package {package}; pip install 'peftkit[{extra}]'",
        ),
    )
    return [
        *_split_errors(run), *unknown_metrics, *rules, *label_errors(run), *_key_errors(run),
        *template_errors("task.template", task.template, task.text),
    ]  # fmt: skip


def _key_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for each key of other kinds that is set, and each of this kind that is missing."""
    task, kind = run.task, kind_of(run.task)
    other_keys = {key for other in KINDS.values() for key in other.keys} - {*kind.keys}
    return messages_of(
        *(
            (getattr(task, key), refusal(f"task.{key} is not for task.kind={kind.name}", f"~task.{key}"))
            for key in sorted(other_keys)
        ),
        *(
            (getattr(task, key) is None, refusal(f"task.{key} is not set", f"task.{key}={example}", verb="set"))
            for key, example in kind.needs.items()
        ),
    )


def template_errors(key: str, template: str | None, columns: list[str]) -> list[str]:
    """Return a message for a template that cannot be parsed, or that names other columns."""
    try:
        named = {name for _, name in parse_template(template or "") if name is not None}
    except ValueError as error:
        return [f"{key}: {error}; write {{column}} where a text belongs"]
    return [f"{key}: unknown column {{{name}}}{nearest(name, columns)}" for name in sorted(named - {*columns})]


def _split_errors(run: RunConfig) -> Iterator[str]:
    splits = run.task.splits
    train, held_out = splits.get("train"), splits.get("validation", [])
    return messages_of(
        *(
            (
                name not in SPLITS,
                renamed_key(
                    f"unknown key task.splits.{name}", f"task.splits.{name}", nearest(str(name), SPLITS, "task.splits.")
                ),
            )
            for name in splits
        ),
        *(
            (
                name not in splits,
                refusal(
                    f"task.splits.{name} is not set",
                    f"task.splits.{name}={'train' if name == 'train' else '[validation]'}",
                    verb="set",
                ),
            )
            for name in SPLITS
        ),
        (
            not isinstance(train, (str, type(None))),
            refusal(f"task.splits.train={train}: expected one name", "task.splits.train=train"),
        ),
        (
            not isinstance(held_out, list) or not all(isinstance(name, str) for name in held_out),
            refusal(f"task.splits.validation={held_out}: expected a list of names", "task.splits.validation=[dev]"),
        ),
        (
            JOBS[run.job].trains and train is None and "train" in splits,
            f"task={run.task.name} has no training examples; train on task=mnli, then job=evaluate run=DIR",
        ),
    )


def kind_errors(run: RunConfig) -> list[str]:
    """Return a message for each setting that the kind of the task does not allow."""
    return [message for kind, check in KIND_CHECKS.items() if kind == run.task.kind for message in check(run)]


def _classification(run: RunConfig) -> Iterator[str]:
    return messages_of(
        (
            "f1" in run.task.metrics and run.task.labels is not None and len(run.task.labels) != 2,
            refusal("f1 is for two labels", "task.metrics=[accuracy,macro_f1]", verb="set"),
        )
    )


def _language_modeling(run: RunConfig) -> Iterator[str]:
    task = run.task
    return messages_of(
        (
            task.packing and task.join_documents,
            refusal(
                "task.packing separates documents, task.join_documents joins them",
                "~task.packing",
                "~task.join_documents",
            ),
        ),
        (
            task.whole_words and run.model.family != ENCODER,
            refusal(
                f"task.whole_words is for encoders, and model={run.model.name} is not an encoder", "~task.whole_words"
            ),
        ),
        (
            len(task.splits.get("validation") or []) != 1,
            refusal("task.kind=language_modeling holds out one split", "task.splits.validation=[held_out]", verb="set"),
        ),
        (
            run.train.get("dataloader_persistent_workers"),
            refusal(
                "train.dataloader_persistent_workers would mask the same tokens in every epoch",
                "~train.dataloader_persistent_workers",
            ),
        ),
        (task.template is not None, refusal("task.template is not for task.kind=language_modeling", "~task.template")),
        (task.id is not None, refusal("task.id is not for task.kind=language_modeling", "~task.id")),
    )


def _instructions(run: RunConfig) -> Iterator[str]:
    task = run.task
    return messages_of(
        (
            task.label is None and len(task.text) > 1,
            refusal("columns of instructions need a column of answers", "task.label=output", verb="set"),
        ),
        (
            task.label is not None and "messages" in task.text,
            refusal("a column of messages contains its answers", "~task.label"),
        ),
        (
            task.template is not None,
            refusal(
                "task.template is not for task.kind=instructions, which uses the tokenizer's chat template",
                "~task.template",
            ),
        ),
    )


def _retrieval(run: RunConfig) -> Iterator[str]:
    return messages_of(
        (
            JOBS[run.job].trains and run.train.get("per_device_train_batch_size") == 1 and len(run.task.text) == 2,
            refusal(
                "a batch of one query has no in-batch negatives", "train.per_device_train_batch_size=32", verb="set"
            ),
        )
    )


def _preferences(run: RunConfig) -> Iterator[str]:
    task, method, trains = run.task, run.method, JOBS[run.job].trains
    return messages_of(
        (
            task.loss_type == "robust" and not task.label_smoothing,
            refusal("task.loss_type=robust needs the share of swapped pairs", "task.label_smoothing=0.1", verb="set"),
        ),
        (
            task.loss_type not in ("robust", None) and task.label_smoothing,
            refusal(f"task.loss_type={task.loss_type} ignores task.label_smoothing", "task.loss_type=robust"),
        ),
        (
            trains and method.traits.prompted,
            refusal(f"method={method.name} trains nothing, so it cannot be trained on preferences", "method=lora"),
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


KIND_CHECKS: dict[str, Callable[[RunConfig], Iterator[str]]] = {
    "classification": _classification,
    "instructions": _instructions,
    "language_modeling": _language_modeling,
    "multilabel": multilabel_errors,
    "preferences": _preferences,
    "retrieval": _retrieval,
}
