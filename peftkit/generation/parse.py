"""Parsers of a model's replies: lists of instructions, yes or no, and instances."""

from __future__ import annotations

import re
from typing import NamedTuple

from peftkit.generation.generators import Reply
from peftkit.generation.rejection import Rejection, incomplete
from peftkit.generation.self_instruct_prompts import NEW, NOTHING, one_line
from peftkit.generation.tasks import Instance

ITEM = re.compile(
    r"(?:^|\n)[ \t]*(?:[*_#]{1,3}[ \t]*)?(?:Task[ \t]+\d+[ \t]*[:.)]|\d+[.)](?=[ \t]))[*_]{0,3}[ \t]*", re.IGNORECASE
)
FIELD = re.compile(r"^[ \t]*[*_]{0,2}(Input|Output|Label)[*_]{0,2}[ \t]*:[*_]{0,2}[ \t]*", re.IGNORECASE | re.MULTILINE)
EMPTY = {NOTHING, "", "n/a", "<noinput>", "no input", "(none)", "none."}


class ParsedItem(NamedTuple):
    """One item of a list, and why it is rejected, if so."""

    text: str
    rejection: Rejection | None = None


def parse_instructions(reply: Reply) -> list[ParsedItem]:
    """Return the instructions of a reply; those beyond the requested number, and a cut last one, are rejected."""
    cut = incomplete(reply)
    items = [ParsedItem(text) for item in ITEM.split(reply.text) if (text := one_line(item))]
    if not items:
        return [ParsedItem("", cut or Rejection("empty_reply"))]
    if len(items) > 1 and items[0].text.endswith(":"):  # "Here are eight more:", as chat models begin
        items[0] = ParsedItem(items[0].text, Rejection("preamble"))
    if cut is not None:
        items[-1] = ParsedItem(items[-1].text, cut)
    beyond = (ParsedItem(item.text, item.rejection or Rejection("not_asked_for")) for item in items[NEW:])
    return [*items[:NEW], *beyond]


def parse_yes_no(reply: Reply) -> bool | Rejection:
    """Return the answer to whether a task is a classification."""
    answer = re.match(r"\W*(?:classification\W+)?(yes|no)\b", reply.text, re.IGNORECASE)
    if answer is not None:
        return answer[1].lower() == "yes"
    refused = incomplete(reply) if reply.finish == "refused" else None
    return refused or Rejection("type_unclear", reply.text.strip()[:80])


def parse_instances(reply: Reply, by_label: bool) -> tuple[list[Instance], list[Rejection]]:
    """Return the complete instances of a reply, and why the others are rejected."""
    first, second = ("label", "input") if by_label else ("input", "output")
    text = reply.text if FIELD.match(reply.text.lstrip()) else f"{first}:{reply.text}"
    parts = FIELD.split(text.strip())[1:]
    fields = [(name.lower(), value.strip()) for name, value in zip(parts[::2], parts[1::2], strict=True)]
    if by_label:  # a chat model may call a label the output
        fields = [("label" if name == "output" else name, value) for name, value in fields]
    cut = incomplete(reply)
    instances: list[Instance] = []
    rejections: list[Rejection] = []
    while fields:
        size = 2 if [name for name, _ in fields[:2]] == [first, second] else 1
        values, fields = fields[:size], fields[size:]
        if cut is not None and not fields:
            rejections.append(cut)
        elif size == 2:
            given, output = reversed(values) if by_label else values
            instances.append(Instance("" if given[1].lower() in EMPTY else given[1], output[1]))
        else:
            rejections.append(Rejection("malformed_instance", f"{values[0][0]}: {values[0][1][:60]}"))
    return instances, rejections
