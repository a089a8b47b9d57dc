"""The settings of `task.generation`: those of transformers.GenerationConfig that choose how a text is generated."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

MAX_NEW_TOKENS = "task.generation.max_new_tokens"


@dataclass
class GenerationSettings:
    """Settings by upstream's names. One that is None is the checkpoint's own, or else transformers' default."""

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    num_beams: int | None = None
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    top_h: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    encoder_repetition_penalty: float | None = None
    encoder_no_repeat_ngram_size: int | None = None


# settings that only sampling or only beam search reads, with the value that has no effect
OF_SAMPLING = {
    "temperature": 1.0, "top_k": 50, "top_p": 1.0, "top_h": None, "min_p": None, "typical_p": 1.0,
    "epsilon_cutoff": 0.0, "eta_cutoff": 0.0,
}  # fmt: skip
OF_BEAMS = {"length_penalty": 1.0, "early_stopping": False}


def upstream_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are not None, with the types that transformers requires: it takes 1 for no float."""
    floats = {each.name for each in fields(GenerationSettings) if "float" in str(each.type)}
    given = {name: value for name, value in settings.items() if value is not None}
    return {name: float(value) if name in floats else value for name, value in given.items()}


def derive_seed(seed: int, name: object) -> int:
    """Return a seed of 31 bits for one request, one generated text, or one random stream."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:4], "big") >> 1
