"""Replies of base and chat models, complete and cut, are parsed, and rejections have their reasons."""

from __future__ import annotations

import pytest

from peftkit.generation.filters import Rejection
from peftkit.generation.generators import Reply
from peftkit.generation.instruction_tasks import Instance
from peftkit.generation.self_instruct import parse_instances, parse_instructions, parse_yes_no


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
def test_a_list_is_parsed_in_all_its_formats(text: str) -> None:
    found = parse_instructions(reply(text))
    assert [item for item, _ in found] == ["Name a river.", "Sing of it.", "Add three lines."]
    assert not any(rejection for _, rejection in found)


def test_items_that_are_no_instructions_are_rejected() -> None:
    cut = parse_instructions(reply(" Name a river.\nTask 10: Sing of", "length"))
    assert [rejection and rejection.reason for _, rejection in cut] == [None, "cut_off"]
    assert parse_instructions(reply(" "))[0][1] == Rejection("empty_reply")
    chatty = parse_instructions(reply("Here are eight more:\nTask 9: Name a river."))
    assert [rejection and rejection.reason for _, rejection in chatty] == ["preamble", None]
    many = parse_instructions(reply("".join(f"Task {n}: Name river {n}.\n" for n in range(9, 19))))
    assert [rejection and rejection.reason for _, rejection in many][7:] == [None, "not_asked_for", "not_asked_for"]
    refused = Reply(0, "", "refused", 0, 0, note="400: too long")
    assert parse_instructions(refused)[0][1] == Rejection("refused", "400: too long")


@pytest.mark.parametrize(
    ("text", "answer"), [(" Yes", True), ("no.", False), ("**Yes**, it is", True), ("Classification: No", False)]
)
def test_yes_and_no_are_parsed(text: str, answer: bool) -> None:
    assert parse_yes_no(reply(text, "length")) is answer


def test_an_answer_that_is_neither_is_rejected() -> None:
    rejection = parse_yes_no(reply("It depends."))
    assert rejection == Rejection("type_unclear", "It depends.")


def test_instances_are_parsed_input_first_and_label_first() -> None:
    found, rejections = parse_instances(reply(" none\nOutput: 7\nInput: 2, 4\nOutput: 6,\n8"), by_label=False)
    assert (found, rejections) == ([Instance("", "7"), Instance("2, 4", "6,\n8")], [])
    found, rejections = parse_instances(reply(" good\nInput: I smiled.\nLabel: bad\nInput: I left."), by_label=True)
    assert (found, rejections) == ([Instance("I smiled.", "good"), Instance("I left.", "bad")], [])
    assert parse_instances(reply("Output: bad\nInput: I left."), by_label=True)[0] == [Instance("I left.", "bad")]


def test_cut_and_unpaired_instances_are_rejected() -> None:
    found, rejections = parse_instances(reply(" 1\nOutput: 2\nInput: 3\nOutput: fo", "length"), by_label=False)
    assert (found, [rejection.reason for rejection in rejections]) == ([Instance("1", "2")], ["cut_off"])
    found, rejections = parse_instances(reply(" 1\nInput: 3\nOutput: 4"), by_label=False)
    assert (found, [rejection.reason for rejection in rejections]) == ([Instance("3", "4")], ["malformed_instance"])
    found, rejections = parse_instances(reply(""), by_label=False)
    assert (found, [rejection.reason for rejection in rejections]) == ([], ["malformed_instance"])
