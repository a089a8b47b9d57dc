"""Turn an instruction, or a task's instances, into the reason why they are not kept (Wang et al. 2023, section 2.2)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from peftkit.generation.parse import Fault
from peftkit.generation.tasks import Instance


def instruction_fault(text: str, words: Sequence[int], blacklist: Sequence[str]) -> Fault | None:
    """Return the first fault of an instruction, whatever else is kept; None where it has none."""
    count = len(text.split())
    if count < words[0]:
        return Fault("too_short", f"{count} words")
    if count > words[1]:
        return Fault("too_long", f"{count} words")
    if unicodedata.category(text[0])[0] in "PS":
        return Fault("starts_with_punctuation", text[0])
    if (fault := _script(text)) is not None:
        return fault
    named = {word.lower() for word in re.findall(r"\w+", text)}
    for word in blacklist:
        if (word.lower() in named) if word.isalnum() else (word.lower() in text.lower()):
            return Fault("blacklist", word)
    return None


def instance_faults(
    instances: Sequence[Instance], instruction: str
) -> tuple[list[Instance], list[tuple[Instance, Fault]]]:
    """Part instances that are kept from those that are not."""
    outputs: dict[str, set[str]] = {}
    for instance in instances:
        outputs.setdefault(plain(instance.input), set()).add(plain(instance.output))
    kept: list[Instance] = []
    faulty: list[tuple[Instance, Fault]] = []
    for instance in instances:
        given, answer = plain(instance.input), plain(instance.output)
        if not answer:
            fault = Fault("empty_output")
        elif given == answer:
            fault = Fault("output_is_input")
        elif answer == plain(instruction):
            fault = Fault("output_is_instruction")
        elif given and len(outputs[given]) > 1:
            fault = Fault("same_input_other_output", f"{len(outputs[given])} outputs")
        elif instance in kept:
            fault = Fault("same_instance")
        else:
            kept.append(instance)
            continue
        faulty.append((instance, fault))
    return kept, faulty


def plain(text: str) -> str:
    """Return a text without what does not make it another: case, and how its words are set apart."""
    return " ".join(text.lower().split())


def _script(text: str) -> Fault | None:
    letters = [letter for letter in text if letter.isalpha()]
    latin = [letter for letter in letters if unicodedata.name(letter, "").startswith("LATIN")]
    if not letters:
        return Fault("not_latin", "no letters")
    if text[0].isalpha() and text[0] not in latin:
        return Fault("not_latin", f"starts with {text[0]}")
    return Fault("not_latin", f"{len(latin)} of {len(letters)} letters") if 2 * len(latin) < len(letters) else None
