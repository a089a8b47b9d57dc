"""Checkpoints of other families: heads and backbones that transformers has or lacks, and BigBird's attention."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.everyday_checkpoints import CHECKPOINTS, write_checkpoint
from transformers import BigBirdModel, MT5EncoderModel

from peftkit.config import ModelConfig, UserError
from peftkit.config.source import Source
from peftkit.models.load import load_model
from peftkit.models.tokenizer import load_tokenizer


def load(name: str, kind: str, folder: Path, names: list[str] | None = None) -> torch.nn.Module:
    place = str(write_checkpoint(name, folder / name))
    family = {"roberta": "encoder", "bert": "encoder", "gpt2": "decoder", "t5": "seq2seq"}[CHECKPOINTS[name][0]]
    chosen = ModelConfig(
        name, place, "main", family, "auto", "minilm", learning_rates={}, keep_layers=None, attn_implementation=None
    )
    source = Source("folder", name, folder=place)
    return load_model(chosen, source, load_tokenizer(source), kind, names).eval()


def test_embeddings_of_mt5_are_those_of_its_encoder(tmp_path: Path) -> None:
    model = load("mt5", "retrieval", tmp_path)
    ids = torch.tensor([[5, 9, 12, 2]])
    plain = MT5EncoderModel.from_pretrained(str(tmp_path / "mt5")).eval()
    torch.testing.assert_close(model(input_ids=ids)[0], plain(input_ids=ids)[0])


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        (
            "bart",
            "retrieval",
            "transformers has no encoder of bart by itself; use model=bert and drop model.checkpoint, or use model=t5",
        ),
        ("opt", "token_classification", "transformers has no ModelForTokenClassification of opt"),
    ],
)
def test_what_transformers_lacks_is_refused(name: str, kind: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load(name, kind, tmp_path, ["X", "Y"])


def test_bigbird_reads_with_full_attention_whatever_the_length(tmp_path: Path) -> None:
    model = load("big_bird", "classification", tmp_path, ["no", "yes"])
    ids = torch.arange(5, 55)[None]
    alone = model(input_ids=ids[:, :4]).logits
    padded = torch.nn.functional.pad(ids[:, :4], (0, 46), value=1)
    torch.testing.assert_close(model(input_ids=padded, attention_mask=(padded != 1).long()).logits, alone)
    sparse = BigBirdModel.from_pretrained(str(tmp_path / "big_bird")).eval()
    assert (model.config.attention_type, sparse.config.attention_type) == ("original_full", "block_sparse")
