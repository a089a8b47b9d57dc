"""New words: tokens and rows of their own, which train, are saved and merge, and leave every old row as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

import peftkit
from peftkit import jobs
from peftkit.cli import check, compose

Words = Callable[..., list[str]]
TEXT = "the film is {} zyxwort blau and qux/zed zyxwort"
TERMS = ("zyxwort", "zyxwort blau", "qux/zed")
AUTO: dict[str, Any] = {"gpt2": AutoModelForCausalLM, "t5": AutoModelForSeq2SeqLM}
NEW = {"bert": 3, "gpt2": 6, "t5": 6}  # rows: with and without the space before it, where that is a part of a token


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a list of terms, a corpus that has them, and rows for each kind of task."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "terms.txt").write_text("\n".join(TERMS) + "\n")
    texts = [TEXT.format(word) for word in ("good", "bad") * 20]
    (folder / "corpus.txt").write_text("\n".join(texts) + "\n")
    rows = [{"text": text, "label": text.split()[3], "more": "zyxwort is " + text.split()[3]} for text in texts]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def checkpoint(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Path]:
    """Return checkpoint("gpt2", tied=False): a tiny one, with an output layer of its own where it is not tied."""
    made: dict[tuple[str, bool], Path] = {(name, True): folder for name, folder in checkpoints.items()}

    def find(name: str, tied: bool) -> Path:
        if (name, tied) not in made:
            model = AUTO[name].from_pretrained(str(checkpoints[name]))
            torch.manual_seed(1)
            model.lm_head.weight = torch.nn.Parameter(0.1 * torch.randn_like(model.lm_head.weight))
            # T5 v1.1 is told by its weights alone: in transformers 5 its config says that they are tied
            model.config.tie_word_embeddings = name == "t5"
            model.config.scale_decoder_outputs = False
            model.all_tied_weights_keys.pop("lm_head.weight")
            made[name, tied] = tmp_path_factory.mktemp(name)
            model.save_pretrained(str(made[name, tied]))
            AutoTokenizer.from_pretrained(str(checkpoints[name])).save_pretrained(str(made[name, tied]))
        return made[name, tied]

    return find


def extended(base: Path, model: str, data: Path, out: Path, *more: str) -> Path:
    words = [
        "job=extend", f"model={model}", f"model.checkpoint={base}", "source=embedded", f"out={out}",
        *(more or (f"extend.terms={data}/terms.txt",)),
    ]  # fmt: skip
    assert check(words) == []
    folder = jobs.run(compose(words), words)
    assert folder is not None
    return folder


def trained(base: Path, model: str, vocab: Path, data: Path, out: Path, *more: str) -> tuple[Path, dict[str, Any]]:
    kind = {"bert": "classification", "gpt2": "causal_lm", "t5": "seq2seq"}[model]
    label = {"bert": "label", "gpt2": "null", "t5": "more"}[model]
    (folder,) = peftkit.finetune(
        f"model={model}", f"model.checkpoint={base}", "source=embedded", f"out={out}", f"vocab={vocab}", f"task={kind}",
        f"task.dataset={data}/rows.jsonl", "task.text=[text]", f"task.label={label}", "task.metrics=[accuracy]"
        if kind == "classification" else "task.metrics=[perplexity]", "task.max_length=32", "train.bf16=false",
        "train.per_device_train_batch_size=8", "train.max_steps=100", "train.disable_tqdm=true", *more,
    )  # fmt: skip
    return folder, json.loads((folder / "result.json").read_text())


def embedding(model: Any) -> torch.Tensor:
    return model.get_input_embeddings().weight.detach()


def output(model: Any) -> torch.Tensor:
    return model.get_output_embeddings().weight.detach()


TOKENS_ALONE = ("method=peft", "method.config._target_=peft.TrainableTokensConfig")
CELLS = [
    ("bert", True, ("method=lora",)),
    ("bert", True, TOKENS_ALONE),
    ("bert", True, ("method=adapter",)),
    ("gpt2", True, ("method=lora",)),
    ("gpt2", True, TOKENS_ALONE),
    ("gpt2", False, ("method=lora",)),
    ("gpt2", True, ("method=qlora",)),
    ("t5", True, ("method=lora",)),
    ("t5", True, TOKENS_ALONE),
    ("t5", False, ("method=lora",)),
    ("t5", False, ("method=adapter",)),
]


@pytest.mark.parametrize(("model", "tied", "method"), CELLS)
def test_new_rows_train_alone_and_merge_while_every_old_row_stays(
    checkpoint: Callable[[str, bool], Path], data: Path, tmp_path: Path, model: str, tied: bool, method: tuple[str, ...]
) -> None:
    base = checkpoint(model, tied)
    vocab = extended(base, model, data, tmp_path)
    folder, result = trained(base, model, vocab, data, tmp_path, *method)
    assert result["gates"]["reload_difference"] <= 1e-6  # in a fresh process
    tables = 1 if tied or model == "bert" else 2
    weights = load_file(folder / "adapter" / "adapter_model.safetensors")
    rows = {name: tuple(weight.shape) for name, weight in weights.items() if "trainable_tokens" in name}
    assert list(rows.values()) == [(NEW[model], 64)] * tables
    assert not any(64 in weight.shape and max(weight.shape) > 500 for weight in weights.values())  # no whole matrix

    old = embedding(peftkit.load(vocab)[0])
    first = old.shape[0] - NEW[model]
    tuned, tokenizer = peftkit.load(folder)
    assert len(tokenizer) == old.shape[0]
    inputs = dict(tokenizer("the zyxwort blau, qux/zed", return_tensors="pt"))
    if model == "t5":
        inputs["decoder_input_ids"] = inputs["input_ids"]
    told = tuned(**inputs).logits
    if "adapter" in str(method):
        return  # is not merged
    if "qlora" not in str(method):
        again = tuned.merge_and_unload()
        torch.testing.assert_close(again(**inputs).logits, told, rtol=0, atol=1e-5)
    peftkit.merge(folder)
    if model != "bert":
        merged = AUTO[model].from_pretrained(str(folder / "merged"))
        assert torch.equal(embedding(merged)[:first], old[:first])
        met = [number for number in tokenizer(TEXT)["input_ids"] if number >= first]
        assert len(met) == 3
        assert (embedding(merged)[met] - old[met]).abs().amax(dim=1).min() > 1e-4
        assert torch.equal(output(merged), embedding(merged)) == tied
        if not tied:
            assert torch.equal(output(merged)[:first], output(peftkit.load(vocab)[0])[:first])
            assert not torch.equal(output(merged)[first:], output(peftkit.load(vocab)[0])[first:])
        limit = 0.05 if "qlora" in str(method) else 1e-5
        torch.testing.assert_close(merged(**inputs).logits, told, rtol=0, atol=limit)
        again = AutoTokenizer.from_pretrained(str(folder / "merged"))
        assert again("the zyxwort blau")["input_ids"] == tokenizer("the zyxwort blau")["input_ids"]
