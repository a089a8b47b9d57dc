"""Why candidates and instances are rejected: the reasons that rejected.jsonl records."""

from __future__ import annotations

from typing import NamedTuple

from peftkit.generation.generators import Reply

REASONS = {
    "similar": "ROUGE-L to a kept instruction is too high",
    "too_short": "fewer words than `generate.instruction_length` allows",
    "too_long": "more words than `generate.instruction_length` allows",
    "blacklist": "mentions what a text model can neither see nor do",
    "starts_with_punctuation": "starts with punctuation",
    "not_latin": "starts in another script, or is mostly written in one",
    "contaminated": "overlaps an evaluation set",
    "cut_off": "the reply was cut off within it",
    "empty_reply": "the reply is empty",
    "preamble": "an introduction, not an instruction",
    "not_asked_for": "more instructions than the prompt requested",
    "refused": "the endpoint refused the prompt",
    "type_unclear": "the reply does not state whether it is a classification",
    "no_instance": "all of its instances were rejected",
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


class Rejection(NamedTuple):
    """A key of REASONS, and the details of this case."""

    reason: str
    detail: str = ""


def incomplete(reply: Reply) -> Rejection | None:
    """Return why a reply is incomplete; None if it is complete."""
    if reply.finish == "refused":
        return Rejection("refused", reply.note or "")
    if reply.finish == "length":
        return Rejection("cut_off", f"after {reply.tokens_out} tokens")
    return None if reply.finish == "stop" else Rejection("cut_off", reply.finish)
