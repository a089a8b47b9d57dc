"""Checks of methods that train nothing and prompt the pretrained model, and of the keys that only they read."""

from collections.abc import Iterator

from peftkit.config.checks.imbalance import KEYS
from peftkit.config.checks.rules import messages_of
from peftkit.config.checks.task import template_errors
from peftkit.config.errors import refusal
from peftkit.config.jobs import JOBS
from peftkit.config.kinds import DECODER, generates_text, kind_of
from peftkit.config.label_names import boolean_hint, label_name
from peftkit.config.run import RunConfig, is_prompted
from peftkit.config.suggestions import nearest

T5_TEMPLATES = ("mnli", "ax")  # tasks whose YAML has a template


def prompting_errors(run: RunConfig) -> list[str]:
    """Return a message for each setting that prompting ignores or lacks, and for its keys with other methods."""
    task, method = run.task, run.method
    given = [name for name in ("prompt", "verbalizer") if getattr(task, name) is not None]
    if run.job == "evaluate":
        return [
            refusal(f"task.{name} is not for job=evaluate, which uses the run's prompt", f"~task.{name}")
            for name in given
        ]
    if not JOBS[run.job].trains:
        return []
    if not is_prompted(run):
        return [
            refusal(
                f"task.{name} is for method=zero_shot and method=few_shot, method={method.name} trains", f"~task.{name}"
            )
            for name in given
        ]
    trained = {
        "vocab": run.vocab, "distill.teacher": run.distill.teacher, "task.packing": task.packing,
        "early_stopping.patience": run.early_stopping.patience, **{f"task.{key}": getattr(task, key) for key in KEYS},
    }  # fmt: skip
    is_labeled = kind_of(task).sequence_label
    example = " ".join(f"{{{name}}}" for name in task.text)
    rules = messages_of(
        *(
            (value, refusal(f"{key} is for methods that train, method={method.name} does not", f"~{key}"))
            for key, value in trained.items()
        ),
        (
            not is_labeled and method.config.get("calibrate"),
            refusal(
                f"method.config.calibrate is for classification and regression, task={task.name} is neither",
                "~method.config.calibrate",
            ),
        ),
        (
            is_labeled and run.model.family == DECODER and task.template is not None and task.name not in T5_TEMPLATES,
            refusal(
                "task.template is the input of T5 for classification and regression; a prompt is task.prompt",
                "~task.template",
            ),
        ),
        (
            is_labeled and task.prompt is not None and "{" not in task.prompt,
            refusal(f"task.prompt={task.prompt!r} contains no column", f"task.prompt='{example}'"),
        ),
    )
    found = [*_shot_errors(run), *_steering_errors(run), *rules]
    if is_labeled:
        found += [*template_errors("task.prompt", task.prompt, task.text), *_verbalizer_errors(run)]
    return found


def _steering_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for a task without two classes, between which a vector is added."""
    if "strength" not in run.method.config:
        return iter(())
    wrong, names = f"method={run.method.name} needs two classes, and task", run.task.labels
    return messages_of(
        (
            not kind_of(run.task).chooses_class,
            refusal(f"{wrong}={run.task.name} has none", "method=zero_shot"),
        ),
        (
            names is not None and len(names) != 2,
            refusal(f"{wrong}.labels has {len(names or [])}", "method=zero_shot"),
        ),
    )


def _shot_errors(run: RunConfig) -> Iterator[str]:
    method, shots = run.method, run.method.config.get("shots") or 0
    if not isinstance(shots, int):  # refused by its type
        return iter(())
    return messages_of(
        (
            shots >= 0 and (method.name, shots > 0) in (("zero_shot", True), ("few_shot", False)),
            refusal(
                f"method.config.shots={shots} is not for method={method.name}",
                f"method={'few_shot' if shots else 'zero_shot'}",
            ),
        ),
        (
            shots and kind_of(run.task).generates and not generates_text(run.task),
            refusal(f"method={method.name} needs answers for its examples", "method=zero_shot", "task.label=label"),
        ),
    )


def _verbalizer_errors(run: RunConfig) -> Iterator[str]:
    task, verbalizer = run.task, run.task.verbalizer
    is_number = task.kind == "regression"
    if verbalizer is None:
        return messages_of(
            (
                is_number and run.model.family == DECODER and task.suite != "glue",
                refusal(
                    "task.verbalizer is not set; it has a text for two numbers or more", "task.verbalizer={0:No,5:Yes}"
                ),
            )
        )
    labels = [label_name(label) for label in (verbalizer if is_number or task.labels is None else task.labels)]
    return messages_of(
        *(
            (
                not isinstance(text, str) or not text.strip(),
                f"task.verbalizer.{label}={text}: expected a text{boolean_hint([text]) or '; put it in quotes'}",
            )
            for label, text in verbalizer.items()
        ),
        *(
            (True, f"task.verbalizer: unknown label {label}{boolean_hint([label]) or nearest(str(label), labels)}")
            for label in verbalizer
            if label_name(label) not in labels
        ),
        (
            is_number and (len(verbalizer) < 2 or not all(_is_number(label) for label in verbalizer)),
            refusal(
                "task.verbalizer: expected two numbers or more, one text per number", "task.verbalizer={0:No,5:Yes}"
            ),
        ),
    )


def _is_number(label: object) -> bool:
    try:
        return float(str(label)) == float(str(label))
    except ValueError:
        return False
