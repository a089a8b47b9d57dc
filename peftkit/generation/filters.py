"""Turn an instruction, or a task's instances, into the reason why they are not kept (Wang et al. 2023, section 2.2)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from peftkit.generation.parse import Rejection
from peftkit.generation.tasks import Instance


def check_instruction(text: str, words: Sequence[int], blacklist: Sequence[str]) -> Rejection | None:
    """Return the first fault of an instruction, whatever else is kept; None where it has none."""
    count = len(text.split())
    if count < words[0]:
        return Rejection("too_short", f"{count} words")
    if count > words[1]:
        return Rejection("too_long", f"{count} words")
    if unicodedata.category(text[0])[0] in "PS":
        return Rejection("starts_with_punctuation", text[0])
    if (fault := _script(text)) is not None:
        return fault
    named = {word.lower() for word in re.findall(r"\w+", text)}
    for word in blacklist:
        if (word.lower() in named) if word.isalnum() else (word.lower() in text.lower()):
            return Rejection("blacklist", word)
    return None


def check_instances(
    instances: Sequence[Instance], instruction: str
) -> tuple[list[Instance], list[tuple[Instance, Rejection]]]:
    """Part instances that are kept from those that are not."""
    outputs: dict[str, set[str]] = {}
    for instance in instances:
        outputs.setdefault(normalize_text(instance.input), set()).add(normalize_text(instance.output))
    kept: list[Instance] = []
    faulty: list[tuple[Instance, Rejection]] = []
    for instance in instances:
        given, answer = normalize_text(instance.input), normalize_text(instance.output)
        if not answer:
            fault = Rejection("empty_output")
        elif given == answer:
            fault = Rejection("output_is_input")
        elif answer == normalize_text(instruction):
            fault = Rejection("output_is_instruction")
        elif given and len(outputs[given]) > 1:
            fault = Rejection("same_input_other_output", f"{len(outputs[given])} outputs")
        elif instance in kept:
            fault = Rejection("same_instance")
        else:
            kept.append(instance)
            continue
        faulty.append((instance, fault))
    return kept, faulty


def normalize_text(text: str) -> str:
    """Return a text without what does not make it another: case, and how its words are set apart."""
    return " ".join(text.lower().split())


def _script(text: str) -> Rejection | None:
    letters = [letter for letter in text if letter.isalpha()]
    latin = [letter for letter in letters if unicodedata.name(letter, "").startswith("LATIN")]
    if not letters:
        return Rejection("not_latin", "no letters")
    if text[0].isalpha() and text[0] not in latin:
        return Rejection("not_latin", f"starts with {text[0]}")
    return Rejection("not_latin", f"{len(latin)} of {len(letters)} letters") if 2 * len(latin) < len(letters) else None
