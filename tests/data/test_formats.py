"""Formats encode each kind of task and decode it without losing words, characters or windows."""

from __future__ import annotations

import csv
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from peftkit.config import TaskConfig, UserError
from peftkit.data.datasets import TaskDataset, load_task_dataset
from peftkit.data.formats import format_of
from peftkit.data.formats import question_answering as spans_module
from peftkit.data.formats.base import fill_template
from peftkit.data.formats.question_answering import QuestionAnsweringFormat
from peftkit.data.formats.text_generation import TextGenerationFormat
from peftkit.data.formats.token_classification import TokenClassificationFormat
from peftkit.data.tables import read_file
from peftkit.data.unknown_tokens import UnknownTokens, count_unknown_tokens

BASE: dict[str, Any] = {
    "suite": "own", "subset": None, "revision": "main", "labels": None, "template": None, "metrics": ["accuracy"],
    "splits": {"train": "train", "validation": ["validation"]}, "max_train_samples": None, "max_eval_samples": None,
}  # fmt: skip


def task_of(path: Path, **more: Any) -> TaskConfig:
    return TaskConfig(name="t", dataset=str(path), **{**BASE, "max_length": 32, **more})


def rows_of(task: TaskConfig) -> TaskDataset:
    return load_task_dataset(task, None, "offline")


def tags_of(path: Path, **more: Any) -> TaskConfig:
    return task_of(path, kind="token_classification", text=["tokens"], label="tags", **more)


def spans_of(path: Path, **more: Any) -> TaskConfig:
    return task_of(path, kind="question_answering", text=["question", "context"], label="answers", **more)


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def folder(path: Path, *rows: dict[str, Any]) -> Path:
    """Write rows as train, and as validation with another first word in the first column."""
    lines(path / "train.jsonl", *rows)
    firsts = [(row, *next(iter(row.items()))) for row in rows]
    others = [
        {**row, name: f"again {text}" if isinstance(text, str) else ["again", *text[1:]]} for row, name, text in firsts
    ]
    lines(path / "validation.jsonl", *others)
    return path


SENTENCE = {"tokens": ["films", "\u200b", "shine", "brightly"], "tags": ["NOUN", "X", "VERB", "ADV"]}


@pytest.mark.parametrize("model", ["bert", "gpt2", "t5"])
def test_the_first_token_of_each_word_gets_its_tag(tmp_path: Path, checkpoints: dict[str, Path], model: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints[model])
    task = tags_of(folder(tmp_path, SENTENCE, {"tokens": ["the", "actor", "sang"], "tags": ["X", "NOUN", "VERB"]}))
    rows = rows_of(task)
    assert rows.label_names == ["ADV", "NOUN", "VERB", "X"]
    encoded = TokenClassificationFormat(task, tokenizer, names=rows.label_names).encode(rows.splits["train"])
    for row, first_tokens in enumerate(encoded.positions):
        words, tags = rows.splits["train"][row]["tokens"], rows.splits["train"][row]["label"]
        targets, ids = encoded.inputs[row]["labels"], encoded.inputs[row]["input_ids"]
        for word, place, tag in zip(words, first_tokens, tags, strict=True):
            if place >= 0:
                assert targets[place] == tag
                start = tokenizer.decode(ids[place : place + 9]).strip().lower()
                assert start.startswith(word[:1]) or "[UNK]" in start.upper() or word == "\u200b"
        assert sum(target >= 0 for target in targets) == sum(place >= 0 for place in first_tokens)


def test_words_of_a_byte_level_tokenizer_are_encoded_as_in_a_text(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["gpt2"])
    task = tags_of(folder(tmp_path, {"tokens": ["the", "actor", "sang"], "tags": ["X", "NOUN", "VERB"]}))
    encoded = TokenClassificationFormat(task, tokenizer, names=["NOUN", "VERB", "X"]).encode(
        rows_of(task).splits["train"]
    )
    assert encoded.inputs[0]["input_ids"] == tokenizer("the actor sang")["input_ids"]


