"""Instructions as tokens: prompts, labels, truncation, packing, and the format of an answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from helpers.conversations import TASK, conversation_examples, table, turns
from transformers import PreTrainedTokenizerBase

from peftkit.data.batches import best_fit_decreasing
from peftkit.data.formats import Predictions
from peftkit.data.formats.instructions import InstructionFormat, answer_format_of
from peftkit.models.offline import train_tokenizer

TEXTS = ["Name a river. Be brief. The Elbe. ### Instruction: Response: user: assistant: 1 2 3 yes no"]


@pytest.fixture(scope="module")
def gpt2() -> PreTrainedTokenizerBase:
    return train_tokenizer("gpt2-mini", TEXTS, 400)


@pytest.fixture(scope="module")
def t5() -> PreTrainedTokenizerBase:
    return train_tokenizer("t5-mini", TEXTS, 400)


def rows_of(*contents: list[dict[str, str]]) -> Dataset:
    return conversation_examples(TASK, table(*({"messages": each} for each in contents)))[0]


def test_deeply_nested_brackets_are_a_text() -> None:
    assert answer_format_of(["[" * 200_000]).name == "text"


def test_only_the_answer_and_its_end_have_labels_in_a_decoder(gpt2: PreTrainedTokenizerBase) -> None:
    encoded = InstructionFormat(TASK, gpt2, "decoder").encode(rows_of(turns("Name a river.", "The Elbe.")))
    row = encoded.inputs[0]
    learned = [token for token in row["labels"] if token >= 0]
    assert gpt2.decode(learned[:-1]) == "The Elbe." and learned[-1] == gpt2.eos_token_id
    assert gpt2.decode(row["input_ids"]).startswith("### Instruction:\nName a river.\n\n### Response:\nThe Elbe.")
    assert encoded.truncated == 0 and gpt2.chat_template is not None


def test_an_answer_ends_even_where_the_template_has_no_end_of_text(gpt2: PreTrainedTokenizerBase) -> None:
    other = train_tokenizer("gpt2-mini", TEXTS, 400)
    other.chat_template = "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}{% endfor %}"
    encoded = InstructionFormat(TASK, other, "decoder").encode(rows_of(turns("Name a river.", "The Elbe.")))
    assert encoded.inputs[0]["labels"][-1] == other.eos_token_id


def test_a_prompt_loses_its_start_and_an_answer_its_end_and_both_count_as_truncated(
    gpt2: PreTrainedTokenizerBase,
) -> None:
    task = replace(TASK, max_length=8, max_target_length=3)
    rows = rows_of(turns("Name a river. Be brief.", "The Elbe. The Elbe."), turns("a", "b"))
    encoded = InstructionFormat(task, gpt2, "decoder").encode(rows)
    whole = InstructionFormat(TASK, gpt2, "decoder").encode(rows)
    (_, read), (_, all_read) = encoded.positions[0], whole.positions[0]
    assert read == all_read[-8:] and len(encoded.inputs[0]["input_ids"]) == 11 and encoded.truncated == 2
    assert [t for t in encoded.inputs[0]["labels"] if t >= 0] == [t for t in whole.inputs[0]["labels"] if t >= 0][:3]


def test_t5_reads_the_texts_and_the_roles_of_several_turns(t5: PreTrainedTokenizerBase) -> None:
    encoded = InstructionFormat(TASK, t5, "seq2seq").encode(
        rows_of(turns("Name a river.", "The Elbe.", "Be brief.", "Elbe."))
    )
    read = [t5.decode(ids, skip_special_tokens=True) for ids in encoded.inputs["input_ids"]]
    assert read == ["Name a river.", "user: Name a river. assistant: The Elbe. user: Be brief."]
    assert t5.decode(encoded.inputs[0]["labels"], skip_special_tokens=True) == "The Elbe."
    assert encoded.inputs[0]["labels"][-1] == t5.eos_token_id


def test_blocks_contain_every_example_whole_and_once(gpt2: PreTrainedTokenizerBase) -> None:
    rows = rows_of(*(turns("Name a river." * (number % 3 + 1), "The Elbe.") for number in range(9)))
    talk = InstructionFormat(replace(TASK, packing=True), gpt2, "decoder")
    alone, blocks = talk.encode(rows), talk.encode_training(rows, 0)
    found = []
    for block, size in zip(blocks.inputs, blocks.lengths, strict=True):
        starts = [place for place, position in enumerate(block["position_ids"][:size]) if position == 0]
        for start, stop in zip(starts, [*starts[1:], size], strict=True):
            found.append((block["input_ids"][start:stop], block["labels"][start:stop]))
        assert (
            set(block["labels"][size:]) <= {-100} and len(block["input_ids"]) == talk.prompt_limit + talk.max_new_tokens
        )
    assert sorted(found) == sorted(zip(alone.inputs["input_ids"], alone.inputs["labels"], strict=True))
    assert talk.label_counts(blocks)["blocks"] == len(blocks.lengths) < 9 == len(blocks.has_label)


def test_best_fit_leaves_no_block_that_another_could_have_taken() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 300).tolist()
    blocks = best_fit_decreasing(lengths, 100)
    sums = [sum(lengths[row] for row in block) for block in blocks]
    assert sorted(row for block in blocks for row in block) == list(range(300)) and max(sums) <= 100
    assert len(blocks) <= 1.05 * np.ceil(sum(lengths) / 100)
    assert best_fit_decreasing([60, 50, 50, 40], 100) == [[0, 3], [1, 2]]


@pytest.mark.parametrize(
    ("references", "name", "good", "bad"),
    [
        (["7", "1,200.5", "-3", "40 %"], "number", ["12", "12."], ["twelve", "12 apples", ""]),
        (['{"a": 1}', "[2]"], "json", ["[]"], ["{a: 1}", "12", ""]),
        (["- a\n- b", "1. a\n2. b"], "list", ["* x\n\n* y"], ["- x", "x\ny", "- x\ny"]),
        (["Positive", "negative", "positive.", "Negative"], "choice", ["NEGATIVE", " positive "], ["neutral", ""]),
        (["yes", "no", "yes"], "text", ["maybe"], ["", "  "]),
        (["The sky is blue today.", "The sky is blue today.", "The sky is blue today."], "text", ["x"], [""]),
    ],
)
def test_the_expected_format_is_that_of_all_references(
    references: list[str], name: str, good: list[str], bad: list[str]
) -> None:
    form = answer_format_of(references)
    assert form.name == name
    assert all(form.matches(text) for text in good) and not any(form.matches(text) for text in bad)


def test_a_model_without_line_breaks_needs_no_list() -> None:
    assert answer_format_of(["- a\n- b"], has_lines=False).name == "text"


def test_a_truncated_answer_does_not_follow_the_format(gpt2: PreTrainedTokenizerBase) -> None:
    talk = InstructionFormat(TASK, gpt2, "decoder")
    rows = rows_of(turns("Count.", "1"), turns("Name a river.", "The Elbe."))
    encoded = talk.encode(rows)
    nothing: list[Any] = [np.array([1.0, 2.0]), np.array([1.0, 2.0])]
    predictions = Predictions(["3", "The"], nothing)
    assert talk.check_answers(predictions, [True, False], encoded).follows_format.tolist() == [1, 0]  # type: ignore[union-attr]
    assert talk.check_answers(Predictions(["three", "No."], nothing), [True, True], encoded).scores[0].tolist() == [
        1.0,
        2.0,
        0.0,
    ]
    assert talk.label_counts(encoded)["forms"] == {"number": 1, "text": 1}
