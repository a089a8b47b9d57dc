"""Filters of instructions and instances (Wang et al. 2023, section 2.2), and the reasons for rejections."""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from peftkit.generation.generators import Reply
from peftkit.generation.instruction_tasks import Instance

ECHO = 5  # words in a row of the prompt that make a text a repetition of it
REASONS = {
    "similar": "ROUGE-L to a kept instruction is too high",
    "too_short": "fewer words than `generate.instruction_length` allows",
    "too_long": "more words than `generate.instruction_length` allows",
    "blacklist": "requires inputs or actions that a text model lacks",
    "starts_with_punctuation": "starts with punctuation",
    "not_latin": "starts in another script, or is mostly written in one",
    "contaminated": "overlaps an evaluation set",
    "cut_off": "the reply was cut off within it",
    "empty_reply": "the reply is empty",
    "refusal": "a refusal or an apology, not an instruction",
    "echo": "repeats the prompt",
    "preamble": "an introduction, not an instruction",
    "not_asked_for": "more instructions than the prompt requested",
    "refused": "the endpoint refused the prompt",
    "type_unclear": "the reply does not state whether it is a classification",
    "no_instance": "all of its instances were rejected",
    "no_labels": "the reply is no list of two or more labels",
    "empty_input": "the input that was requested is empty",
    "malformed_instance": "an input without an output, or an output without an input",
    "empty_output": "the output is empty",
    "output_is_input": "the output equals the input",
    "output_is_instruction": "the output equals the instruction",
    "same_input_other_output": "one input with different outputs",
    "same_instance": "a duplicate instance",
    "unchanged": "the evolution changed nothing",
    "words_of_the_prompt": "contains a phrase of the evolution prompt",
    "nothing_new": "the model finds it equal to its origin",
    "cannot_answer": "the answer only apologizes",
    "says_nothing": "the answer has only punctuation and stop words",
}

APOLOGY_LENGTH = 80  # words; a longer answer does more than apologize
APOLOGY = re.compile(
    r"\b(?:sorry|apologi[sz]e|as an ai\b|(?:can ?not|can't|unable to) (?:help|assist|answer|do that))", re.IGNORECASE
)


class Rejection(NamedTuple):
    """A key of REASONS, and the details of this case."""

    reason: str
    detail: str = ""


def first_rejection(*checks: tuple[str, object, str]) -> Rejection | None:
    """Return the first check that applies; a check is a reason, whether it applies, and the details."""
    return next((Rejection(reason, detail) for reason, applies, detail in checks if applies), None)


def incomplete(reply: Reply) -> Rejection | None:
    """Return why a reply is incomplete; None if it is complete."""
    return first_rejection(
        ("refused", reply.finish == "refused", reply.note or ""),
        ("cut_off", reply.finish == "length", f"after {reply.tokens_out} tokens"),
        ("cut_off", reply.finish != "stop", reply.finish),
    )


def refused(reply: Reply) -> Rejection | None:
    """Return the refusal of a prompt; None where there is a reply, complete or not."""
    return incomplete(reply) if reply.finish == "refused" else None


def refusal_or_echo(text: str, prompt: str) -> Rejection | None:
    """Return why a chat model's reply is no text of its own: it refuses, or repeats five words of the prompt."""
    words, requested = (re.findall(r"\w+", each.lower()) for each in (text, prompt))
    phrases = {tuple(requested[start : start + ECHO]) for start in range(len(requested) - ECHO + 1)}
    repeated = next((phrase for at in range(len(words)) if (phrase := tuple(words[at : at + ECHO])) in phrases), ())
    apology = APOLOGY.search(text)
    return first_rejection(("refusal", apology, apology[0] if apology else ""), ("echo", repeated, " ".join(repeated)))


def only_apologizes(text: str) -> Rejection | None:
    """Return a rejection of an answer that is short and apologizes."""
    apology = APOLOGY.search(text) if len(re.findall(r"\w+", text)) < APOLOGY_LENGTH else None
    return first_rejection(("cannot_answer", apology, apology[0] if apology else ""))


def check_instruction(text: str, length: Sequence[int], blacklist: Sequence[str]) -> Rejection | None:
    """Return why an instruction is rejected on its own.

    Args:
        length: the fewest and the most words.
    """
    count = len(text.split())
    first = text[:1] or " "
    letters = [letter for letter in text if letter.isalpha()]
    latin = [letter for letter in letters if unicodedata.name(letter, "").startswith("LATIN")]
    words = {word.lower() for word in re.findall(r"\w+", text)}
    listed = [entry for entry in blacklist if entry.lower() in (words if entry.isalnum() else text.lower())]
    return first_rejection(
        ("too_short", count < length[0], f"{count} words"),
        ("too_long", count > length[1], f"{count} words"),
        ("starts_with_punctuation", unicodedata.category(first)[0] in "PS", first),
        ("not_latin", not letters, "no letters"),
        ("not_latin", first.isalpha() and first not in latin, f"starts with {first}"),
        ("not_latin", 2 * len(latin) < len(letters), f"{len(latin)} of {len(letters)} letters"),
        ("blacklist", listed, "".join(listed[:1])),
    )


def check_instances(instances: Sequence[Instance], instruction: str) -> list[Rejection | None]:
    """Return why each instance is rejected, None where it is not."""
    texts = [(normalize_text(instance.input), normalize_text(instance.output)) for instance in instances]
    counts = {given: len({output for other, output in texts if other == given}) for given, _ in texts}
    return [
        first_rejection(
            ("empty_output", not output, ""),
            ("output_is_input", given == output, ""),
            ("output_is_instruction", output == normalize_text(instruction), ""),
            ("same_input_other_output", given and counts[given] > 1, f"{counts[given]} outputs"),
            ("same_instance", instances[index] in instances[:index], ""),
        )
        for index, (given, output) in enumerate(texts)
    ]


def normalize_text(text: str) -> str:
    """Return a text in NFC and lower case, its words separated by single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).lower().split())
