"""Tasks with computed answers, made of miniglue's words: the tasks of the offline generator."""

import random
import re
from collections.abc import Sequence

from peftkit.data.miniglue.lexicon import WordSampler
from peftkit.data.minitasks.cases import FILLERS, SLOTS
from peftkit.data.minitasks.families import FAMILIES, TaskFamily, parse_instruction

__all__ = ["FAMILIES", "TaskFamily", "has_labels", "parse_instruction", "sample_cases", "sample_instruction"]

REPEATED_SHARE, FAULTY_SHARE = 0.1, 0.06  # of instructions: repeat one of the prompt's, have a fault
OPENINGS = (
    "For a quiz {place},", "A {who} asks you:", "In a letter to the {who},", "For a game {time},",
    "You help a {who} with homework.", "While the {who} waits {place},", "As a {who} would do it,",
    "A {who} hands you a note {time}.", "For the school play {place},", "The {who} bets that you cannot do this:",
    "Imagine a talk {place}.", "To please a {who},", "On a card beside the {thing} it says:",
    "A {who} and a {who} quarrel over this.", "From a test that was set {time}:", "Here is work for a {who}.",
    "For a list that the {who} keeps {place},", "Since the {thing} is lost,", "Before the {who} comes home,",
    "Somebody {place} wants to know:", "In an exam for every {who},", "Let the {who} see how it is done:",
)  # fmt: skip
CLOSINGS = (
    "Give no reason.", "Write the answer alone.", "Nothing else is needed.", "Do not explain it to the {who}.",
    "A short reply is enough.", "Answer as briefly as a {who}.", "Leave out every comment.", "One line will do.",
    "The {who} reads only the answer.", "Use small letters.", "The answer goes on a label for the {thing}.",
    "Hurry, it must be done {time}.", "It will be printed {place}.", "No greeting, no full stop.",
    "Whoever stands {place} should understand it.", "Keep the {thing} out of it.",
)  # fmt: skip
FAULTY_INSTRUCTIONS = (
    "Draw a picture of the {thing} {place}.", "Go on.", "- the {thing}, as a {who} sees it {time}",
    "Опишите одну вещь так, чтобы её понял каждый, кто стоит рядом",
    "Look at the photo of a {who} and say what it shows.", "Play the audio of the {thing} to the {who} {time}.",
)  # fmt: skip


def sample_instruction(draw: random.Random, shown: Sequence[str]) -> str:
    """Return an instruction; a few repeat one of the prompt's (`shown`) or have a fault that a filter rejects."""
    if shown and draw.random() < REPEATED_SHARE:
        repeated = draw.choice(shown).split()
        return " ".join([*repeated[:-1], draw.choice(FILLERS), repeated[-1]])
    if draw.random() < FAULTY_SHARE:
        return _fill_slots(draw, draw.choice(FAULTY_INSTRUCTIONS))
    request = _fill_slots(draw, draw.choice(draw.choice(FAMILIES).wordings))
    opening = _fill_slots(draw, draw.choice(OPENINGS)) if draw.random() < 0.8 else ""
    request = request if opening.endswith((",", ":")) else request[0].upper() + request[1:]
    is_question = request.lower().startswith(("which", "what", "who", "where", "when", "how", "is ", "does", "of what"))
    closing = _fill_slots(draw, draw.choice(CLOSINGS)) if draw.random() < 0.8 else ""
    return " ".join(part for part in (opening, f"{request}{'?' if is_question else '.'}", closing) if part)


def has_labels(text: str) -> bool:
    """Return whether the answer to an instruction is one of a few labels."""
    return bool((known := parse_instruction(text)) and known[0].labels)


def sample_cases(text: str, draw: random.Random) -> list[tuple[str, str]] | None:
    """Return (input, output) cases of an instruction, its labels in turn; None for an unknown instruction."""
    if (known := parse_instruction(text)) is None:
        return None
    family, slots = known
    return [family.sample(WordSampler(draw, "all"), {**slots, "label": label}) for label in family.case_labels]


def _fill_slots(draw: random.Random, text: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda slot: draw.choice(SLOTS[slot[1]]), text)
