"""The families of tasks: their wordings, their cases, and the parser of an instruction."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from operator import itemgetter

from peftkit.data.miniglue.lexicon import (
    ACTIONS,
    NAMES,
    PEOPLE,
    QUALITIES,
    THINGS,
    VERY,
    WordSampler,
    draw_scene,
    render_scene,
)
from peftkit.data.minitasks import cases
from peftkit.data.minitasks.cases import FILLERS, IRREGULAR, NUMBER_WORDS, REPETITIONS, SLOTS

Slots = Mapping[str, str]


@dataclass(frozen=True)
class TaskFamily:
    """One family of tasks.

    Attributes:
        wordings: its instructions; the values of their {slots} are in `cases.SLOTS`.
        sample: returns a case (input and output) by the values of the slots.
        labels: the outputs of a classification; the label of a case is the slot `label`.
        without_input: whether the instruction needs no input.
    """

    wordings: tuple[str, ...]
    sample: Callable[[WordSampler, Slots], tuple[str, str]]
    labels: tuple[str, ...] = ()
    without_input: bool = False

    @property
    def case_labels(self) -> tuple[str, ...]:
        """The label of each case of a task: every label twice, else none in five cases, or in one without input."""
        return 2 * self.labels or ("",) * (1 if self.without_input else 5)


# the parser searches a wording anywhere in a text: no full stop at its end, and none is part of another
FAMILIES = (
    TaskFamily(
        (
            "give the first word of the line", "what is the word that the line begins with", "copy the opening word",
            "say which word stands at the beginning of the text", "find the word with which this text starts",
            "take over nothing but the initial word of the sentence",
        ),
        lambda words, slots: cases.of_words(words, words.random.randrange(2, 6), itemgetter(0)),
    ),
    TaskFamily(
        (
            "give the last word of the line", "which word ends the sentence", "copy the final word",
            "say with what word the text closes", "find the word just before the full stop",
            "what does the line have at its very end",
        ),
        lambda words, slots: cases.of_words(words, words.random.randrange(2, 6), itemgetter(-1)),
    ),
    TaskFamily(
        (
            "give the opposite of the word", "which word means the contrary", "turn this quality into its reverse",
            "write the antonym of what is given", "say what something is if it is not so at all",
            "name the word at the other end of the scale",
        ),
        lambda words, slots: cases.opposite(words),
    ),
    TaskFamily(
        (
            "give another word with the same meaning", "write a synonym", "say the same in a different word",
            "what else could one call it", "replace the term by one that means as much",
            "find an equal expression for it",
        ),
        lambda words, slots: cases.of_entry(words, [*PEOPLE, *THINGS, *QUALITIES], 0, 1),
    ),
    TaskFamily(
        (
            "is the number even or odd", "can this figure be halved without a rest: say even or odd",
            "sort the number into even and odd ones", "tell whether two divides the number, as even or odd",
            "mark the house number as even or odd", "decide between even and odd for each amount",
        ),
        lambda words, slots: (str(2 * words.random.randrange(1, 50) + (slots["label"] == "odd")), slots["label"]),
        labels=("even", "odd"),
    ),
    TaskFamily(
        (
            "is the review positive or negative", "does the critic like the work: positive or negative",
            "judge the mood of this opinion as positive or negative", "label the remark on a film positive or negative",
            "decide if the viewer was pleased, and answer positive, or negative if not",
            "classify what was written about the show into positive and negative",
        ),
        lambda words, slots: cases.sentiment(words, slots["label"]),
        labels=("positive", "negative"),
    ),
    TaskFamily(
        (
            "which of the two words comes first in the alphabet",
            "name the one that a dictionary lists before the other",
            "of both words, write the one that is earlier by its letters",
            "if the pair were sorted from a to z, what would stand in front",
            "pick the word that an index would show sooner", "say what an alphabetical list of the two begins with",
        ),
        lambda words, slots: cases.of_words(words, 2, min, ", "),
    ),
    TaskFamily(
        (
            "count the words", "how many words are there", "give the number of words in the line",
            "tell of how many words this is made", "write as a word how long the list is",
            "what is the size of the row, in words",
        ),
        lambda words, slots: cases.of_words(words, words.random.randrange(2, 8), lambda ws: NUMBER_WORDS[len(ws) - 1]),
    ),
    TaskFamily(
        (
            "write the plural of the noun", "what is said when there are two of them", "put the noun into the plural",
            "change one into many", "name it as if there were several", "give the form that stands after the word many",
        ),
        lambda words, slots: cases.of_noun(words, lambda noun: IRREGULAR.get(noun, f"{noun}s")),
    ),
    TaskFamily(
        (
            "what kind of thing is it", "name the category of the object", "give the more general word for it",
            "say under which heading a shop would list the item", "of what class is the thing an example",
            "which group do such things belong to",
        ),
        lambda words, slots: cases.of_entry(words, THINGS, 0, 2),
    ),
    TaskFamily(
        (
            "answer the question about the report with yes or no", "read what happened, then say yes or no",
            "is what is asked true of the scene, yes or no", "yes or no: does the account bear it out",
            "check the question against the note, and reply yes or no",
            "decide by the sentence alone if the answer is yes or no",
        ),
        lambda words, slots: cases.yes_no_question(words, slots["label"]),
        labels=("yes", "no"),
    ),
    TaskFamily(
        (
            "who did it", "name the person who acts in the sentence", "write the profession that the account tells of",
            "which person is the report about", "find out by whom it was done",
            "give the one who is to blame, or to thank",
        ),
        lambda words, slots: cases.scene_detail(words, "who"),
    ),
    TaskFamily(
        (
            "where did it happen", "copy the part that tells the place", "write down the location of the event",
            "at what spot was it done", "give the scene of the deed, as the text has it",
            "find the words that answer the question where",
        ),
        lambda words, slots: cases.scene_detail(words, "place"),
    ),
    TaskFamily(
        (
            "when did it happen", "copy the part that tells the time", "write down the day or hour of the event",
            "at what time was it done", "give the moment of the deed, as the text has it",
            "find the words that answer the question when",
        ),
        lambda words, slots: cases.scene_detail(words, "time"),
    ),
    TaskFamily(
        (
            "which thing is the sentence about", "name the object that was handled",
            "copy the noun of what it was done to", "find the item in the account",
            "say what the person had to do with", "which article does the report mention",
        ),
        lambda words, slots: cases.scene_detail(words, "thing"),
    ),
    TaskFamily(
        (
            "write the word {times} times", "repeat the term until it stands there {times} times",
            "say it {times} times over, with spaces between", "echo the input, {times} times in all",
            "make a row of the word, {times} of them",
        ),
        lambda words, slots: cases.of_noun(words, lambda noun: " ".join([noun] * REPETITIONS[slots["times"]])),
    ),
    TaskFamily(
        (
            "which of the two numbers is larger", "give the greater amount", "write the number that is worth more",
            "of both figures, name the higher one", "pick the price that costs a buyer more",
        ),
        lambda words, slots: cases.larger(words),
    ),
    TaskFamily(
        (
            "write the words in reverse order", "turn the list around, last word first", "read the row from its end",
            "put what stands behind in front, and so on", "list the same items backwards",
        ),
        lambda words, slots: cases.of_words(words, words.random.randrange(2, 5), lambda row: " ".join(row[::-1])),
    ),
    TaskFamily(
        (
            "put the verb into its basic form", "what is the infinitive", "write the verb as a dictionary would",
            "undo the past tense", "give the present form, as after the word to",
        ),
        lambda words, slots: cases.of_entry(words, ACTIONS, 0, 3),
    ),
    TaskFamily(
        (
            "is it a person or a thing", "sort the noun: person or thing",
            "tell people from objects, as person or thing", "would one greet it? Say person, or else thing",
            "mark each entry of the list as person or thing",
        ),
        lambda words, slots: (
            words.pick(PEOPLE if slots["label"] == "person" else THINGS)[words.random.randrange(2)], slots["label"],
        ),
        labels=("person", "thing"),
    ),
    TaskFamily(
        (
            "does the sentence deny something, yes or no", "was it not done? Say yes if it was not, else no",
            "look for a negation, and answer yes if there is one, or no",
            "say yes where the text holds not or never, and no elsewhere",
        ),
        lambda words, slots: (
            render_scene(replace(draw_scene(words), negated=slots["label"] == "yes"), words), slots["label"],
        ),
        labels=("yes", "no"),
    ),
    TaskFamily(
        (
            "join the words with and", "make one phrase of both, linked by and", "put the word and between the two",
            "connect the pair by the word and", "write them as a couple, with and in the middle",
        ),
        lambda words, slots: cases.of_words(words, 2, " and ".join, ", "),
    ),
    TaskFamily(
        (
            "which number comes next", "count on by one", "give the number that follows", "add one to the number",
            "say what a child would count after it",
        ),
        lambda words, slots: cases.next_number(words),
    ),
    TaskFamily(
        (
            "is this the name of a woman or of a man", "tell women from men by their names, as woman or man",
            "would one say she or he? Write woman or man", "sort the first name under woman or man",
        ),
        lambda words, slots: (words.pick(NAMES[slots["label"] == "man" :: 2]), slots["label"]),
        labels=("woman", "man"),
    ),
    TaskFamily(
        (
            "write one sentence about a {who} and the {thing}",
            "invent a short scene with a {who} who handles the {thing}",
            "tell in a line what the {who} did with the {thing}", "let the {thing} and a {who} meet in one sentence",
            "report briefly on a {who}, the {thing} and a place",
        ),
        lambda words, slots: cases.scene_sentence(words, slots["who"], slots["thing"]),
        without_input=True,
    ),
    TaskFamily(
        (
            "write a line that calls the {part} {quality}", "say politely that the {part} was {quality}",
            "compose an opinion for which the {part} is {quality}", "express in a sentence how {quality} the {part} is",
        ),
        lambda words, slots: ("", f"The {slots['part']} was {words.pick(VERY)} {slots['quality']}."),
        without_input=True,
    ),
)  # fmt: skip


def parse_instruction(text: str) -> tuple[TaskFamily, Slots] | None:
    """Return the family of an instruction and the values of its slots; None for an unknown instruction."""
    normalized = " ".join(word for word in text.lower().split() if word not in FILLERS)
    found = ((family, pattern.search(normalized)) for family, pattern in _PATTERNS)
    return next(((family, match.groupdict()) for family, match in found if match), None)


def _pattern(wording: str) -> re.Pattern[str]:
    """Return the pattern of a wording in a normalized text."""
    parts = re.split(r"\{(\w+)\}", wording)
    text = "".join(
        f"(?P<{part}>{'|'.join(map(re.escape, SLOTS[part]))})" if index % 2 else re.escape(part.lower())
        for index, part in enumerate(parts)
    )
    return re.compile(rf"\b{text}(?!\w)")


_PATTERNS = [(family, _pattern(wording)) for family in FAMILIES for wording in family.wordings]