def test_a_word_that_was_cut_is_counted_and_gets_no_tag(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    task = tags_of(folder(tmp_path, {"tokens": ["a"] * 10, "tags": ["X"] * 10}), max_length=6)
    reads = TokenClassificationFormat(task, tokenizer, names=["X"])
    encoded = reads.encode(rows_of(task).splits["train"])
    assert encoded.truncated == 1
    assert encoded.positions == [[1, 2, 3, 4, *[-1] * 6]]
    (tags,) = reads.decode(reads.unpad(np.zeros((1, 8, 1)), encoded), encoded).predictions
    assert tags == [0, 0, 0, 0, *[-1] * 6]
    assert reads.describe(tags)[3:5] == ["X", None]


def test_different_numbers_of_tags_and_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 words and 2 tags"):
        rows_of(tags_of(folder(tmp_path, {"tokens": ["a", "b", "c"], "tags": ["X", "X"]})))


def cells(path: Path, *rows: tuple[str, str]) -> TaskConfig:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("tokens", "tags"), *rows])
    return tags_of(path)


@pytest.mark.parametrize(
    ("words", "tags"),
    [
        ("['the', \"actor's\"]", "['X', 'NOUN']"),  # pandas, of lists
        ('["the", "actor\'s"]', '["X", "NOUN"]'),  # JSON
        ("['the' \"actor's\"]", "['X'\n 'NOUN']"),  # pandas, of arrays
        ("the actor's", "X NOUN"),
    ],
)
def test_a_list_in_a_cell_is_parsed(tmp_path: Path, words: str, tags: str) -> None:
    task = cells(tmp_path / "rows.csv", *[(words, tags)] * 10)
    rows = rows_of(task)
    assert rows.label_names == ["NOUN", "X"]
    assert rows.splits["train"][0]["tokens"] == ["the", "actor's"] and rows.splits["train"][0]["label"] == [1, 0]


def test_lists_of_ids_and_of_other_scripts_are_parsed_and_brackets_in_a_text_stay(tmp_path: Path) -> None:
    rows = [(json.dumps(["die", "Straße", "\U0001f600"]), "[3, 10, -1]"), ("[ Applause ] [sic]", "[0 3\n 10  3]")]
    (table,) = (rows_of(cells(tmp_path / "rows.csv", *rows * 10)).splits["train"],)
    assert {tuple(words) for words in table["tokens"]} == {
        ("die", "Straße", "\U0001f600"), ("[", "Applause", "]", "[sic]"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "tags"),
    [("['the' ... 'sang']", "X X X"), ("['the', 'actor's', 'sang']", "X X X"), ("a b c", "[0 ... 7]")],
)
def test_an_incomplete_or_invalid_list_is_refused(tmp_path: Path, words: str, tags: str) -> None:
    with pytest.raises(UserError, match=r"\[.* is not a list; write \['a', 'b'\], or words"):
        rows_of(cells(tmp_path / "rows.csv", *[(words, tags)] * 10))


def test_conll_and_conllu_files_are_read(tmp_path: Path) -> None:
    conll = tmp_path / "a.conll"
    conll.write_text("-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\nPeter NNP B-NP B-PER\n")
    assert read_file(conll).to_list() == [
        {"tokens": ["EU", "rejects"], "column_2": ["NNP", "VBZ"], "column_3": ["B-NP", "B-VP"], "tags": ["B-ORG", "O"]},
        {"tokens": ["Peter"], "column_2": ["NNP"], "column_3": ["B-NP"], "tags": ["B-PER"]},
    ]
    conllu = tmp_path / "a.conllu"
    line = "{}\t{}\t{}\t{}\t_\t_\t0\troot\t_\t_\n"
    words = "# text = don't\n" + line.format("1-2", "don't", "_", "_")
    conllu.write_text(words + line.format(1, "do", "do", "AUX") + line.format(2, "n't", "not", "PART"))
    (row,) = read_file(conllu).to_list()
    assert row["tokens"] == ["do", "n't"] and row["upos"] == ["AUX", "PART"]
    conll.write_text("EU NNP B-ORG\nrejects O\n")
    with pytest.raises(UserError, match="line 2 has 2 columns, not 3"):
        read_file(conll)


