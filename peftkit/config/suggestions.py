"""Hints at the right name of a key, an option or a value."""

import dataclasses
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any

from peftkit.config.errors import Refusal, refusal
from peftkit.config.quoting import as_override, in_shell
from peftkit.config.run import PROVENANCE, SECTIONS, RunConfig
from peftkit.config.signatures import fields_of

TRAINING = "transformers.training_args.TrainingArguments"
RENAMED = {  # old key or value: the new one, before 1.0
    "source=embedded": "source=offline",  # renamed
    "task.max_train_rows": "task.max_train_samples",  # renamed
    "task.max_eval_rows": "task.max_eval_samples",  # renamed
    "task.words": "task.verbalizer",  # renamed
    "task.widths": "task.matryoshka_dims",  # renamed
    "task.noise": "task.noise_density",  # renamed
    "task.mean_span": "task.mean_noise_span_length",
    "model.layers": "model.keep_layers",  # renamed
    "search.factors": "search.lr_multipliers",  # renamed
    "search.rows": "search.samples",  # renamed
    "embed.width": "embed.truncate_dim",  # renamed
    "extend.rows": "extend.init",  # renamed
    "extend.pad_to": "extend.pad_to_multiple_of",  # renamed
    "generate.target": "generate.num_instructions",  # renamed
    "generate.served_model": "generate.endpoint_model",  # renamed
    "generate.similarity": "generate.max_rouge_l",  # renamed
    "generate.words": "generate.instruction_length",  # renamed
    "distill.weight": "distill.alpha",  # renamed
}
ALIASES = {  # names of keys in other tools, and names too short for a close match
    "lr": "train.learning_rate",
    "epochs": "train.num_train_epochs",
    "num_epochs": "train.num_train_epochs",
    "batch_size": "train.per_device_train_batch_size",
    "rank": "method.config.r",
    "r": "method.config.r",
    "alpha": "method.config.lora_alpha",
    "dataset": "task.dataset",
    "output_dir": "out",
}
MAX_SHOWN, MAX_LENGTH = 16, 60  # names, characters of a name


def nearest(name: str, known: Iterable[str], prefix: str = "", suffix: str = "") -> str:
    """Return '; did you mean ...?', or the known names where none is near."""
    known = sorted(known)
    if close := get_close_matches(name, known, n=1, cutoff=0.6 if len(name) > 3 else 0.5):
        return _hint(f"{prefix}{close[0]}{suffix}")
    return f"; use one of {listed(known)}"


def listed(names: Iterable[str], quote_spaces: bool = False) -> str:
    """Return names as one line, of which a long one is cut, and many are left out.

    With `quote_spaces`, those that begin or end with a space are in quotes.
    """
    shown = [repr(name) if quote_spaces and name != name.strip() else " ".join(name.split()) for name in names]
    shown = [name if len(name) <= MAX_LENGTH else f"{name[: MAX_LENGTH - 3]}..." for name in shown]
    return ", ".join(shown[:MAX_SHOWN]) + (", ..." if len(shown) > MAX_SHOWN else "")


def _hint(right: str) -> Refusal:
    return Refusal(f"; did you mean {right}?", right)


def with_hint(wrong: str, hint: str) -> Refusal:
    """Return a message with a hint of `nearest` at an override, which is its fix."""
    return Refusal(f"{wrong}{hint}", *getattr(hint, "fix", ()))


def renamed_key(wrong: str, key: str, hint: str) -> Refusal:
    """Return a message with a hint of `nearest` at the right name of a key, whose fix is that name."""
    return Refusal(f"{wrong}{hint}", *(f"{key}->{right}" for right in getattr(hint, "fix", ())))


def key_names(section: str) -> set[str]:
    """Return the keys of a section, or the top level's where it is empty."""
    return {field.name for field in dataclasses.fields(SECTIONS.get(section, RunConfig))} - {*PROVENANCE}


def takes_list(key: str) -> bool:
    """Return whether the value of a key, such as task.metrics, is a list."""
    section, _, name = key.rpartition(".")
    owner = SECTIONS.get(section) if section else RunConfig
    return owner is not None and any(f.name == name and "list" in str(f.type) for f in dataclasses.fields(owner))


def as_sweep(key: str, value: Any, refuses: Callable[[Any], str | None]) -> str:
    """Return the sweep of a list's values for a key that takes one of them; empty if it does not take each."""
    if not isinstance(value, list) or not value or any(isinstance(x, list) or refuses(x) is not None for x in value):
        return ""
    override = f"{key}={','.join(map(as_override, value))}"
    return f"{'-m ' * (len(value) > 1)}{in_shell(override)}"


def section_error(section: str, value: str) -> str:
    """Return the message about a value, as typed, in place of the keys of a section."""
    text = f"{section}={value}: {section} has keys of its own"
    if section == "search" and value != "null":
        multipliers = value if value.startswith("[") else f"[{value}]"
        return refusal(text, f"search.lr_multipliers={multipliers} ~search")
    return f"{text}, such as {section}.{'learning_rate' if section == 'train' else min(key_names(section))}=..."


def unknown_key(key: str) -> Refusal:
    """Return the message about an unknown key, with its new name or the nearest key of any section."""
    if key in RENAMED:
        return Refusal(f"{key} was renamed; use {RENAMED[key]}", f"{key}->{RENAMED[key]}")
    return renamed_key(f"unknown key {key}", key, _nearest_key(key))


def _nearest_key(key: str) -> str:
    section, _, name = key.partition(".")
    if key in ALIASES:
        return _hint(ALIASES[key])
    if section in SECTIONS:
        return nearest(name, key_names(section), f"{section}.")
    top = key_names("") | {"recipe"}
    if close := get_close_matches(section, top, n=1, cutoff=0.75):
        return _hint(f"{close[0]}.{name}" if name else close[0])
    full_keys = {leaf: f"{owner}.{leaf}" for owner in SECTIONS for leaf in key_names(owner)}
    full_keys |= {leaf: f"train.{leaf}" for leaf in fields_of(TRAINING) or {}}
    if close := get_close_matches(name or key, full_keys, n=1, cutoff=0.8):
        return _hint(full_keys[close[0]])
    return nearest(section, top)
