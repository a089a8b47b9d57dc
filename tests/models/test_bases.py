"""Bases as users have them: heads of other tasks, mean pooling, weights in several files or with a prefix."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import compose_config
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, PreTrainedModel

from peftkit.config import RunConfig, UserError
from peftkit.config.source import Source
from peftkit.models.checkpoints import locate
from peftkit.models.heads import CLASSIFIERS, mean_pooling_config
from peftkit.models.load import load_model, pooling_of
from peftkit.models.tokenizer import load_tokenizer

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
Load = Callable[..., Any]


@pytest.fixture
def folder(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """Return a folder with the tokenizer of the tiny BERT."""
    AutoTokenizer.from_pretrained(str(checkpoints["bert"])).save_pretrained(tmp_path)
    return tmp_path


def classifier(folder: Path, labels: list[str], **settings: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    size = len(AutoTokenizer.from_pretrained(str(folder)))
    named = {"id2label": dict(enumerate(labels)), "label2id": {name: number for number, name in enumerate(labels)}}
    model = BertForSequenceClassification(BertConfig(vocab_size=size, **SIZES, **named, **settings))
    model.save_pretrained(folder)
    return model


def load(folder: Path, names: list[str] | None, *overrides: str, kind: str = "classification") -> Any:
    run = RunConfig.from_config(
        OmegaConf.to_container(compose_config([f"model.checkpoint={folder}", "model=bert", *overrides]), resolve=True)
    )
    source = locate(run.model, "offline")
    model = load_model(run.model, source, load_tokenizer(source), kind, names)
    model.choice, model.pooling_of_source = run.model, pooling_of(run.model, source)
    return model


def test_a_head_of_another_size_is_new_and_one_of_the_same_labels_takes_their_order(folder: Path) -> None:
    saved: Any = classifier(folder, ["Yes", "maybe", "no"])
    other = load(folder, ["a", "b"])
    assert other.replaced_outputs == 3 and other.classifier.out_features == 2 and not hasattr(other, "head_labels")
    assert torch.equal(other.bert.pooler.dense.weight, saved.bert.pooler.dense.weight)
    same = load(folder, ["no", "maybe", "yes"])
    assert torch.equal(same.classifier.weight, saved.classifier.weight[[2, 1, 0]])
    assert same.head_labels == ["no", "maybe", "Yes"]
    kept = load(folder, ["a", "b", "c"])
    assert torch.equal(kept.classifier.weight, saved.classifier.weight) and kept.head_labels == ["Yes", "maybe", "no"]


def test_weights_of_another_size_below_the_head_are_refused(folder: Path) -> None:
    classifier(folder, ["a", "b"])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 24}))
    with pytest.raises(UserError, match=r"shape \(16\b.* config.json"):
        load(folder, ["a", "b"])


def test_a_mean_pooling_classifier_is_a_base_that_keeps_its_pooling(folder: Path) -> None:
    saved = classifier(folder, ["a", "b"])
    mean = CLASSIFIERS["bert"][1](mean_pooling_config(saved.config))
    mean.save_pretrained(folder)
    again = load(folder, ["c", "d", "e"])
    assert type(again) is type(mean) and again.pooling_of_source == "mean"
    assert type(load(folder, ["c", "d"], "model.pooling=cls")).__name__ == "BertForSequenceClassification"
    tokens = load(folder, ["X", "Y"], kind="token_classification")
    assert type(tokens).__name__ == "BertForTokenClassification"
    for model in (again, tokens):
        assert torch.equal(model.bert.embeddings.word_embeddings.weight, mean.bert.embeddings.word_embeddings.weight)


@pytest.mark.parametrize("form", ["sharded", "prefixed"])
def test_weights_are_read_in_every_form(folder: Path, form: str) -> None:
    saved = classifier(folder, ["a", "b"])
    file = folder / "model.safetensors"
    weights = load_file(file)
    if form == "sharded":
        file.unlink()
        saved.save_pretrained(folder, max_shard_size="10KB")
        assert len(list(folder.glob("model-*.safetensors"))) > 1
    else:  # a plain encoder, saved without the prefix of a model with a head
        names = [name for name in weights if name.startswith("bert.")]
        save_file({name.removeprefix("bert."): weights[name] for name in names}, file, metadata={"format": "pt"})
    model = load(folder, ["a", "b"])
    for name, weight in saved.bert.named_parameters():
        assert torch.equal(model.bert.get_parameter(name), weight), name


def test_the_pooling_of_a_run_is_read_from_its_result_by_name_or_folder(folder: Path) -> None:
    model = folder / "model"
    model.mkdir()
    for file in folder.glob("tokenizer*"):
        file.rename(model / file.name)
    classifier(model, ["a", "b"])
    for content, pooling in (('{"audit": {"sources": {"model": {"pooling": "mean"}}}}', "mean"), ("[1]", "cls")):
        (folder / "result.json").write_text(content)
        found = load(model, ["a", "b"])
        assert found.pooling_of_source == pooling
        assert pooling_of(found.choice, Source("folder", str(model))) == pooling