PASSAGE = "the actor sang . " * 12 + "the writer slept in rome . " + "the critic left . " * 6
QUESTION = {"question": "where did the writer sleep ?", "context": PASSAGE}
ANSWERED = {**QUESTION, "answers": {"text": ["rome"], "answer_start": [PASSAGE.index("rome")]}}
EMPTY = {**QUESTION, "question": "who won ?", "answers": {"text": [], "answer_start": []}}


@pytest.mark.parametrize("model", ["bert", "gpt2", "t5"])
def test_each_answer_is_found_again_in_the_windows_of_a_long_passage(
    tmp_path: Path, checkpoints: dict[str, Path], model: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints[model])
    tokenizer.model_max_length = 512
    task = spans_of(folder(tmp_path, ANSWERED, EMPTY), no_answer=True, max_length=80, stride=20)
    reads = QuestionAnsweringFormat(task, tokenizer)
    encoded = reads.encode(rows_of(task).splits["train"])
    assert encoded.example_of is not None and max(encoded.lengths) <= 80
    assert np.bincount(encoded.example_of).min() > 1
    # a model that is sure of the labels
    scores = np.full((len(encoded.lengths), max(encoded.lengths), 2), -100.0)
    for window, (row, length) in enumerate(zip(encoded.inputs, encoded.lengths, strict=True)):
        scores[window, :length] = 0.0
        scores[window, row["start_positions"], 0] = scores[window, row["end_positions"], 1] = 5.0
    answers = reads.decode(reads.unpad(scores, encoded), encoded)
    assert answers.predictions == ["rome", ""]
    passages = {tokenizer.decode(row["input_ids"]) for row in encoded.inputs}
    assert len(passages) == len(encoded.inputs)  # no window twice
    for (passage, spans, none), row in zip(encoded.positions, encoded.inputs, strict=True):
        ids = row["input_ids"]
        assert ids[none] in (tokenizer.cls_token_id, tokenizer.eos_token_id)
        at, left, right = spans[2]
        piece = tokenizer.decode([ids[at]]).strip().lower()
        assert piece in (passage[left:right].strip(), "", "[unk]")


