"""A tokenizer that fits its model: positions, pad and end-of-text tokens, tokens without embedding rows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from helpers.everyday_checkpoints import write_checkpoint
from transformers import AutoModel, AutoTokenizer

from peftkit.config import ModelConfig, UserError
from peftkit.config.source import Source
from peftkit.models.load import load_model
from peftkit.models.tokenizer import load_tokenizer, read_config, usable_positions


def source(folder: Path) -> Source:
    return Source("folder", folder.name, folder=str(folder))


@pytest.mark.parametrize("name", ["roberta", "longformer", "mpnet", "big_bird", "roformer", "opt", "gpt2"])
def test_a_tokenizer_that_knows_no_length_is_limited_to_the_positions_of_its_model(name: str, tmp_path: Path) -> None:
    folder = source(write_checkpoint(name, tmp_path / name))
    limit = load_tokenizer(folder).model_max_length
    model = AutoModel.from_pretrained(folder.folder).eval()
    with torch.no_grad():
        model(input_ids=torch.full((1, limit), 9), attention_mask=torch.ones(1, limit, dtype=torch.long))
        if name != "longformer":  # pads to its window, which hides a token more
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=torch.full((1, limit + 1), 9), attention_mask=torch.ones(1, limit + 1))


def test_roberta_of_514_positions_reads_512_tokens_and_less_with_virtual_tokens(tmp_path: Path) -> None:
    folder = source(write_checkpoint("roberta", tmp_path / "roberta", max_position_embeddings=514))
    assert load_tokenizer(folder).model_max_length == 512
    assert load_tokenizer(folder, virtual_tokens=20).model_max_length == 492
    with pytest.raises(UserError, match=r"600 virtual tokens leave no position.*num_virtual_tokens=128"):
        load_tokenizer(folder, virtual_tokens=600)


def test_a_shorter_limit_of_the_tokenizer_stays(tmp_path: Path) -> None:
    assert load_tokenizer(source(write_checkpoint("bart", tmp_path / "bart", max_length=40))).model_max_length == 40


def test_relative_positions_have_no_limit(tmp_path: Path) -> None:
    config = read_config(source(write_checkpoint("mt5", tmp_path / "mt5")))
    assert config is not None
    assert usable_positions(config) is None


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5", "roberta"])
def test_a_folder_without_a_tokenizer_is_refused(name: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    for file in ("config.json", "model.safetensors"):
        shutil.copy(checkpoints[name] / file, tmp_path)
    with pytest.raises(UserError, match=r"has no tokenizer.*save one into it"):
        load_tokenizer(source(tmp_path))


def test_an_unreadable_tokenizer_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(checkpoints["bert"], tmp_path / "bert")
    (tmp_path / "bert" / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"bert has no tokenizer that can be read \(.*save one into it"):
        load_tokenizer(source(tmp_path / "bert"))


@pytest.mark.parametrize("name", ["gpt2", "llama", "roberta"])
def test_a_pad_token_without_an_embedding_row_is_replaced_and_stated(name: str, tmp_path: Path) -> None:
    folder = write_checkpoint(name, tmp_path / name)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(str(folder))
    loaded = load_tokenizer(source(folder))
    assert loaded.pad_token == "</s>"
    assert ["[PAD] has no row in the model's" in text for text in loaded.adjustments] == [True]
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(str(folder))
    with pytest.raises(UserError, match=r"<new> and 0 more tokens .* have no row"):
        load_tokenizer(source(folder))


@pytest.mark.parametrize(
    ("special", "pad", "end"),
    [
        (("eos",), "</s>", "</s>"), (("bos", "unk"), "<s>", None), (("pad", "unk"), "<pad>", None),
        (("unk",), "<unk>", None),
    ],
)  # fmt: skip
def test_a_missing_pad_token_is_replaced_by_another_special_token(
    special: tuple[str, ...], pad: str, end: str | None, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(source(write_checkpoint("llama", tmp_path / "llama", special=special)))
    assert (tokenizer.pad_token, tokenizer.eos_token) == (pad, end)


def test_a_tokenizer_without_special_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no special token to pad with; set pad_token in its tokenizer_config\.json"):
        load_tokenizer(source(write_checkpoint("gpt2", tmp_path / "gpt2", special=())))


def test_an_end_of_text_token_that_only_the_config_names_is_used(tmp_path: Path) -> None:
    folder = write_checkpoint("llama", tmp_path / "llama", special=("pad", "unk"))
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    tokenizer.add_special_tokens({"additional_special_tokens": ["</s>"]})
    tokenizer.save_pretrained(str(folder))
    loaded = load_tokenizer(source(folder))
    assert (loaded.eos_token, loaded.eos_token_id) == ("</s>", 2)
    assert "names no end-of-text token; </s> of the model's config is used" in loaded.adjustments[0]


def test_a_replaced_pad_token_does_not_move_the_positions_of_roberta(tmp_path: Path) -> None:
    """RoBERTa counts positions from the id of its config's pad token on."""
    folder = write_checkpoint("roberta", tmp_path / "roberta")
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(str(folder))
    chosen = ModelConfig(
        "roberta", str(folder), "main", "encoder", "cls", "minilm", learning_rates={}, keep_layers=None, attn_implementation=None
    )  # fmt: skip
    loaded = load_tokenizer(source(folder))
    model = load_model(chosen, source(folder), loaded, "classification", ["no", "yes"]).eval()
    batch = loaded(["the actor left", "the film"], padding=True, return_tensors="pt")
    alone = AutoModel.from_pretrained(str(folder)).eval()(input_ids=batch["input_ids"][1:, :4])
    with torch.no_grad():
        states = model.base_model(**batch).last_hidden_state[1, :4]
    torch.testing.assert_close(states, alone.last_hidden_state[0], rtol=0, atol=1e-5)
