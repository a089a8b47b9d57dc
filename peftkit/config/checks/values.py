"""Checks of each value: its type, its choices, its range (ranges.py)."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from peftkit.config.checks.ranges import RANGES
from peftkit.config.errors import is_text, refusal
from peftkit.config.export_formats import EXPORT_FORMATS
from peftkit.config.families import FAMILIES
from peftkit.config.jobs import JOBS
from peftkit.config.kinds import KINDS
from peftkit.config.later_keys import ADDED_LATER
from peftkit.config.run import MULTITASK_CHOICES, PROVENANCE, SECTIONS, RunConfig
from peftkit.config.sections import LORA_METHODS, OBJECTIVE_KEYS
from peftkit.config.signatures import annotation
from peftkit.config.suggestions import RENAMED, as_sweep, nearest, section_error, takes_list, unknown_key, with_hint
from peftkit.config.traits import Traits

Found = tuple[str, str]  # the key, and the message about it
MAX_INT = 2**53  # above it, floats are not exact
EMBEDDING_INITS = ("pieces", "mean", "normal", "random")  # extend.init
RUN_STATUSES = ("finished", "running", "interrupted", "failed", "skipped", "broken")  # filter.status
LOSSES = ("sigmoid", "ipo", "hinge", "robust", "apo_zero")  # task.loss_type: TRL's names
CHOICES: dict[str, tuple[Any, ...]] = {
    "job": tuple(JOBS),
    "source": ("auto", "hub", "offline"),
    "claim": ("small_data", "prompt_scale", "lora_merge", "quantization", "by_task", None),
    "model.family": ("encoder", "decoder", "seq2seq"),
    "model.pooling": ("auto", "cls", "mean", None),
    "model.pairs": ("apart", None),
    "model.stand_in": tuple({family.stand_in for family in FAMILIES.values()}),
    "task.kind": tuple(KINDS),
    "task.sample_by": ("line", "document", None),
    "task.loss_type": (*LOSSES, None),
    "task.class_weights": ("balanced", None),  # or numbers by label
    "task.sampling": ("balanced", None),
    "domains.objective": (*OBJECTIVE_KEYS, None),
    "extend.init": EMBEDDING_INITS,
    "filter.status": (*RUN_STATUSES, None),
    **{f"multitask.{name}": known for name, known in MULTITASK_CHOICES.items()},
    "delete": (True, "checkpoints", None),
    "push.what": ("adapter", "merged", "both", None),
    "combine.method": ("exact", *LORA_METHODS, None),
    "combine.majority_sign_method": ("total", "frequency", None),
    "export.gguf_type": ("f32", "f16", "q8_0", None),
    "format": (*EXPORT_FORMATS, None),
    "embed.pooling": ("mean", "cls", "last", None),
    "generate.algorithm": KINDS["instructions"].generators,
    "generate.generator": ("local", "endpoint"),
    "train.train_sampling_strategy": ("random", "sequential", "group_by_length", "token_budget"),
}


def value_errors(config: Mapping[str, Any]) -> Iterator[Found]:
    """Yield a message for each key that is unknown or missing, and each value of a wrong type or choice."""
    job = JOBS.get(str(config.get("job")))
    guessed = [key for key in job.guesses if value_of(config, key) == "???"] if job else []
    yield from _type_errors(config, RunConfig, "")
    for name, section in [*SECTIONS.items(), ("method.traits", Traits)]:
        if isinstance(values := value_of(config, name), Mapping):
            yield from (each for each in _type_errors(values, section, f"{name}.") if each[0] not in guessed)
        elif section is Traits and values is not None:
            yield name, refusal(f"{name}={as_typed(values)}: expected a mapping", f"{name}={{}}")
    yield from _choice_errors(config)


def range_errors(config: Mapping[str, Any], invalid: set[str]) -> Iterator[Found]:
    """Yield a message for each value out of its range, apart from keys that are already invalid."""
    impossible = {key: message for key, message in _leaf_errors(config, "") if key not in invalid}
    yield from impossible.items()
    invalid = invalid | impossible.keys()
    for key, (holds, expected) in RANGES.items():
        value = None if key in invalid else value_of(config, key)
        if value is not None and not holds(value):
            yield key, _expected(key, f"{key}={as_typed(value)}: expected {expected}")
    yield from _adapter_errors(value_of(config, "method.config"), invalid | RANGES.keys())


def key_errors(name: str, value: Any) -> Iterator[str]:
    """Yield a message for a value of a top-level key that has the wrong type or is out of its range."""
    config = {name: value}
    wrong = {key: message for key, message in _type_errors(config, RunConfig, "") if key == name}
    yield from wrong.values()
    yield from (message for key, message in range_errors(config, {*wrong}) if key == name)


def _adapter_errors(values: Any, checked: set[str]) -> Iterator[Found]:
    """Yield a message for each number of PEFT's config that no method takes."""
    for name, value in values.items() if isinstance(values, Mapping) else []:
        key = f"method.config.{name}"
        if key in checked or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if "dropout" in name and not 0 <= value < 1:
            yield key, refusal(f"{key}={value}: expected a number of 0 or more, below 1", f"{key}=0.1")
        elif isinstance(value, int) and value < 0 and name != "strength":  # that of steering may be
            yield key, refusal(f"{key}={value}: expected 0 or more", f"~{key}")


