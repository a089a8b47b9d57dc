"""Generation settings: names, values and combinations, against transformers' own validation."""

from __future__ import annotations

from dataclasses import fields
from itertools import product
from typing import Any

import pytest
from helpers.commands import apply_fix, check, choose
from transformers import GenerationConfig

from peftkit.config.checks.decoding import generation_setting_errors
from peftkit.config.decoding import OF_BEAMS, OF_SAMPLING, GenerationSettings
from peftkit.leaderboard.settings import flatten
from peftkit.results.run_folder import run_id

ANSWERS = ["task=instructions", "task.dataset=tests/cases/chat_weight.jsonl", "model=gpt2"]
VALUES: dict[str, list[Any]] = {
    "do_sample": [True, False, None], "num_beams": [1, 4, None], "temperature": [0.7, 1.0], "top_k": [5, 50],
    "top_p": [0.5, 1.0], "top_h": [0.5], "min_p": [0.1], "typical_p": [0.5, 1.0], "epsilon_cutoff": [0.1, 0.0],
    "eta_cutoff": [0.1, 0.0], "length_penalty": [2.0, 1.0], "early_stopping": [True, False, "never"],
}  # fmt: skip


def is_valid(settings: dict[str, Any]) -> bool:
    try:
        GenerationConfig(**settings).validate(strict=True)
    except ValueError:
        return False
    return True


def test_a_setting_is_refused_exactly_where_upstream_finds_it_without_effect() -> None:
    others = [name for name in VALUES if name not in ("do_sample", "num_beams")]
    assert {*others} == {*OF_SAMPLING, *OF_BEAMS}
    for sample, beams, name in product(VALUES["do_sample"], VALUES["num_beams"], others):
        for value in VALUES[name]:
            settings = {"do_sample": sample, "num_beams": beams, name: value}
            assert (not list(generation_setting_errors(settings))) == is_valid(settings), settings


def test_every_setting_is_upstream_s() -> None:
    assert {field.name for field in fields(GenerationSettings)} <= GenerationConfig().to_dict().keys()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("num_beam=4", "unknown setting of transformers.GenerationConfig; did you mean task.generation.num_beams?"),
        ("temperature=0.7", "is for sampling; set task.generation.do_sample=true, or drop it"),
        ("top_p=1.5", "expected a number above 0, at most 1"),
        ("do_sample=1", "expected true or false or null"),
        ("max_length=3", "would count the tokens of the prompt too; use task.generation.max_new_tokens"),
        ("num_return_sequences=2", "an example has one prediction; drop it"),
        ("min_new_tokens=200", "more than the 128 tokens of an answer; set task.generation.max_new_tokens=200"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_to_type(typed: str, message: str) -> None:
    command = [*ANSWERS, f"task.generation.{typed}"]
    (found,) = check(command)
    assert message in found
    for fix in getattr(found, "fix", ()):
        assert found not in check(apply_fix(command, fix))


def test_settings_are_refused_where_no_text_is_generated() -> None:
    (found,) = check(["task=sst2", "task.generation.num_beams=4"])
    assert "task.generation is for generated text" in found
    pairs = ["task=preferences", "model=gpt2", "task.dataset=tests/cases/dpo_dictturn.jsonl"]
    (found,) = check([*pairs, "task.generation.num_beams=4"])
    assert "no text is generated before job=predict" in found


def test_settings_are_part_of_the_id_and_of_the_entry_on_a_board_and_none_change_neither() -> None:
    (plain,), (beams,) = choose(ANSWERS), choose([*ANSWERS, "task.generation={num_beams: 4}"])
    earlier = plain.to_dict()
    del earlier["task"]["generation"]
    assert run_id(type(plain).from_config(earlier), {}, {}) == run_id(plain, {}, {}) != run_id(beams, {}, {})
    assert flatten(beams.to_dict())["task.generation.num_beams"] == "4"
    assert not any(name.startswith("task.generation") for name in flatten(plain.to_dict()))


def test_settings_of_a_generator_are_checked_as_those_of_a_task_are() -> None:
    local = ["job=generate", "model=gpt2"]
    assert check([*local, "generate.generation.top_k=20", "generate.generation.repetition_penalty=1.2"]) == []
    for typed, message in {
        "generate.generation.temperature=0.7": "use generate.temperature",
        "generate.generation.num_beams=4": "each reply is sampled with a seed of its own",
        "generate.generation.topk=4": "did you mean generate.generation.top_k?",
    }.items():
        assert message in check([*local, typed])[0]
    (found,) = check(["job=generate", "generate.generator=endpoint", "generate.base_url=http://127.0.0.1:1/v1",
                      "generate.endpoint_model=x", "generate.generation.top_k=20"])  # fmt: skip
    assert "generate.generation is for generate.generator=local" in found
