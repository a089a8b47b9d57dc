"""Checks of `task.generation`: names, values and combinations that transformers' GenerationConfig refuses."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from peftkit.config import decoding
from peftkit.config.checks.rules import messages_of
from peftkit.config.checks.run_folders import readable_config
from peftkit.config.checks.values import Found, as_typed, value_of
from peftkit.config.decoding import OF_BEAMS, OF_SAMPLING, GenerationSettings
from peftkit.config.errors import Refusal, refusal
from peftkit.config.jobs import JOBS
from peftkit.config.kinds import generates_text, kind_of
from peftkit.config.run import RunConfig
from peftkit.config.signatures import annotation
from peftkit.config.suggestions import nearest, renamed_key
from peftkit.config.task import TaskConfig

PREFIX = "task.generation."
RENAMED = {"max_length": "max_new_tokens", "min_length": "min_new_tokens"}  # which also count the prompt
OF_PROMPTS = {  # settings that job=generate has for each prompt, or that its seeds for each reply exclude
    **{name: f"use generate.{name}" for name in ("temperature", "top_p", "max_new_tokens")},
    "do_sample": "new instructions are sampled, all else is not",
    "min_new_tokens": "a reply ends where the model ends it",
    **dict.fromkeys(("num_beams", "length_penalty", "early_stopping"), "each reply is sampled with a seed of its own"),
}
RANGES: dict[str, tuple[Callable[[Any], bool], list[str]]] = {  # by what is expected
    "a number above 0": (
        lambda value: value > 0,
        ["max_new_tokens", "num_beams", "temperature", "repetition_penalty", "encoder_repetition_penalty"],
    ),
    "a number above 0, at most 1": (lambda value: 0 < value <= 1, ["top_p", "top_h", "typical_p"]),
    "a number from 0 to 1": (lambda value: 0 <= value <= 1, ["min_p"]),
    "0 or more, below 1": (lambda value: 0 <= value < 1, ["epsilon_cutoff", "eta_cutoff"]),
    "0 or more": (
        lambda value: value >= 0,
        ["min_new_tokens", "top_k", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"],
    ),
}


def decoding_setting_errors(config: Mapping[str, Any]) -> Iterator[Found]:
    """Yield a message for each wrong setting of `task.generation` and `generate.generation`."""
    yield from generation_setting_errors(value_of(config, "task.generation"))
    prefix, chosen = "generate.generation.", value_of(config, "generate.generation")
    if not isinstance(chosen, Mapping):
        return
    for name in (name for name in chosen if name in OF_PROMPTS):
        yield f"{prefix}{name}", refusal(f"{prefix}{name}: {OF_PROMPTS[name]}", f"~{prefix}{name}")
    others = {name: value for name, value in chosen.items() if name not in OF_PROMPTS}
    yield from generation_setting_errors({**others, "do_sample": True}, prefix)


def generation_setting_errors(values: Any, prefix: str = PREFIX) -> Iterator[Found]:
    """Yield a message for each setting that is unknown, has a value that it does not take, or would have no effect.

    Args:
        values: the settings, from a config; anything other than a mapping has a message already.
        prefix: of the settings' names, as typed.
    """
    if not isinstance(values, Mapping):
        return
    fields = {field.name: str(field.type) for field in dataclasses.fields(GenerationSettings)}
    wrong = False
    for name, value in values.items():
        key, message = f"{prefix}{name}", None
        if name not in fields:
            message = _unknown(name, fields, prefix)
        elif (expected := annotation(fields[name], decoding.__name__).refuses(value)) is not None:
            message = f"{key}={as_typed(value)}: expected {expected}"
        elif value is not None and (expected := _expected(name, value)) is not None:
            message = refusal(f"{key}={as_typed(value)}: expected {expected}", f"~{key}")
        if message is not None:
            wrong = True
            yield key, message
    if not wrong:
        yield from _without_effect(values, prefix)


def _expected(name: str, value: Any) -> str | None:
    """Return what a setting takes, where this value is out of its range."""
    rules = ((expected, holds) for expected, (holds, names) in RANGES.items() if name in names)
    return next((expected for expected, holds in rules if not holds(value)), None)


def _unknown(name: str, known: Mapping[str, Any], prefix: str) -> str:
    key = f"{prefix}{name}"
    if name in RENAMED:
        new = f"{prefix}{RENAMED[name]}"
        return Refusal(f"{key} would count the tokens of the prompt too; use {new}", f"{key}->{new}")
    if name == "num_return_sequences":
        return refusal(f"{key}: an example has one prediction", f"~{key}")
    wrong = f"{key}: unknown setting of transformers.GenerationConfig"
    return renamed_key(wrong, key, nearest(str(name), known, prefix))


def _without_effect(values: Mapping[str, Any], prefix: str) -> Iterator[Found]:
    """Yield a message for each setting that `GenerationConfig.validate` finds without effect."""
    kinds: list[tuple[Mapping[str, Any], bool, str, str]] = [
        (OF_SAMPLING, values.get("do_sample") is not True, "do_sample=true", "sampling"),
        (OF_BEAMS, (values.get("num_beams") or 1) == 1, "num_beams=4", "beam search"),
    ]
    for names, is_unused, needed, use in kinds:
        for name, neutral in names.items():
            value = values.get(name)
            if is_unused and value is not None and value != neutral:
                key = f"{prefix}{name}"
                yield key, refusal(f"{key}={as_typed(value)} is for {use}", f"{prefix}{needed}", f"~{key}", verb="set")


def decoding_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for settings of generated text where none is generated, and for impossible lengths."""
    if not run.task.generation:
        return
    task = _answered_task(run)
    if task is None:
        return
    scored_only = kind_of(task).name == "preferences" and run.job not in ("predict", "serve", "chat")
    unfeasible = unfeasible_length(replace(task, generation={**(task.generation or {}), **run.task.generation}))
    yield from messages_of(
        (
            not generates_text(task) and task.kind != "preferences",
            refusal(f"task.generation is for generated text, which task.kind={task.kind} has none of", *_drop(run)),
        ),
        (
            scored_only,
            refusal("task.generation: pairs are scored, no text is generated before job=predict", *_drop(run)),
        ),
        (unfeasible, unfeasible or ""),
    )


def unfeasible_length(task: TaskConfig, prefix: str = PREFIX) -> str | None:
    """Return the message about a minimum length of answers that is above the maximum."""
    least, most = (task.generation or {}).get("min_new_tokens"), task.answer_length
    if least is None or least <= most:
        return None
    wrong = f"{prefix}min_new_tokens={least} is more than the {most} tokens of an answer"
    return refusal(wrong, f"{prefix}max_new_tokens={least}", verb="set")


def _drop(run: RunConfig) -> list[str]:
    return [" ".join(f"~{PREFIX}{name}" for name in run.task.generation or {})]


def _answered_task(run: RunConfig) -> TaskConfig | None:
    """Return the task whose answers are generated: that of `run=`, else the chosen one; None where it is unreadable."""
    if run.run is None or JOBS[run.job].trains:
        return run.task
    config = readable_config(run.run)
    return None if config is None else config.task