def test_a_window_keeps_a_few_bytes_per_token_and_its_passage_once(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    other = {**QUESTION, "answers": {"text": ["writer"], "answer_start": [PASSAGE.index("writer")]}}
    task = spans_of(folder(tmp_path, *[ANSWERED, other] * 15), max_length=48, stride=20)
    tracemalloc.start()
    encoded = QuestionAnsweringFormat(task, tokenizer).encode(rows_of(task).splits["train"])
    with_places, _ = tracemalloc.get_traced_memory()
    windows = len(encoded.positions)
    encoded.positions.clear()
    without, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert windows > 100
    assert with_places - without < windows * 800  # of 24 tokens of a passage, and of numpy, whatever their number


def test_windows_do_not_depend_on_how_many_examples_are_read_at_once(
    tmp_path: Path, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = spans_of(folder(tmp_path, *[ANSWERED, EMPTY] * 5), no_answer=True, max_length=60, stride=20)
    reads, rows = (
        QuestionAnsweringFormat(task, AutoTokenizer.from_pretrained(checkpoints["bert"])),
        rows_of(task).splits["train"],
    )
    whole = reads.encode(rows)
    monkeypatch.setattr(spans_module, "BATCH_EXAMPLES", 3)
    parts = reads.encode(rows)
    assert whole.example_of is not None and parts.example_of is not None
    assert parts.inputs.to_list() == whole.inputs.to_list() and parts.example_of.tolist() == whole.example_of.tolist()
    assert len(parts.positions) == len(whole.positions) == len(whole.lengths)


def test_an_answer_that_is_not_at_its_start_is_refused(tmp_path: Path) -> None:
    wrong = {**QUESTION, "answers": {"text": ["rome"], "answer_start": [3]}}
    with pytest.raises(UserError, match="'rome' of train is not at character 3"):
        rows_of(spans_of(folder(tmp_path, wrong)))
    with pytest.raises(UserError, match=r"set task.no_answer=true"):
        rows_of(spans_of(folder(tmp_path, ANSWERED, EMPTY)))
    plain = rows_of(spans_of(folder(tmp_path, {**QUESTION, "answers": "rome"})))
    assert plain.splits["train"][0]["label"] == ANSWERED["answers"]


def test_the_file_of_squad_is_read(tmp_path: Path) -> None:
    asked = {"id": "7", "question": "where ?", "answers": [{"text": "rome", "answer_start": PASSAGE.index("rome")}]}
    file = tmp_path / "train-v1.1.json"
    file.write_text(json.dumps({"data": [{"title": "t", "paragraphs": [{"context": PASSAGE, "qas": [asked]}]}]}))
    (row,) = read_file(file).to_list()
    assert row["id"] == "7" and row["answers"] == ANSWERED["answers"]


def test_missing_answers_of_a_squad_file_are_hidden_and_not_unanswerable(tmp_path: Path) -> None:
    asked = [{"id": "7", "question": "where ?"}, {"id": "8", "question": "who ?", "answers": []}]
    file = tmp_path / "test.json"
    file.write_text(json.dumps({"data": [{"title": "t", "paragraphs": [{"context": PASSAGE, "qas": asked}]}]}))
    assert read_file(file)["answers"][:] == [None, {"text": [], "answer_start": []}]


def test_an_example_keeps_its_id_when_examples_are_held_out(tmp_path: Path) -> None:
    rows = [{"id": f"q{number}", "text": f"the actor sang {number}"} for number in range(30)]
    task = task_of(lines(tmp_path / "rows.jsonl", *rows), kind="causal_lm", text=["text"], label=None)
    for split in rows_of(task).splits.values():
        assert all(row["text"].endswith(f" {row['id'][1:]}") for row in split)


def test_entity_f1_is_refused_for_tags_that_are_not_spans(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    task = tags_of(folder(tmp_path, SENTENCE), metrics=["entity_f1"])
    with pytest.raises(UserError, match=r"set task.metrics=\[token_accuracy\]"):
        TokenClassificationFormat(task, AutoTokenizer.from_pretrained(checkpoints["bert"]), names=["NOUN", "VERB"])
    TokenClassificationFormat(task, AutoTokenizer.from_pretrained(checkpoints["bert"]), names=["O", "B-PER", "I-PER"])


def test_a_long_prompt_keeps_its_end_and_leaves_tokens_for_the_answer(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["gpt2"])
    tokenizer.model_max_length = 40
    path = folder(tmp_path, {"text": "the actor sang " * 30, "more": "sang"})
    task = task_of(path, kind="causal_lm", text=["text"], label="more", max_length=64, max_target_length=8)
    encoded = TextGenerationFormat(task, tokenizer, "decoder").encode(rows_of(task).splits["train"])
    assert encoded.truncated == 1 and encoded.lengths[0] <= 40
    assert tokenizer.decode(encoded.positions[0][1]).endswith("the actor sang")


@pytest.mark.parametrize("target", [40, 64])
def test_an_answer_length_that_leaves_no_tokens_for_a_prompt_is_refused(
    target: int, tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["gpt2"])
    tokenizer.model_max_length = 40
    path = folder(tmp_path, {"text": "the actor sang", "more": "sang"})
    task = task_of(path, kind="causal_lm", text=["text"], label="more", max_length=64, max_target_length=target)
    with pytest.raises(
        UserError, match=rf"max_target_length={target} leaves no tokens .*set task.max_target_length=20"
    ):
        TextGenerationFormat(task, tokenizer, "decoder").encode(rows_of(task).splits["train"])


@pytest.mark.parametrize("model", ["gpt2", "t5"])
def test_only_the_label_counts_where_there_is_one(tmp_path: Path, checkpoints: dict[str, Path], model: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints[model])
    kind = "causal_lm" if model == "gpt2" else "seq2seq"
    path = folder(tmp_path, {"text": "the actor", "more": "sang"})
    task = task_of(path, kind=kind, text=["text"], label="more")
    reads = TextGenerationFormat(task, tokenizer, "decoder" if model == "gpt2" else "seq2seq")
    encoded = reads.encode(rows_of(task).splits["train"])
    row = encoded.inputs[0]
    counted = [token for token in row["labels"] if token >= 0]
    assert tokenizer.decode(counted, skip_special_tokens=True).strip() == "sang"
    assert counted[-1] == tokenizer.eos_token_id
    if model == "gpt2":
        assert tokenizer.decode(row["input_ids"], skip_special_tokens=True) == "the actor\nsang"
        assert encoded.positions[0][1] == tokenizer("the actor")["input_ids"]
        assert row["input_ids"][:-1] == tokenizer("the actor\nsang")["input_ids"]
    assert encoded.labels == [["sang"]]


@pytest.mark.parametrize(
    ("template", "prompt", "answer"),
    [(None, "the actor", "\nsang"), ("{text} It: ", "the actor It:", " sang"), ("{text}\n\n", "the actor", "\n\nsang")],
)
def test_a_prompt_has_no_whitespace_at_its_end_and_its_answer_starts_with_it(
    tmp_path: Path, checkpoints: dict[str, Path], template: str | None, prompt: str, answer: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["gpt2"])
    path = folder(tmp_path, {"text": "the actor \n", "more": "sang"})
    task = task_of(path, kind="causal_lm", text=["text"], label="more", template=template)
    encoded = TextGenerationFormat(task, tokenizer, "decoder").encode(rows_of(task).splits["train"])
    assert tokenizer.decode(encoded.positions[0][1]) == prompt
    whole = [*tokenizer(prompt + answer)["input_ids"], tokenizer.eos_token_id]
    assert encoded.inputs[0]["input_ids"] == whole


@pytest.mark.parametrize(
    ("template", "values", "filled"),
    [
        ("{a} It was", {"a": "a fine film "}, "a fine film It was"),
        ("{a} and {b} end", {"a": "", "b": "x"}, "and x end"),
        ("{a}: {b} end", {"a": "x", "b": " \n"}, "x: end"),
        ("{a}\n{b}\n", {"a": "x", "b": ""}, "x"),
        ("{{{a.b}}} {a}", {"a.b": "x  y", "a": "z"}, "{x  y} z"),
    ],
)
def test_a_filled_template_has_no_doubled_or_trailing_whitespace(
    template: str, values: dict[str, str], filled: str
) -> None:
    assert fill_template(template, values) == filled


def test_answers_need_an_end_of_text_token(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["gpt2"])
    tokenizer.eos_token = None
    task = task_of(folder(tmp_path, {"text": "a", "more": "b"}), kind="causal_lm", text=["text"], label="more")
    with pytest.raises(UserError, match=r"no end-of-text token.*set eos_token in its tokenizer_config\.json"):
        TextGenerationFormat(task, tokenizer, "decoder").encode(rows_of(task).splits["train"])


@pytest.mark.parametrize("model", ["bert", "t5", "gpt2"])
def test_unknown_tokens_are_counted(model: str, tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints[model])
    path = folder(
        tmp_path, {"text": "the actor \u6f22 \u5b57 \u7a7a", "label": "\u597d"}, {"text": "the actor", "label": "the"}
    )
    kinds = {"bert": ("classification", "encoder"), "t5": ("seq2seq", "seq2seq"), "gpt2": ("causal_lm", "decoder")}
    kind, architecture = kinds[model]
    task = task_of(path, kind=kind, text=["text"], label="label")
    names = ["the", "\u597d"] if model == "bert" else None
    task_format = format_of(task, architecture, names, tokenizer)
    found = count_unknown_tokens(task_format, task_format.encode(rows_of(task).splits["train"]))
    if model == "gpt2":
        assert found is None
        return
    unknown = tokenizer.unk_token_id
    texts = [
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in ("the actor \u6f22 \u5b57 \u7a7a", "the actor")
    ]
    texts += (
        [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("\u597d", "the")] if model == "t5" else []
    )
    assert found is not None
    assert (found.tokens, found.unknown) == (sum(map(len, texts)), sum(text.count(unknown) for text in texts))
    assert (found.texts, found.mostly_unknown) == (len(texts), sum(2 * t.count(unknown) > len(t) for t in texts))
    assert found.is_high and found.share > 0.2


@pytest.mark.parametrize(
    ("counts", "is_high"),
    [((100, 5, 10, 0), False), ((100, 6, 10, 0), True), ((1000, 40, 10, 2), False), ((1000, 40, 10, 3), True)],
)
def test_many_unknown_tokens_are_over_five_percent_or_most_of_a_fifth_of_the_texts(
    counts: tuple[int, int, int, int], is_high: bool
) -> None:
    assert UnknownTokens(*counts).is_high is is_high


def test_text_without_a_label_counts_from_its_second_token(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["gpt2"])
    task = task_of(folder(tmp_path, {"text": "the actor sang"}), kind="causal_lm", text=["text"], label=None)
    reads = TextGenerationFormat(task, tokenizer, "decoder")
    encoded = reads.encode(rows_of(task).splits["train"])
    count = encoded.lengths[0] - 1
    answers = reads.decode(reads.unpad(np.full((1, count + 1), -2.0), encoded), encoded)
    assert answers.likelihoods is not None
    assert answers.likelihoods[0].tolist() == [2.0 * count] and answers.likelihoods[1].tolist() == [count]


@pytest.mark.parametrize("model", ["gpt2", "t5"])
def test_a_hidden_label_has_no_likelihood(tmp_path: Path, checkpoints: dict[str, Path], model: str) -> None:
    lines(tmp_path / "train.jsonl", {"text": "the actor", "more": "sang"})
    lines(tmp_path / "validation.jsonl", {"text": "the actor", "more": None}, {"text": "the actor", "more": "sang"})
    kind = "causal_lm" if model == "gpt2" else "seq2seq"
    task = task_of(tmp_path, kind=kind, text=["text"], label="more")
    reads = TextGenerationFormat(
        task, AutoTokenizer.from_pretrained(checkpoints[model]), "decoder" if model == "gpt2" else "seq2seq"
    )
    encoded = reads.encode(rows_of(task).splits["validation"])
    count = sum(token >= 0 for token in encoded.inputs[1]["labels"])
    answers = reads.decode(reads.unpad(np.full((2, max(encoded.lengths)), -2.0), encoded), encoded, ["slept", "sang"])
    assert [row.tolist() for row in answers.scores] == [[], [2.0 * count, count]]
    assert answers.likelihoods is not None
    assert answers.likelihoods[0].tolist() == [0, 2.0 * count] and answers.likelihoods[1].tolist() == [0, count]
    assert answers.predictions == ["slept", "sang"]
    assert reads.label_counts(encoded) == {"tokens": count, "hidden": 1}


@pytest.mark.parametrize(("limit", "length"), [(64, 16), (44, 11)])
def test_padding_to_a_multiple_of_8_stays_within_the_limit(
    limit: int, length: int, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    tokenizer.model_max_length = limit
    task = task_of(tmp_path, kind="classification", text=["text"], label="label")
    collate = format_of(task, "encoder", ["no", "yes"], tokenizer).collator()
    assert collate([{"input_ids": [2] * 11, "labels": 0}])["input_ids"].shape[1] == length
