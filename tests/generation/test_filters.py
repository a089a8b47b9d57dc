"""Each filter of the papers rejects what it names, and nothing else."""

from __future__ import annotations

import pytest

from peftkit.generation.filters import check_instances, check_instruction
from peftkit.generation.instruction_tasks import Instance


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "too_short"),
        ("Go on", "too_short"),
        ("Name a river", None),
        ("word " * 150, None),
        ("word " * 151, "too_long"),
        ("- name a river", "starts_with_punctuation"),
        ("“Name a river”", "starts_with_punctuation"),
        ("Draw an Image of it", "blacklist"),
        ("Say how imagery works", None),
        ("Назови одну реку", "not_latin"),
        ("1 2 3 4", "not_latin"),
        ("Say “это моя река и мой дом” aloud", "not_latin"),
        ("Übersetze das Wort река", None),
    ],
)
def test_instructions(text: str, reason: str | None) -> None:
    rejection = check_instruction(text, [3, 150], ["image", "map"])
    assert (rejection.reason if rejection else None) == reason


def test_instances() -> None:
    given = [
        Instance("1", "one"), Instance("2", "two"), Instance("2", "Zwei"), Instance("3", " 3 "), Instance("4", ""),
        Instance("5", "Count."), Instance("1", "one"), Instance("", "nil"), Instance("", "null"),
    ]  # fmt: skip
    assert [rejection and rejection.reason for rejection in check_instances(given, "Count.")] == [
        None, "same_input_other_output", "same_input_other_output", "output_is_input", "empty_output", "output_is_instruction",
        "same_instance", None, None,
    ]  # fmt: skip
