"""Every method that works over a 4-bit base trains there, and only the base's linear layers are in 4 bits."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from bitsandbytes.functional import has_avx512bf16
from helpers import commands
from helpers.commands import compose_config
from hydra.utils import instantiate
from omegaconf import OmegaConf
from transformers import set_seed

from peftkit.config import RunConfig
from peftkit.methods import apply_method
from peftkit.models.checkpoints import locate
from peftkit.models.load import load_model
from peftkit.models.tokenizer import load_tokenizer

MODELS = ("bert", "gpt2", "t5")
OVER_4_BITS = ("lora", "dora", "ia3", "adapter", "prompt", "p_tuning", "prefix", "vera", "oft", "ln_tuning")
TEXTS = ["the film is great .", "the plot is dull , and the cast is not good ."]


def load(checkpoints: dict[str, Path], model: str, method: str, **quantization: Any) -> tuple[Any, dict[str, Any]]:
    """Return a base in 4 bits with the method's shipped settings, and a batch of two rows with labels."""
    quantization = {"load_in_4bit": True, **quantization}
    words = [f"model={model}", f"model.checkpoint={checkpoints[model]}", "source=offline", f"method={method}"]
    run = RunConfig.from_config(OmegaConf.to_container(compose_config(words), resolve=True))
    source = locate(run.model, run.source)
    tokenizer = load_tokenizer(source)
    set_seed(0)
    base = load_model(run.model, source, tokenizer, run.task.kind, ["negative", "positive"], quantization)
    net = apply_method(base, instantiate(run.method.config, _convert_="all"), quantized=True)
    batch = dict(tokenizer(TEXTS, return_tensors="pt", padding=True))
    labels = tokenizer(TEXTS[::-1], return_tensors="pt", padding=True)["input_ids"] if model == "t5" else None
    batch["labels"] = torch.tensor([1, 0]) if labels is None else labels
    return net, {name: values.to(base.device) for name, values in batch.items()}  # 4-bit models load on a GPU if any


def take_a_step(net: Any, batch: dict[str, Any]) -> None:
    """Train on a batch; what trains must move and what is frozen must not."""
    before = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    optimizer = torch.optim.Adam([weight for weight in net.parameters() if weight.requires_grad], lr=0.1)
    for _ in range(2):  # of two factors one starts at zero, so that the other has no gradient at first
        optimizer.zero_grad()
        loss = net.train()(**batch).loss
        loss.backward()
        optimizer.step()
        assert torch.isfinite(loss)
    for name, weight in net.named_parameters():
        assert torch.equal(weight, before[name]) != weight.requires_grad, name


@pytest.mark.parametrize(
    ("kind", "double"),
    [
        ("nf4", True),
        ("fp4", False),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("nf4", False), ("fp4", True))),
    ],
)
@pytest.mark.parametrize("model", MODELS)
def test_every_kind_of_4_bits_trains_and_spares_head_and_embeddings(
    checkpoints: dict[str, Path], model: str, kind: str, double: bool
) -> None:
    net, batch = load(checkpoints, model, "qlora", bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=double)
    packed = {n: w.quant_state for n, w in net.named_parameters() if isinstance(w, bnb.nn.Params4bit)}
    blocks = {name for name in packed if re.search(r"\.(layer|h|block)\.\d", name)}
    # T5's feed-forward outputs stay out: transformers keeps them in fp32, which they overflow without
    assert len(blocks) == {"bert": 2 * 6, "gpt2": 2 * 4, "t5": 2 * (4 + 1) + 2 * (8 + 1)}[model]
    assert {(state.quant_type, state.nested) for state in packed.values()} == {(kind, double)}
    assert not any(part in name for name in packed for part in ("classifier", "score", "lm_head"))
    embeddings = [module for module in net.modules() if isinstance(module, torch.nn.Embedding)]
    assert embeddings and all(module.weight.dtype == torch.float32 for module in embeddings)
    take_a_step(net, batch)


@pytest.mark.parametrize("method", OVER_4_BITS)
@pytest.mark.parametrize("model", MODELS)
def test_methods_over_4_bits_train(checkpoints: dict[str, Path], model: str, method: str) -> None:
    net, batch = load(checkpoints, model, method)
    assert any(isinstance(weight, bnb.nn.Params4bit) for weight in net.parameters())
    take_a_step(net, batch)


@pytest.mark.parametrize("model", MODELS)
def test_an_evaluation_between_steps_changes_no_gradient(checkpoints: dict[str, Path], model: str) -> None:
    net, batch = load(checkpoints, model, "qlora")
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0

    def gradients() -> dict[str, torch.Tensor]:
        net.zero_grad()
        net.train()(**batch).loss.backward()
        return {name: weight.grad.clone() for name, weight in net.named_parameters() if weight.grad is not None}

    before = gradients()
    with torch.no_grad():
        net.eval()(**batch)
    after = gradients()
    assert before.keys() == after.keys() and before
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not has_avx512bf16(), reason="bitsandbytes packs on CPUs with AVX512-BF16 alone")
def test_bitsandbytes_itself_loses_the_gradient() -> None:
    """The fault behind the test above: its packed kernel is no function of autograd. Mended there, this fails."""
    layer = bnb.nn.Linear4bit(64, 64, bias=False, compute_dtype=torch.bfloat16).to("cpu")

    def gradient() -> torch.Tensor | None:
        rows = torch.ones(2, 64, requires_grad=True)
        layer.train()(rows).sum().backward()
        return rows.grad

    assert gradient() is not None
    layer.eval()(torch.ones(2, 64))
    assert gradient() is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU they are paged, and say nothing")
@pytest.mark.slow
def test_a_paged_optimizer_is_a_plain_8_bit_one_without_a_gpu(tiny: Callable[..., list[str]]) -> None:
    words = tiny("bert", "method=qlora", "train.optim=paged_adamw_8bit")
    with pytest.warns(UserWarning, match="Paged optimizers are not supported on CPU"):
        (folder,) = commands.finetune(*words)
    assert json.loads((folder / "result.json").read_text())["meta"]["status"] == "finished"


@pytest.mark.parametrize(
    ("method", "own"),
    [("qlora", {}), ("dora", {"use_dora": True}), ("rslora", None), ("adalora", None), ("vera", None)],
)
def test_what_is_held_against_lora_has_its_settings(method: str, own: dict[str, Any] | None) -> None:
    lora, kin = (OmegaConf.to_container(compose_config([f"method={name}"]).method) for name in ("lora", method))
    (dropout,) = (value for name, value in kin["config"].items() if name.endswith("_dropout"))
    assert dropout == lora["config"]["lora_dropout"]
    if own is not None:
        assert kin["config"] == lora["config"] | own and kin["learning_rate"] == lora["learning_rate"]
