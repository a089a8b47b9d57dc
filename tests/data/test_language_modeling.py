"""Blocks and masked passages: the same words for every tokenizer, the same noise after resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.commands import check, compose_config
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from peftkit.config import RunConfig, TaskConfig, UserError
from peftkit.data.datasets import load_task_dataset
from peftkit.data.formats.language_modeling import LanguageModelingFormat
from peftkit.data.offline_corpus import mask_tokens, token_groups, word_starts
from peftkit.data.passages import cut_passages
from peftkit.models.vocabulary import extend_tokenizer
from peftkit.training.outputs import token_likelihoods

FAMILY = {"bert": "encoder", "gpt2": "decoder", "t5": "seq2seq"}
DOCUMENTS = [
    "the quick film is good and the zyxwort story is told with care by all of its people in the city",
    "zyxwort is bad",
    "a long text about the city and the people who like the film and the story of the zyxwort in it " * 4,
]


def task(corpus: str = "none", **settings: Any) -> TaskConfig:
    from omegaconf import OmegaConf

    config = OmegaConf.to_container(compose_config(["task=language_modeling", f"task.dataset={corpus}"]), resolve=True)
    assert isinstance(config, dict)
    config["task"] |= {"max_length": 32, **settings}  # type: ignore[index]
    return RunConfig.from_config(config).task  # type: ignore[arg-type]


def rows(texts: list[str]) -> Dataset:
    return Dataset.from_dict({"id": [str(n) for n in range(len(texts))], "text": texts, "label": [None] * len(texts)})


def language(folder: Path, model: str, **settings: Any) -> LanguageModelingFormat:
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    if model == "bert" and tokenizer.mask_token is None:
        tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return LanguageModelingFormat(task(**settings), tokenizer, FAMILY[model])


@pytest.mark.parametrize("model", FAMILY)
def test_the_same_bytes_are_predicted_with_an_extended_tokenizer(model: str, checkpoints: dict[str, Path]) -> None:
    plain = language(checkpoints[model], model)
    extended = extend_tokenizer(plain.tokenizer, ["zyxwort"], len(plain.tokenizer)).tokenizer
    both = [
        each.encode(rows(DOCUMENTS)) for each in (plain, LanguageModelingFormat(plain.task, extended, FAMILY[model]))
    ]
    assert both[0].labels.tolist() == both[1].labels.tolist()
    assert both[0].labels.sum() > 0
    tokens = [sum(seen.sum() for seen, _ in each.positions) for each in both]
    assert tokens[1] <= tokens[0] and (model != "gpt2" or tokens[1] < tokens[0])


def test_bits_of_a_decoder_are_those_of_the_whole_text(checkpoints: dict[str, Path]) -> None:
    form = language(checkpoints["gpt2"], "gpt2")
    model: Any = AutoModelForCausalLM.from_pretrained(str(checkpoints["gpt2"])).eval()
    encoded = form.encode(rows(DOCUMENTS[:2]))
    batch = form.collator()([encoded.inputs[number] for number in range(2)])
    with torch.no_grad():
        found = form.decode(form.unpad(token_likelihoods(model, batch).numpy(), encoded), encoded)
    for text, bits in zip(DOCUMENTS, found.predictions, strict=False):
        ids = torch.tensor([[form.tokenizer.eos_token_id, *form.tokenizer(text)["input_ids"]]])
        with torch.no_grad():
            loss = model(input_ids=ids, labels=ids).loss * (ids.shape[1] - 1)
        assert bits == pytest.approx(float(loss) / np.log(2) / len(text.encode()), rel=1e-4)


def test_masking_selects_its_share_and_replaces_as_in_the_paper() -> None:
    ids, special = [1, *range(10, 210), 2], {1, 2}
    rng, counts = np.random.default_rng(0), np.zeros(3)
    for _ in range(200):
        inputs, targets = mask_tokens(ids, rng, 0.15, 5, np.arange(10, 210), token_groups(ids, special))
        chosen = [place for place, target in enumerate(targets) if target >= 0]
        assert len(chosen) == 30 and not {0, 201} & set(chosen)
        assert all(targets[place] == ids[place] for place in chosen)
        assert all(inputs[place] == ids[place] for place in range(202) if place not in chosen)
        counts += [sum(inputs[p] == 5 for p in chosen), 0, sum(inputs[p] == ids[p] for p in chosen)]
    shares = counts / 6000
    assert shares[0] == pytest.approx(0.8, abs=0.03)
    assert shares[2] == pytest.approx(0.1, abs=0.03)


def test_whole_words_are_masked_together(checkpoints: dict[str, Path]) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(str(checkpoints["gpt2"]))
    ids = tokenizer(DOCUMENTS[0])["input_ids"]
    groups = token_groups(ids, set(), word_starts(tokenizer))
    assert len(set(groups.tolist())) == len(DOCUMENTS[0].split())
    _, targets = mask_tokens(ids, np.random.default_rng(1), 0.3, 0, np.arange(5), groups)
    for group in set(groups.tolist()):
        chosen = {targets[place] >= 0 for place in np.flatnonzero(groups == group)}
        assert len(chosen) == 1


@pytest.mark.parametrize("model", FAMILY)
def test_noise_depends_on_seed_epoch_and_block_only(model: str, checkpoints: dict[str, Path]) -> None:
    form = language(checkpoints[model], model)
    blocks: Any = form.encode_training(rows(DOCUMENTS), seed=3).inputs
    again: Any = form.encode_training(rows(DOCUMENTS), seed=3).inputs
    assert [blocks[n] for n in range(len(blocks))] == [again[n] for n in reversed(range(len(again)))][::-1]
    again.epoch = 1
    differs = [blocks[n] != again[n] for n in range(len(blocks))]
    assert any(differs) is (model != "gpt2")


def test_a_block_has_one_document_unless_they_are_joined(checkpoints: dict[str, Path]) -> None:
    texts = ["the film", "the city", "a story of people"]
    alone = language(checkpoints["gpt2"], "gpt2")
    end = alone.tokenizer.eos_token_id
    blocks: Any = alone.encode_training(rows(texts), 0).inputs
    assert [alone.tokenizer.decode(blocks[n]["input_ids"], skip_special_tokens=True) for n in range(3)] == texts
    assert all(blocks[n]["input_ids"][0] == end == blocks[n]["input_ids"][-1] for n in range(3))
    joined: Any = language(checkpoints["gpt2"], "gpt2", join_documents=True).encode_training(rows(texts), 0).inputs
    assert len(joined) == 1
    assert joined[0]["input_ids"].count(end) == 4


def test_documents_of_a_packed_block_have_separate_attention(checkpoints: dict[str, Path]) -> None:
    texts = ["the film is good", "a story of people in the city", "the people like the film"]
    packed, alone = (language(checkpoints["gpt2"], "gpt2", packing=packing) for packing in (True, False))
    model: Any = AutoModelForCausalLM.from_pretrained(str(checkpoints["gpt2"])).eval()
    blocks, single = packed.encode_training(rows(texts), 0), alone.encode_training(rows(texts), 0)
    assert len(blocks.inputs) < len(single.inputs) and {len(blocks.inputs[0]["input_ids"])} == {32}
    nats = []
    for form, encoded in ((packed, blocks), (alone, single)):
        batch = form.collator()([encoded.inputs[n] for n in range(len(encoded.inputs))])
        with torch.no_grad():
            out = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
        losses = torch.nn.functional.cross_entropy(
            out[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum"
        )
        nats.append(float(losses))
    assert nats[0] == pytest.approx(nats[1], rel=1e-5)


def test_inputs_and_targets_of_t5_restore_the_text(checkpoints: dict[str, Path]) -> None:
    form = language(checkpoints["t5"], "t5")
    encoded = form.encode(rows(DOCUMENTS[:1]))
    row, tokenizer = encoded.inputs[0], form.tokenizer
    sentinels = [token for token in row["labels"] if token in form._sentinels]
    assert sentinels and sentinels == [token for token in row["input_ids"] if token in form._sentinels]
    filled: list[int] = []
    for token in row["input_ids"]:
        if token in sentinels:
            start = row["labels"].index(token) + 1
            end = next(
                n for n in range(start, len(row["labels"])) if row["labels"][n] in (*sentinels, tokenizer.eos_token_id)
            )
            filled += row["labels"][start:end]
        else:
            filled.append(token)
    assert filled == tokenizer(DOCUMENTS[0])["input_ids"]
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(str(checkpoints["t5"])).eval()
    batch = form.collator()([row])
    with torch.no_grad():
        found = form.decode(form.unpad(token_likelihoods(model, batch).numpy(), encoded), encoded)
        loss = model(**{name: value for name, value in batch.items() if name != "decoder_input_ids"}).loss
    assert found.likelihoods is not None
    assert found.likelihoods[0][0] == pytest.approx(float(loss) * len(row["labels"]), rel=1e-4)


def test_passages_split_the_text_by_bytes() -> None:
    text = "eins zwei  drei\nvier fünf " + "x" * 40 + " ende"
    parts = cut_passages(text, 16)
    assert "".join(parts) == text
    assert all(len(part.encode()) <= 16 or len(part.split()) == 1 for part in parts)
    assert cut_passages(" \n", 16) == []


def test_a_corpus_has_training_documents_and_held_out_passages(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.txt").write_text(f"page {number}\nhas words and words\n")
    found = load_task_dataset(task(str(tmp_path), sample_by="document"), None, "offline")
    assert found.splits["train"]["text"][:] == [f"page {n}\nhas words and words" for n in range(9)]
    assert "".join(found.splits["held_out"]["text"]).startswith("page 9\nhas words")
    again = load_task_dataset(task(str(tmp_path), sample_by="document"), None, "offline")
    assert again.source.revision == found.source.revision
    (tmp_path / "0.txt").write_text("another page\n")
    changed = load_task_dataset(task(str(tmp_path), sample_by="document"), None, "offline")
    assert changed.source.revision != found.source.revision
    assert changed.splits["train"]["text"][0] == "another page"


def test_a_corpus_too_small_to_hold_any_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("one line\nand another\n")
    with pytest.raises(UserError, match="too few for a held-out tenth; add more text"):
        load_task_dataset(task(str(tmp_path / "few.txt")), None, "offline")


def test_a_broken_file_of_a_corpus_is_named(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number:02}.txt").write_text("a text\n")
    (tmp_path / "11.txt").write_bytes("schön\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"11\.txt: the file is not in UTF-8"):
        load_task_dataset(task(str(tmp_path)), None, "offline")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["model=bert", "task.packing=true"], "task.packing is for decoders, and model=bert is not a decoder"),
        (["model=gpt2", "method=prompt", "task.packing=true"], "method=prompt puts a soft prompt before each example"),
        (["model=gpt2", "task.packing=true", "task.join_documents=true"], "task.packing separates documents"),
        (["model=gpt2", "task.whole_words=true"], "task.whole_words is for encoders"),
        (["model=t5_encoder"], "has no decoder to predict the spans"),
        (["model=bert", "task.noise_density=1"], "task.noise_density=1: expected a number above 0 and below 1"),
        (["model=bert", "method=linear_probe"], "method=linear_probe does not work on task=language_modeling"),
        (
            ["model=bert", "task.metrics=[accuracy]"],
            "task.metrics=[accuracy]: unknown metric of task.kind=language_modeling",
        ),
        (["model=bert", "task.dataset=./none.txt"], "no such file"),
    ],
)
def test_incompatible_settings_are_refused(words: list[str], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text\n" * 20)
    found = check(["task=language_modeling", f"task.dataset={tmp_path}/a.txt", "source=offline", "method=lora", *words])
    assert any(sentence in each for each in found), found


def test_an_unknown_token_costs_its_bytes(checkpoints: dict[str, Path]) -> None:
    form = language(checkpoints["t5"], "t5", noise_density=0.9)
    text = "the film \u4e2d\u6587 is good"
    encoded = form.encode(rows([text]))
    (seen, unknown) = encoded.positions[0]
    assert unknown == 6
    assert not any(
        token == form.tokenizer.unk_token_id
        for token, asked in zip(encoded.inputs[0]["labels"], seen, strict=True)
        if asked
    )
    scores = [np.zeros(len(seen))]
    answers = form.decode(form.unpad(scores, encoded), encoded)
    assert answers.likelihoods is not None and answers.likelihoods[0][0] == pytest.approx(6 * np.log(256))


def test_more_spans_than_sentinels_are_refused(checkpoints: dict[str, Path]) -> None:
    form = language(checkpoints["t5"], "t5", noise_density=0.5, mean_noise_span_length=1, max_length=400)
    with pytest.raises(UserError, match="would have 200 spans, and there are 100 sentinels"):
        form.encode_training(rows(DOCUMENTS), 0)
