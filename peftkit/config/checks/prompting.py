"""Turn a typed run into what does not go together where a model is asked as it is, by a prompt."""

from __future__ import annotations

import string

from peftkit.config.jobs import JOBS
from peftkit.config.run import RunConfig, is_prompted
from peftkit.config.suggestions import nearest

CLASSED = ("classification", "regression")
T5_FORMS = ("mnli", "ax")  # tasks that come with a template of their own


def prompting(run: RunConfig) -> list[str]:
    """Return a sentence for each."""
    task, method = run.task, run.method
    given = [name for name in ("prompt", "verbalizer") if getattr(task, name) is not None]
    if run.job == "evaluate":
        return [f"task.{name} is not for job=evaluate, which asks as the run was asked; drop it" for name in given]
    if not JOBS[run.job].trains:
        return []
    if not is_prompted(run):
        return [
            f"task.{name} is for method=zero_shot and method=few_shot, method={method.name} trains; drop it"
            for name in given
        ]
    found, shots = [], method.config.get("shots") or 0
    if isinstance(shots, int) and shots < 0:
        found.append(f"method.config.shots={shots} is wrong: it must be 0 or more; say method.config.shots=4")
    if (method.name, shots > 0) in (("zero_shot", True), ("few_shot", False)):
        other = "few_shot" if shots else "zero_shot"
        found.append(f"method.config.shots={shots} is not for method={method.name}; say method={other}")
    if task.kind == "causal_lm" and task.label is None and shots:
        found.append(f"method={method.name} shows answers: there are none; say task.label=..., or try method=zero_shot")
    if run.vocab is not None:
        found.append(f"vocab= has rows that method={method.name} would not train; try method=lora")
    if run.distill.teacher is not None:
        found.append(f"distill.teacher is for methods that train, method={method.name} does not; try method=full")
    if task.packing:
        found.append(f"task.packing=true is for methods that train, method={method.name} does not; drop it")
    if run.early_stopping.patience is not None:
        found.append(f"early_stopping.patience is for methods that train, method={method.name} does not; drop it")
    if task.kind not in CLASSED:
        if method.config.get("calibrate"):
            found.append(f"method.config.calibrate is for classes and numbers, task={task.name} has none; drop it")
        return found + [f"task.{name} is for classes and numbers; say task.template=..." for name in given]
    if run.model.family == "decoder" and task.template is not None and task.name not in T5_FORMS:
        found.append("task.template is what T5 reads of classes and numbers; say task.prompt=... instead")
    return [*found, *_prompt(run), *_words(run)]


def _prompt(run: RunConfig) -> list[str]:
    if run.task.prompt is None:
        return []
    try:
        columns = {name for _, name, _, _ in string.Formatter().parse(run.task.prompt) if name is not None}
    except ValueError as error:
        return [f"task.prompt cannot be read: {error}; write {{column}} where a text belongs"]
    if not columns:
        example = " ".join(f"{{{name}}}" for name in run.task.text)
        return [f"task.prompt={run.task.prompt!r} asks the same of every row; say task.prompt='{example} ...'"]
    return [
        f"task.prompt: there is no column {{{name}}}{nearest(name, run.task.text)}"
        for name in sorted(columns - {*run.task.text})
    ]


def _words(run: RunConfig) -> list[str]:
    task, words = run.task, run.task.verbalizer
    if words is None:
        if task.kind == "regression" and run.model.family == "decoder" and task.suite != "glue":
            return [
                "task.verbalizer is not set: between which words do numbers lie? Say task.verbalizer={0: No, 5: Yes}"
            ]
        return []
    found = [
        f"task.verbalizer.{label}={word} is no word; write it in quotes: task.verbalizer={{{label}: '{word}'}}"
        for label, word in words.items()
        if not isinstance(word, str) or not word.strip()
    ]
    if task.kind == "regression":
        if len(words) < 2 or not all(_is_number(label) for label in words):
            found.append(
                "task.verbalizer takes two numbers or more, and a word for each; say task.verbalizer={0: No, 5: Yes}"
            )
    elif task.labels is not None:
        found += [
            f"task.verbalizer: there is no label {label}{nearest(str(label), task.labels)}"
            for label in words
            if str(label) not in task.labels
        ]
    return found


def _is_number(label: object) -> bool:
    try:
        return float(str(label)) == float(str(label))
    except ValueError:
        return False
