"""What a checkpoint lacks below its head trains with the head, and is saved with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import compose_config
from hydra.utils import instantiate
from omegaconf import OmegaConf
from transformers import (
    AlbertConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from peftkit.config import RunConfig, UserError
from peftkit.config.source import Source
from peftkit.methods import apply_method, load_adapter
from peftkit.models.load import load_model

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
CONFIGS: dict[str, Any] = {  # of language models, which have no pooler
    "bert": lambda size: BertConfig(vocab_size=size, **SIZES),
    "distilbert": lambda size: DistilBertConfig(vocab_size=size, dim=32, n_layers=2, n_heads=2, hidden_dim=48),
    "deberta": lambda size: DebertaV2Config(vocab_size=size, **SIZES),
    "albert": lambda size: AlbertConfig(vocab_size=size, embedding_size=16, **SIZES),
}
FRESH = {
    "bert": ["bert.pooler.dense"], "distilbert": ["pre_classifier"], "deberta": ["pooler.dense"],
    "albert": ["albert.pooler"],
}  # fmt: skip


@pytest.fixture(
    scope="module",
    params=["bert", "distilbert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("deberta", "albert"))],
)
def checkpoint(request: Any, checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer: Any = AutoTokenizer.from_pretrained(str(checkpoints["bert"]))
    folder = tmp_path_factory.mktemp("language") / request.param
    AutoModelForMaskedLM.from_config(CONFIGS[request.param](len(tokenizer))).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


def begun(folder: Path, seed: int) -> Any:
    run = RunConfig.from_config(OmegaConf.to_container(compose_config(["model=bert", "task=mrpc"]), resolve=True))  # type: ignore[arg-type]
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    torch.manual_seed(seed)
    source = Source("folder", str(folder), folder=str(folder))
    return load_model(run.model, source, tokenizer, "classification", ["no", "yes"])


def method(name: str) -> Any:
    return instantiate(OmegaConf.to_container(compose_config([f"method={name}"]).method.config), _convert_="all")


@pytest.mark.parametrize("name", ["lora", "prompt", "linear_probe_mix"])
def test_an_adapter_has_it_whole_over_another_draw(name: str, checkpoint: Path, tmp_path: Path) -> None:
    config = method(name)
    base = begun(checkpoint, seed=0)
    assert base.new_head == FRESH[checkpoint.name] and base.new_base_weights == []
    model = apply_method(base, config)
    batch = {"input_ids": torch.randint(6, 30, (3, 7)), "labels": torch.tensor([0, 1, 0])}
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    before = {key: weight.clone() for key, weight in model.state_dict().items()}
    model.train()(**batch).loss.backward()
    optimizer.step()
    moved = {key for key, weight in model.state_dict().items() if not torch.equal(weight, before[key])}
    assert any(FRESH[checkpoint.name][0] in key for key in moved)
    model.eval().save_pretrained(str(tmp_path))
    again = load_adapter(begun(checkpoint, seed=1), tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**batch).logits, model(**batch).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["linear_probe", "bitfit"])
def test_a_probe_trains_it_and_a_pooler_that_was_pretrained_not(
    name: str, checkpoint: Path, checkpoints: dict[str, Path]
) -> None:
    model = apply_method(begun(checkpoint, seed=0), method(name))
    assert model.get_submodule(FRESH[checkpoint.name][0]).weight.requires_grad
    pretrained = apply_method(begun(checkpoints["bert"], seed=0), method(name))
    assert not pretrained.bert.pooler.dense.weight.requires_grad  # type: ignore[union-attr]


def test_weights_that_a_base_lacks_are_named(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(key for key in weights if "word_embeddings" in key)
    save_file(
        {key: weight for key, weight in weights.items() if key != lost},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    assert begun(tmp_path, seed=0).new_base_weights == [lost]


def test_a_base_of_another_name_is_loaded(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    """Llama's base is called transformer where it answers questions, and model elsewhere."""
    tokenizer: Any = AutoTokenizer.from_pretrained(str(checkpoints["smollm2"]))
    run = RunConfig.from_config(OmegaConf.to_container(compose_config(["model=gpt2", "task=mrpc"]), resolve=True))  # type: ignore[arg-type]
    source = Source("folder", str(checkpoints["smollm2"]), folder=str(checkpoints["smollm2"]))
    model: Any = load_model(run.model, source, tokenizer, "question_answering", None)
    base: Any = LlamaForCausalLM.from_pretrained(str(checkpoints["smollm2"])).model
    assert model.new_base_weights == []
    assert all(torch.equal(weight, model.transformer.get_parameter(name)) for name, weight in base.named_parameters())
    model.save_pretrained(str(tmp_path))
    again = type(model).from_pretrained(str(tmp_path))
    assert all(torch.equal(weight, again.get_parameter(name)) for name, weight in model.named_parameters())


def test_a_checkpoint_that_gives_no_weight_is_refused(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    from safetensors.torch import save_file

    tokenizer: Any = AutoTokenizer.from_pretrained(str(checkpoints["gpt2"]))
    model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), pad_token_id=0, **SIZES))
    model.config.save_pretrained(str(tmp_path))
    weights = {f"another.{name}": weight.clone() for name, weight in model.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    run = RunConfig.from_config(OmegaConf.to_container(compose_config(["model=gpt2", "task=mrpc"]), resolve=True))  # type: ignore[arg-type]
    source = Source("folder", str(tmp_path), folder=str(tmp_path))
    with pytest.raises(UserError, match="has none of the weights of LlamaForSequenceClassification"):
        load_model(run.model, source, tokenizer, "classification", ["no", "yes"])
