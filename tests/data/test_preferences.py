"""Preference pairs from texts and turns, their truncation, and splits that keep prompts together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import compose_config
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from peftkit.config import RunConfig, TaskConfig, UserError
from peftkit.data.conversations import encode_prompt
from peftkit.data.datasets import example_reader, load_task_dataset
from peftkit.data.formats.preferences import PreferenceFormat

USER = {"role": "user", "content": "name a city"}
OTHER = {"role": "user", "content": "another"}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.fixture
def tokenizer(checkpoints: dict[str, Path]) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(checkpoints["gpt2"])


@pytest.fixture
def task(tmp_path: Path) -> Callable[..., TaskConfig]:
    """Return a task with these examples: task([{...}], max_length=8)."""

    def made(rows: list[dict[str, Any]], **changed: Any) -> TaskConfig:
        file = tmp_path / "pairs.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return replace(
            RunConfig.from_config(compose_config(["task=preferences", f"task.dataset={file}"])).task, **changed
        )

    return made


def test_pairs_without_a_preference_or_a_text_are_dropped_and_counted(task: Callable[..., TaskConfig]) -> None:
    good = [{"prompt": f"p{row}", "chosen": "a", "rejected": "b"} for row in range(20)]
    bad = [
        {"prompt": "p", "chosen": "same", "rejected": "same"},
        {"prompt": "p", "chosen": " ", "rejected": "b"},
        {"prompt": None, "chosen": "a", "rejected": "b"},
    ]
    rows = load_task_dataset(task(good + bad), None, "offline")
    assert sum(len(table) for table in rows.splits.values()) == 20 and sum(rows.dropped.values()) == 3


def test_equal_answers_alone_are_refused_as_such(task: Callable[..., TaskConfig]) -> None:
    rows = [{"prompt": f"p{row}", "chosen": "same", "rejected": "same "} for row in range(9)]
    with pytest.raises(UserError, match="has a prompt and two different answers"):
        load_task_dataset(task(rows), None, "offline")


def scored(better: Callable[[int], float], names: tuple[str, str] = ("score_chosen", "score_rejected")) -> list[Any]:
    """Return pairs whose chosen answers have these scores, the rejected ones 5."""
    rows = range(40)
    return [{"prompt": f"p{n}", "chosen": "a", "rejected": "b", names[0]: better(n), names[1]: 5.0} for n in rows]


def test_pairs_scored_against_their_order_are_stated(
    task: Callable[..., TaskConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    load_task_dataset(task(scored(lambda n: 6 + n)), None, "offline")
    assert "score_chosen" not in capsys.readouterr().err
    load_task_dataset(task(scored(lambda n: [4, 5, 6, 7][n % 4])), None, "offline")
    counts = re.findall(
        r"!! .*: (\d+) of (\d+) pairs .* lower score_chosen .*and (\d+) have equal", capsys.readouterr().err
    )
    assert [sum(map(int, each)) for each in zip(*counts, strict=True)] == [10, 40, 10]


@pytest.mark.parametrize("names", [("score_chosen", "score_rejected"), ("chosen-rating", "rejected-rating")])
def test_pairs_in_reversed_order_are_refused_with_the_right_order(
    task: Callable[..., TaskConfig], names: tuple[str, str]
) -> None:
    rows = scored(lambda n: 6 if n % 4 == 0 else 1, names)
    with pytest.raises(UserError, match=f"2[6-9] of 36 pairs .*{names[0]}") as caught:
        load_task_dataset(task(rows), None, "offline")
    assert caught.value.fix == ("task.text=[prompt,rejected,chosen]",)
    load_task_dataset(task(rows, text=["prompt", "rejected", "chosen"]), None, "offline")


def test_no_prompt_is_in_two_splits(task: Callable[..., TaskConfig]) -> None:
    rows = [{"prompt": f"p{row % 10}", "chosen": f"a{row}", "rejected": "b"} for row in range(60)]
    chosen = task(rows)
    splits = load_task_dataset(chosen, None, "offline").splits
    train, held = (set(splits[name]["prompt"]) for name in ("train", "validation"))
    assert train | held == {f"p{row}" for row in range(10)} and not train & held
    assert len(splits["validation"]) == 6
    rest, held_out = example_reader(chosen).split(splits["train"], 0.3)
    assert not set(rest["prompt"]) & set(held_out["prompt"]) and len(rest) + len(held_out) == 54
    apart_rows = load_task_dataset(chosen, None, "offline", search_samples=6).splits
    first, second = (set(table["prompt"]) for table in apart_rows.values())
    assert not first & second


def test_a_single_prompt_is_refused(task: Callable[..., TaskConfig]) -> None:
    with pytest.raises(UserError, match="all examples have one prompt"):
        load_task_dataset(
            task([{"prompt": "p", "chosen": f"a{row}", "rejected": "b"} for row in range(9)]), None, "offline"
        )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([[USER], [assistant("rome")], [assistant("bread")]], [[OTHER], [assistant("oslo")], [assistant("no")]]),
        ([[USER], "rome", "bread"], [[OTHER], "oslo", "no"]),
        (
            ["name a city", [USER, assistant("rome")], [USER, assistant("bread")]],
            ["another", [assistant("oslo")], [assistant("no")]],
        ),
    ],
)
def test_turns_are_formatted_by_the_chat_template(
    task: Callable[..., TaskConfig], tokenizer: PreTrainedTokenizerBase, first: list[Any], second: list[Any]
) -> None:
    chosen = task([dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in (first, second)])
    tables = load_task_dataset(chosen, None, "offline").splits.values()
    table = next(table for table in tables if table["prompt"][0] == [USER])
    (row,) = PreferenceFormat(chosen, tokenizer, "decoder").encode(table).inputs
    assert row["prompt_ids"] == encode_prompt(tokenizer, [USER])
    assert tokenizer.decode(row["chosen_ids"]) == f"rome{tokenizer.eos_token}"
    assert tokenizer.decode(row["rejected_ids"]) == f"bread{tokenizer.eos_token}"


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ([{"role": "user", "content": "rome"}], "ends with a turn of user"),
        ([assistant("no"), assistant("rome")], "not those of its prompt"),
    ],
)
def test_invalid_answers_are_refused(task: Callable[..., TaskConfig], answer: list[Any], sentence: str) -> None:
    row = {"prompt": [USER], "chosen": answer, "rejected": [assistant("bread")]}
    with pytest.raises(UserError, match=sentence):
        load_task_dataset(task([row, {**row, "prompt": [assistant("x")]}]), None, "offline")


def test_a_long_prompt_keeps_its_end_and_a_long_answer_its_start(
    task: Callable[..., TaskConfig], tokenizer: PreTrainedTokenizerBase
) -> None:
    long = {"prompt": "a b c d e f g h", "chosen": "one two three four five six", "rejected": "one two three four no"}
    short = {"prompt": "a", "chosen": "b", "rejected": "c"}
    chosen = task([long, short], max_length=4, max_target_length=3)
    splits = load_task_dataset(replace(chosen, max_length=4), None, "offline").splits
    tables = {
        table["prompt"][0]: PreferenceFormat(chosen, tokenizer, "decoder").encode(table) for table in splits.values()
    }
    cut, whole = tables[long["prompt"]], tables["a"]
    assert cut.truncated == 1 and whole.truncated == 0
    row = cut.inputs[0]
    assert row["prompt_ids"] == tokenizer("a b c d e f g h")["input_ids"][-4:]
    assert row["chosen_ids"] == tokenizer("\none two three four five six")["input_ids"][:3]
    assert PreferenceFormat(chosen, tokenizer, "decoder").label_counts(cut) == {"pairs": 1, "alike once cut": 1}


def test_a_text_is_a_turn_with_task_chat(task: Callable[..., TaskConfig], tokenizer: PreTrainedTokenizerBase) -> None:
    row = {"prompt": "name a city", "chosen": "rome", "rejected": "bread"}
    plain, chat = (
        PreferenceFormat(task([row], chat=is_chat), tokenizer, "decoder").prompts(["name a city"])
        for is_chat in (None, True)
    )
    assert plain == [tokenizer("name a city")["input_ids"]] and chat == [encode_prompt(tokenizer, [USER])]
    again = PreferenceFormat(task([row]), tokenizer, "decoder").prompts(
        ["name a city"]
    )  # the tokenizer has a template now
    assert again == chat
