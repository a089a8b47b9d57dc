"""Filters of instructions and instances (Wang et al. 2023, section 2.2)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from peftkit.generation.rejection import Rejection
from peftkit.generation.tasks import Instance


def check_instruction(text: str, length: Sequence[int], blacklist: Sequence[str]) -> Rejection | None:
    """Return why an instruction is rejected on its own.

    Args:
        length: the fewest and the most words.
    """
    count = len(text.split())
    if count < length[0]:
        return Rejection("too_short", f"{count} words")
    if count > length[1]:
        return Rejection("too_long", f"{count} words")
    if unicodedata.category(text[0])[0] in "PS":
        return Rejection("starts_with_punctuation", text[0])
    if (rejection := _check_script(text)) is not None:
        return rejection
    words = {word.lower() for word in re.findall(r"\w+", text)}
    for entry in blacklist:
        if (entry.lower() in words) if entry.isalnum() else (entry.lower() in text.lower()):
            return Rejection("blacklist", entry)
    return None


def check_instances(
    instances: Sequence[Instance], instruction: str
) -> tuple[list[Instance], list[tuple[Instance, Rejection]]]:
    """Return the instances to keep, and the others with why they are rejected."""
    outputs: dict[str, set[str]] = {}
    for instance in instances:
        outputs.setdefault(normalize_text(instance.input), set()).add(normalize_text(instance.output))
    kept: list[Instance] = []
    rejected: list[tuple[Instance, Rejection]] = []
    for instance in instances:
        given, output = normalize_text(instance.input), normalize_text(instance.output)
        reasons = {
            "empty_output": not output,
            "output_is_input": given == output,
            "output_is_instruction": output == normalize_text(instruction),
            "same_input_other_output": given and len(outputs[given]) > 1,
            "same_instance": instance in kept,
        }
        reason = next((reason for reason, applies in reasons.items() if applies), None)
        if reason is None:
            kept.append(instance)
        else:
            detail = f"{len(outputs[given])} outputs" if reason == "same_input_other_output" else ""
            rejected.append((instance, Rejection(reason, detail)))
    return kept, rejected


def normalize_text(text: str) -> str:
    """Return a text in lower case, its words separated by single spaces."""
    return " ".join(text.lower().split())


def _check_script(text: str) -> Rejection | None:
    letters = [letter for letter in text if letter.isalpha()]
    latin = [letter for letter in letters if unicodedata.name(letter, "").startswith("LATIN")]
    if not letters:
        return Rejection("not_latin", "no letters")
    if text[0].isalpha() and text[0] not in latin:
        return Rejection("not_latin", f"starts with {text[0]}")
    return Rejection("not_latin", f"{len(latin)} of {len(letters)} letters") if 2 * len(latin) < len(letters) else None
