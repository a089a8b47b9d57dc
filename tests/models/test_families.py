"""Architectures of checkpoints, records of families, and the mean-pooling classifiers made of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForSequenceClassification, PretrainedConfig

from peftkit.config import ModelConfig, UserError
from peftkit.config.families import FAMILIES, base_type, family_of, suggested_model
from peftkit.config.source import Source
from peftkit.methods import apply_method
from peftkit.methods.adapter import BottleneckConfig
from peftkit.methods.mix import MixConfig
from peftkit.methods.soft_prompt import SoftPromptConfig
from peftkit.models.heads import CLASSIFIERS
from peftkit.models.load import architecture_of, load_config
from peftkit.paths import conf_folder

ENCODERS = ("bert", "electra", "mpnet", "deberta-v2", "xlm-roberta", "funnel", "convbert", "albert", "modernbert")
DECODERS = ("gpt2", "gpt_neox", "opt", "llama", "mistral", "qwen2", "bloom", "falcon")
SEQ2SEQ = ("t5", "bart", "mt5")
SMALL = {
    "vocab_size": 40, "hidden_size": 16, "embedding_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 40,
}  # fmt: skip
SMALL_DISTILBERT = {"vocab_size": 40, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 16}
POOLING = sorted(CLASSIFIERS)


def classifier(model_type: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config = CLASSIFIERS[model_type][0](**(SMALL_DISTILBERT if model_type == "distilbert" else SMALL))
    return AutoModelForSequenceClassification.from_config(config).eval()


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [
        *((name, "encoder") for name in (*ENCODERS, "t5_encoder", "mean_pooling_bert")),
        *((name, "decoder") for name in DECODERS),
        *((name, "seq2seq") for name in SEQ2SEQ),
    ],
)
def test_the_architecture_of_a_checkpoint(model_type: str, architecture: str) -> None:
    assert architecture_of(CONFIG_MAPPING[model_type]()) == architecture


def model(folder: Path, config: PretrainedConfig, architecture: str) -> tuple[ModelConfig, Source]:
    config.save_pretrained(str(folder))
    chosen = ModelConfig(
        "own",
        str(folder),
        "main",
        architecture,
        None,
        "minilm",
        learning_rates={},
        keep_layers=None,
        attn_implementation=None,
    )
    return chosen, Source("folder", str(folder), folder=str(folder))


@pytest.mark.parametrize(
    ("model_type", "chosen", "hint"),
    [
        ("electra", "decoder", "use model=bert "),
        ("xlm-roberta", "decoder", "use model=roberta "),
        ("deberta-v2", "seq2seq", "use model=bert "),
        ("llama", "encoder", "use model=smollm2 "),
        ("bart", "encoder", "use model=t5 "),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused_with_a_model_that_fits(
    tmp_path: Path, model_type: str, chosen: str, hint: str
) -> None:
    with pytest.raises(UserError, match=hint):
        load_config(*model(tmp_path, CONFIG_MAPPING[model_type](), chosen))


def test_an_encoder_without_a_record_loads_as_an_encoder(tmp_path: Path) -> None:
    config = CONFIG_MAPPING["mpnet"]()
    assert load_config(*model(tmp_path, config, "encoder")).model_type == "mpnet"


def test_xlnet_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"XLNet reads its tokens in permuted orders.*use model=roberta"):
        load_config(*model(tmp_path, CONFIG_MAPPING["xlnet"](), "decoder"))


def test_each_family_has_a_model_to_suggest() -> None:
    known = {file.stem for file in (conf_folder() / "model").glob("*.yaml")}
    assert {suggested_model(family.architecture, name) for name, family in FAMILIES.items()} <= known


def test_classifiers_of_peftkit_belong_to_the_family_of_their_base() -> None:
    assert family_of("mean_pooling_roberta") is family_of("roberta")
    assert base_type("mean_pooling_roberta") == "roberta"
    assert base_type("t5_encoder") == "t5"
    assert base_type("gpt2") == "gpt2"


@pytest.mark.parametrize("model_type", POOLING)
def test_mean_pooling_of_any_such_encoder_ignores_padding_and_reloads(model_type: str, tmp_path: Path) -> None:
    net = classifier(model_type)
    ids = torch.arange(5, 10)[None]
    alone = net(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    padded = torch.nn.functional.pad(ids, (0, 4), value=net.config.pad_token_id or 0)
    mask = torch.nn.functional.pad(torch.ones_like(ids), (0, 4))
    torch.testing.assert_close(net(input_ids=padded, attention_mask=mask).logits, alone, atol=1e-5, rtol=0)
    net.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(again) is CLASSIFIERS[model_type][1]
    assert AutoConfig.from_pretrained(tmp_path).model_type == f"mean_pooling_{model_type}"
    torch.testing.assert_close(again(input_ids=ids).logits, net(input_ids=ids).logits)


@pytest.mark.parametrize("model_type", POOLING)
@pytest.mark.parametrize(
    "config",
    [
        *(BottleneckConfig(kind=kind) for kind in ("houlsby", "pfeiffer", "parallel")),
        MixConfig(kind="pfeiffer", rank=2, num_virtual_tokens=2, gated=True),
        SoftPromptConfig(num_virtual_tokens=2),
    ],
    ids=("houlsby", "pfeiffer", "parallel", "mix", "prompt"),
)
def test_peftkits_own_tuners_reach_every_layer_of_every_encoder_with_a_record(
    model_type: str, config: BottleneckConfig
) -> None:
    tuned = apply_method(classifier(model_type), replace(config))
    tuned(input_ids=torch.arange(5, 10)[None], labels=torch.tensor([1])).loss.backward()
    without = [name for name, weight in tuned.named_parameters() if weight.requires_grad and weight.grad is None]
    assert without == []
    layers = {
        name.split("bottleneck")[0].split(".layer.")[1][0]
        for name, _ in tuned.named_parameters()
        if "bottleneck" in name
    }
    assert layers in (set(), {"0", "1"})
