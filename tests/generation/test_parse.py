"""Replies of base and chat models, whole and cut, are read; what is wrong in them is named."""

from __future__ import annotations

import pytest

from peftkit.generation import parse
from peftkit.generation.generators import Reply
from peftkit.generation.tasks import Instance


def reply(text: str, finish: str = "stop") -> Reply:
    return Reply(0, text, finish, 1, 1)


@pytest.mark.parametrize(
    "text",
    [
        " Name a river.\nTask 10: Sing of it.\nTask 11: Add\n  three lines.",
        "Task 9: Name a river.\n\nTask 10: Sing of it.\nTask 11: Add three lines.",
        "**Task 9:** Name a river.\n**Task 10:** Sing of it.\n**Task 11:** Add three lines.",
        "9. Name a river.\n10. Sing of it.\n11. Add three lines.",
    ],
)
def test_a_list_is_read_in_each_of_its_shapes(text: str) -> None:
    found = parse.parse_instructions(reply(text))
    assert [item.text for item in found] == ["Name a river.", "Sing of it.", "Add three lines."]
    assert not any(item.fault for item in found)


def test_what_is_no_instruction_is_named() -> None:
    cut = parse.parse_instructions(reply(" Name a river.\nTask 10: Sing of", "length"))
    assert [item.fault and item.fault.reason for item in cut] == [None, "cut_off"]
    assert parse.parse_instructions(reply(" "))[0].fault == parse.Rejection("empty_reply")
    chatty = parse.parse_instructions(reply("Here are eight more:\nTask 9: Name a river."))
    assert [item.fault and item.fault.reason for item in chatty] == ["preamble", None]
    many = parse.parse_instructions(reply("".join(f"Task {n}: Name river {n}.\n" for n in range(9, 19))))
    assert [item.fault and item.fault.reason for item in many][7:] == [None, "not_asked_for", "not_asked_for"]
    refused = Reply(0, "", "refused", 0, 0, note="400: too long")
    assert parse.parse_instructions(refused)[0].fault == parse.Rejection("refused", "400: too long")


@pytest.mark.parametrize(
    ("text", "answer"), [(" Yes", True), ("no.", False), ("**Yes**, it is", True), ("Classification: No", False)]
)
def test_yes_and_no_are_read(text: str, answer: bool) -> None:
    assert parse.parse_yes_no(reply(text, "length")) is answer


def test_an_answer_that_is_neither_is_a_fault() -> None:
    fault = parse.parse_yes_no(reply("It depends."))
    assert fault == parse.Rejection("type_unclear", "It depends.")


def test_instances_are_read_input_first_and_label_first() -> None:
    found, faults = parse.parse_instances(reply(" none\nOutput: 7\nInput: 2, 4\nOutput: 6,\n8"), by_label=False)
    assert (found, faults) == ([Instance("", "7"), Instance("2, 4", "6,\n8")], [])
    found, faults = parse.parse_instances(reply(" good\nInput: I smiled.\nLabel: bad\nInput: I left."), by_label=True)
    assert (found, faults) == ([Instance("I smiled.", "good"), Instance("I left.", "bad")], [])
    assert parse.parse_instances(reply("Output: bad\nInput: I left."), by_label=True)[0] == [Instance("I left.", "bad")]


def test_instances_that_are_cut_or_unpaired_are_named() -> None:
    found, faults = parse.parse_instances(reply(" 1\nOutput: 2\nInput: 3\nOutput: fo", "length"), by_label=False)
    assert (found, [fault.reason for fault in faults]) == ([Instance("1", "2")], ["cut_off"])
    found, faults = parse.parse_instances(reply(" 1\nInput: 3\nOutput: 4"), by_label=False)
    assert (found, [fault.reason for fault in faults]) == ([Instance("3", "4")], ["malformed_instance"])
    found, faults = parse.parse_instances(reply(""), by_label=False)
    assert (found, [fault.reason for fault in faults]) == ([], ["malformed_instance"])
