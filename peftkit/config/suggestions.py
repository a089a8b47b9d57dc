"""Turn a wrong name into a hint at the right one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from difflib import get_close_matches

from peftkit.config.run import PROVENANCE, SECTIONS, RunConfig
from peftkit.config.signatures import fields_of

TRAINING = "transformers.training_args.TrainingArguments"
# what the keys are called elsewhere, and what is too short to be near anything
HABITS = {
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
SHOWN = 16


def nearest(word: str, known: Iterable[str], before: str = "") -> str:
    """Return '; did you mean ...?', or what there is where nothing is near."""
    known = sorted(known)
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {before}{close[0]}?"
    return f"; there are: {', '.join(known[:SHOWN])}{', ...' if len(known) > SHOWN else ''}"


def key_names(section: str) -> set[str]:
    """Return the keys of a section, or the top level's where it is empty."""
    part = SECTIONS[section] if section else RunConfig
    return {field.name for field in dataclasses.fields(part)} - {*PROVENANCE}


def takes_list(key: str) -> bool:
    """Tell whether a key, as task.metrics, holds a list."""
    section, _, name = key.rpartition(".")
    part = SECTIONS.get(section) if section else RunConfig
    return part is not None and any(f.name == name and "list" in str(f.type) for f in dataclasses.fields(part))


def holds_keys(section: str, value: str) -> str:
    """Return the sentence about a value, as it is typed, where the keys of a section belong."""
    text = f"{section}={value} is wrong: {section} holds keys of its own"
    if section == "search" and value != "null":
        return f"{text}; say search.lr_multipliers={value if value.startswith('[') else f'[{value}]'}"
    return f"{text}, as {section}.{'learning_rate' if section == 'train' else min(key_names(section))}=..."


def nearest_key(key: str) -> str:
    """Return a hint for a key that is not there, wherever its right place is: learning_rate is train.learning_rate."""
    section, _, name = key.partition(".")
    if key in HABITS:
        return f"; did you mean {HABITS[key]}?"
    if section in SECTIONS:
        return nearest(name, key_names(section), f"{section}.")
    top = key_names("") | {"recipe"}
    if close := get_close_matches(section, top, n=1, cutoff=0.75):
        return f"; did you mean {close[0]}?"
    places = {leaf: f"{owner}.{leaf}" for owner in SECTIONS for leaf in key_names(owner)}
    places |= {leaf: f"train.{leaf}" for leaf in fields_of(TRAINING) or {}}
    if close := get_close_matches(name or key, places, n=1, cutoff=0.8):
        return f"; did you mean {places[close[0]]}?"
    return nearest(section, top)
