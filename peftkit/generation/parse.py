"""Turn a model's replies into instructions, answers and instances, and into faults where they are none."""

from __future__ import annotations

import re
from typing import NamedTuple

from peftkit.generation.generators import Reply
from peftkit.generation.self_instruct_prompts import NEW, NOTHING, one_line
from peftkit.generation.tasks import Instance

ITEM = re.compile(
    r"(?:^|\n)[ \t]*(?:[*_#]{1,3}[ \t]*)?(?:Task[ \t]+\d+[ \t]*[:.)]|\d+[.)](?=[ \t]))[*_]{0,3}[ \t]*", re.IGNORECASE
)
FIELD = re.compile(r"^[ \t]*[*_]{0,2}(Input|Output|Label)[*_]{0,2}[ \t]*:[*_]{0,2}[ \t]*", re.IGNORECASE | re.MULTILINE)
EMPTY = {NOTHING, "", "n/a", "<noinput>", "no input", "(none)", "none."}


class Rejection(NamedTuple):
    """Why something was not kept: a reason that is counted, and what it was in this case."""

    reason: str
    detail: str = ""


class ParsedItem(NamedTuple):
    """One item of a reply by its place in it, and the fault that it already has."""

    text: str
    fault: Rejection | None = None


def incomplete(reply: Reply) -> Rejection | None:
    """Return why a reply is not whole; None where it is."""
    if reply.finish == "refused":
        return Rejection("refused", reply.note or "")
    if reply.finish == "length":
        return Rejection("cut_off", f"after {reply.tokens_out} tokens")
    return None if reply.finish == "stop" else Rejection("cut_off", reply.finish)


def parse_instructions(reply: Reply) -> list[ParsedItem]:
    """Return the instructions of a reply, at most as many as were asked for; the last of one that was cut is faulty."""
    fault = incomplete(reply)
    items = [text for item in ITEM.split(reply.text) if (text := one_line(item))]
    if not items:
        return [ParsedItem("", fault or Rejection("empty_reply"))]
    found = [ParsedItem(item) for item in items]
    if len(items) > 1 and items[0].endswith(":"):  # "Here are eight more:", as chat models begin
        found[0] = ParsedItem(items[0], Rejection("preamble"))
    if fault is not None:
        found[-1] = ParsedItem(items[-1], fault)
    return [*found[:NEW], *(ParsedItem(item.text, item.fault or Rejection("not_asked_for")) for item in found[NEW:])]


def parse_yes_no(reply: Reply) -> bool | Rejection:
    """Return the answer to whether it is a classification."""
    said = re.match(r"\W*(?:classification\W+)?(yes|no)\b", reply.text, re.IGNORECASE)
    if said is not None:
        return said[1].lower() == "yes"
    return (incomplete(reply) if reply.finish == "refused" else None) or Rejection(
        "type_unclear", reply.text.strip()[:80]
    )


def parse_instances(reply: Reply, by_label: bool) -> tuple[list[Instance], list[Rejection]]:
    """Return the whole instances of a reply, and what was wrong with the others."""
    first, second = ("label", "input") if by_label else ("input", "output")
    text = reply.text if FIELD.match(reply.text.lstrip()) else f"{first}:{reply.text}"
    parts = FIELD.split(text.strip())[1:]
    fields = [(name.lower(), value.strip()) for name, value in zip(parts[::2], parts[1::2], strict=True)]
    if by_label:  # a chat model may call a label the output
        fields = [("label" if name == "output" else name, value) for name, value in fields]
    fault, faults, found = incomplete(reply), [], []
    place = 0
    while place < len(fields):
        is_pair = [name for name, _ in fields[place : place + 2]] == [first, second]
        is_last = place + (2 if is_pair else 1) >= len(fields)
        if fault is not None and is_last:
            faults.append(fault)
        elif is_pair:
            one, other = fields[place][1], fields[place + 1][1]
            found.append(Instance(_input(other), one) if by_label else Instance(_input(one), other))
        else:
            faults.append(Rejection("malformed_instance", f"{fields[place][0]}: {fields[place][1][:60]}"))
        place += 2 if is_pair else 1
    return found, faults


def _input(text: str) -> str:
    return "" if text.lower() in EMPTY else text
