"""Turn a model's replies into instructions, answers and instances, and into faults where they are none."""

from __future__ import annotations

import re
from typing import NamedTuple

from peftkit.generation.generators import Reply
from peftkit.generation.prompts import NEW, NOTHING, one_line
from peftkit.generation.tasks import Instance

ITEM = re.compile(
    r"(?:^|\n)[ \t]*(?:[*_#]{1,3}[ \t]*)?(?:Task[ \t]+\d+[ \t]*[:.)]|\d+[.)](?=[ \t]))[*_]{0,3}[ \t]*", re.IGNORECASE
)
FIELD = re.compile(r"^[ \t]*[*_]{0,2}(Input|Output|Label)[*_]{0,2}[ \t]*:[*_]{0,2}[ \t]*", re.IGNORECASE | re.MULTILINE)
EMPTY = {NOTHING, "", "n/a", "<noinput>", "no input", "(none)", "none."}


class Fault(NamedTuple):
    """Why something was not kept: a reason that is counted, and what it was in this case."""

    reason: str
    detail: str = ""


class Found(NamedTuple):
    """One item of a reply by its place in it, and the fault that it already has."""

    text: str
    fault: Fault | None = None


def unfinished(reply: Reply) -> Fault | None:
    """Return why a reply is not whole; None where it is."""
    if reply.finish == "refused":
        return Fault("refused", reply.note or "")
    if reply.finish == "length":
        return Fault("cut_off", f"after {reply.tokens_out} tokens")
    return None if reply.finish == "stop" else Fault("cut_off", reply.finish)


def instructions(reply: Reply) -> list[Found]:
    """Return the instructions of a reply, at most as many as were asked for; the last of one that was cut is faulty."""
    fault = unfinished(reply)
    items = [text for item in ITEM.split(reply.text) if (text := one_line(item))]
    if not items:
        return [Found("", fault or Fault("empty_reply"))]
    found = [Found(item) for item in items]
    if len(items) > 1 and items[0].endswith(":"):  # "Here are eight more:", as chat models begin
        found[0] = Found(items[0], Fault("preamble"))
    if fault is not None:
        found[-1] = Found(items[-1], fault)
    return [*found[:NEW], *(Found(item.text, item.fault or Fault("not_asked_for")) for item in found[NEW:])]


def yes_or_no(reply: Reply) -> bool | Fault:
    """Return the answer to whether it is a classification."""
    said = re.match(r"\W*(?:classification\W+)?(yes|no)\b", reply.text, re.IGNORECASE)
    if said is not None:
        return said[1].lower() == "yes"
    return (unfinished(reply) if reply.finish == "refused" else None) or Fault("type_unclear", reply.text.strip()[:80])


def cases(reply: Reply, by_label: bool) -> tuple[list[Instance], list[Fault]]:
    """Return the whole instances of a reply, and what was wrong with the others."""
    first, second = ("label", "input") if by_label else ("input", "output")
    text = reply.text if FIELD.match(reply.text.lstrip()) else f"{first}:{reply.text}"
    parts = FIELD.split(text.strip())[1:]
    fields = [(name.lower(), value.strip()) for name, value in zip(parts[::2], parts[1::2], strict=True)]
    if by_label:  # a chat model may call a label the output
        fields = [("label" if name == "output" else name, value) for name, value in fields]
    fault, faults, found = unfinished(reply), [], []
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
            faults.append(Fault("malformed_instance", f"{fields[place][0]}: {fields[place][1][:60]}"))
        place += 2 if is_pair else 1
    return found, faults


def _input(text: str) -> str:
    return "" if text.lower() in EMPTY else text
