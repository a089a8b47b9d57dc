"""Sampling of instructions: most are valid, a few have a fault that a filter rejects."""

from __future__ import annotations

import re
from collections.abc import Sequence

from peftkit.data.miniglue.lexicon import PEOPLE, PLACES, THINGS, TIMES, WordSampler
from peftkit.data.minitasks.cases import FILLERS, SLOTS
from peftkit.data.minitasks.families import FAMILIES

REPEATED, FAULTY = 0.1, 0.06  # shares of instructions that repeat one of the prompt's, and that have a fault
SETTINGS = (
    "For a quiz {place},", "A {who} asks you:", "In a letter to the {who},", "For a game {time},",
    "You help a {who} with homework.", "While the {who} waits {place},", "As a {who} would do it,",
    "A {who} hands you a note {time}.", "For the school play {place},", "The {who} bets that you cannot do this:",
    "Imagine a talk {place}.", "To please a {who},", "On a card beside the {thing} it says:",
    "A {who} and a {who} quarrel over this.", "From a test that was set {time}:", "Here is work for a {who}.",
    "For a list that the {who} keeps {place},", "Since the {thing} is lost,", "Before the {who} comes home,",
    "Somebody {place} wants to know:", "In an exam for every {who},", "Let the {who} see how it is done:",
)  # fmt: skip
ENDINGS = (
    "Give no reason.", "Write the answer alone.", "Nothing else is needed.", "Do not explain it to the {who}.",
    "A short reply is enough.", "Answer as briefly as a {who}.", "Leave out every comment.", "One line will do.",
    "The {who} reads only the answer.", "Use small letters.", "The answer goes on a label for the {thing}.",
    "Hurry, it must be done {time}.", "It will be printed {place}.", "No greeting, no full stop.",
    "Whoever stands {place} should understand it.", "Keep the {thing} out of it.",
)  # fmt: skip
FLAWS = (
    "Draw a picture of the {thing} {place}.", "Go on.", "- the {thing}, as a {who} sees it {time}",
    "Опишите одну вещь так, чтобы её понял каждый, кто стоит рядом",
    "Look at the photo of a {who} and say what it shows.", "Play the audio of the {thing} to the {who} {time}.",
)  # fmt: skip


def write_instruction(words: WordSampler, shown: Sequence[str]) -> str:
    """Return an instruction; some repeat one of the prompt's (`shown`), with a filler added."""
    if shown and words.chance(REPEATED):
        repeated = words.random.choice(list(shown)).split()
        return " ".join([*repeated[:-1], words.random.choice(FILLERS), repeated[-1]])
    if words.chance(FAULTY):
        return _filled(words, words.random.choice(FLAWS))
    wording = words.random.choice(words.random.choice(FAMILIES).wordings)
    request = re.sub(r"\{(\w+)\}", lambda slot: words.random.choice(SLOTS[slot[1]]), wording)
    opening = _filled(words, words.random.choice(SETTINGS)) if words.chance(0.8) else ""
    request = request if opening.endswith((",", ":")) else request[0].upper() + request[1:]
    is_question = request.lower().startswith(("which", "what", "who", "where", "when", "how", "is ", "does", "of what"))
    ending = _filled(words, words.random.choice(ENDINGS)) if words.chance(0.8) else ""
    return " ".join(part for part in (opening, f"{request}{'?' if is_question else '.'}", ending) if part)


def _filled(words: WordSampler, text: str) -> str:
    known = {
        "who": [who for who, _, _ in PEOPLE],
        "thing": [thing for thing, _, _ in THINGS],
        "place": PLACES,
        "time": TIMES,
    }
    return re.sub(r"\{(\w+)\}", lambda slot: words.random.choice(known[slot[1]]), text)
