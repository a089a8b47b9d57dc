"""A merged checkpoint has the scores of the run's model, read back from disk, or is not written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import commands
from helpers.merge_models import losing
from transformers import AutoModelForSeq2SeqLM

import peftkit
from peftkit.config import UserError
from peftkit.pipeline import merged

Overrides = Callable[..., list[str]]


@pytest.fixture
def run(tiny: Overrides, tmp_path: Path) -> Path:
    """Return the folder of a T5 with a LoRA on its output layer, which is tied to its embeddings."""
    file = tmp_path / "own.jsonl"
    file.write_text('{"text": "a fine film", "label": "pos"}\n{"text": "a dull film", "label": "neg"}\n' * 12)
    words = tiny(
        "t5", "task=classification", f"task.dataset={file}", "task.text=[text]", "task.label=label", "method.config.target_modules=[q,lm_head]",
        "train.learning_rate=0.1", "train.bf16=false",
    )  # fmt: skip
    (folder,) = commands.finetune(*words)
    return folder


def test_a_merged_output_layer_gives_the_scores_of_its_adapter_or_nothing_is_written(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="would be loaded over"):
        commands.run(["job=merge", f"run={run}", f"output={run}/adapter"])
    merge = merged.merge_adapter
    monkeypatch.setattr(merged, "merge_adapter", losing(merge, "lm_head"))
    with pytest.raises(UserError, match=r"scores differ by .* use the adapter"):
        commands.merge(run)
    assert not [path for path in run.iterdir() if "merged" in path.name]
    monkeypatch.setattr(merged, "merge_adapter", merge)
    (tmp_path / "own.jsonl").unlink()  # the comparison must not need the data
    commands.merge(run)
    assert "random tokens are compared instead" in capsys.readouterr().err
    model, _ = peftkit.load(run)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        logits = model(input_ids=ids, decoder_input_ids=ids).logits
        read = AutoModelForSeq2SeqLM.from_pretrained(run / "merged").eval()
        torch.testing.assert_close(read(input_ids=ids, decoder_input_ids=ids).logits, logits, rtol=1e-5, atol=1e-4)
        assert not torch.equal(read.lm_head.weight, read.shared.weight)
    shutil.rmtree(run / "adapter")
    with pytest.raises(UserError, match=r"adapter/adapter_config\.json is missing"):
        commands.merge(run)