def _expected(key: str, message: str) -> str:
    """Return a message about a range; its fix is the overrides after "; use ", or else to drop the key."""
    wrong, _, fix = message.partition("; use ")
    return refusal(wrong, *(fix or f"~{key}").split(", or "))


def value_of(config: Mapping[str, Any], key: str) -> Any:
    """Return the value of a key such as task.metrics, None if a parent is not a mapping."""
    for name in key.split("."):
        config = config.get(name) if isinstance(config, Mapping) else None  # type: ignore[assignment]
    return config


def as_typed(value: Any) -> str:
    """Return a value as the user would type it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    is_quoted = isinstance(value, str) and (not value or " " in value or not value.isprintable())
    return repr(value) if is_quoted else str(value)


def _type_errors(values: Mapping[str, Any], owner: type, prefix: str) -> Iterator[Found]:
    fields = {field.name: field for field in dataclasses.fields(owner) if field.name not in PROVENANCE}
    for name in (name for name in values if name not in fields):
        yield f"{prefix}{name}", unknown_key(f"{prefix}{name}")
    for name, field in fields.items():
        key, value = f"{prefix}{name}", values.get(name, "???")
        has_default = {field.default, field.default_factory} != {dataclasses.MISSING} or key in ADDED_LATER
        if name not in values and has_default:
            continue
        if value == "???":
            yield key, refusal(f"{key} is not set", f"{key}=...", verb="set")
        elif not prefix and name in (*SECTIONS, "train"):
            if not isinstance(value, Mapping):
                yield key, section_error(name, as_typed(value))
        elif str(field.type) == Traits.__name__:
            if not isinstance(value, Mapping):
                yield key, f"{key}={as_typed(value)}: expected a mapping; use {key}={{mergeable: false}}"
        elif (description := (expected := annotation(str(field.type), __name__)).refuses(value)) is not None:
            fix = f"{key}._target_={value} ~{key}" if key == "collator" else as_sweep(key, value, expected.refuses)
            fix = f"{key}=[{value}]" if isinstance(value, (str, int, float)) and takes_list(key) else fix
            wrong = f"{key}={as_typed(value)}: expected {description}"
            yield key, refusal(wrong, fix) if fix else wrong


def _leaf_errors(value: Any, key: str) -> Iterator[Found]:
    """Yield a message for each number and each text, at any depth, that no setting can have."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _leaf_errors(each, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for each in value:
            yield from _leaf_errors(each, key)
    elif isinstance(value, float) and not math.isfinite(value):
        yield key, refusal(f"{key}={value}: expected a finite number", f"~{key}")
    elif isinstance(value, int) and abs(value) >= MAX_INT:
        yield key, refusal(f"{key} has a number of 2**53 or more", f"~{key}")
    elif isinstance(value, str) and not is_text(value):
        yield key, f"{key}={value!r}: it contains NUL or a lone surrogate; remove that character"


def _choice_errors(config: Mapping[str, Any]) -> Iterator[Found]:
    for key, known in CHOICES.items():
        value = value_of(config, key)
        if isinstance(value, str) and value not in (*known, "???"):
            new = RENAMED.get(f"{key}={value}")
            wrong, hint = f"{key}={as_typed(value)}: unknown value", nearest(value, map(as_typed, known), f"{key}=")
            yield key, refusal(f"{key}={value} was renamed", new) if new else with_hint(wrong, hint)
