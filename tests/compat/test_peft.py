"""What peftkit.compat uses of peft 0.21.2: a failure here names the upstream part that changed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version
from typing import Any

import pytest
import torch
from peft import IA3Config, LNTuningConfig, LoraConfig, PeftConfig, PeftType, TrainableTokensConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from peftkit.compat import peft as compat
from peftkit.compat.tuner import HookedTuner, Tuner, TunerLayer
from peftkit.config import UserError
from peftkit.methods import apply_method
from peftkit.methods.adapter import BottleneckConfig

SIZES = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TESTED = "0.21"


def bert() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SIZES)).eval()


def test_the_version_that_these_tests_describe() -> None:
    assert version("peft").startswith(TESTED), "run tests/compat against this version, then change TESTED"


@pytest.mark.parametrize("name", ["BOTTLENECK", "SOFT_PROMPT", "MIX", "LAYER_MIX"])
def test_the_enum_of_peft_types_can_be_extended_and_keeps_our_types(name: str) -> None:
    assert compat.peft_type(name) is PeftType[name]
    assert PeftType(name) is compat.peft_type(name)  # from the text in adapter_config.json


def test_registering_twice_changes_nothing() -> None:
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    before = dict(PEFT_TYPE_TO_CONFIG_MAPPING)
    compat.register_tuner("BOTTLENECK", BottleneckConfig, Tuner)
    assert before == PEFT_TYPE_TO_CONFIG_MAPPING


@pytest.mark.parametrize(
    ("config", "targets"),
    [
        (LoraConfig(), {"query", "value"}),
        (IA3Config(), {"key", "value", "output.dense"}),
        (LNTuningConfig(), None),  # PEFT has no entry for BERT
        (TrainableTokensConfig(token_indices=[1]), None),
    ],
    ids=["lora", "ia3", "ln_tuning", "tokens"],
)
def test_peft_fills_in_the_modules_of_a_model_type_that_it_knows(config: LoraConfig, targets: set[str] | None) -> None:
    before = config.target_modules
    compat.fill_target_modules(config, "bert")
    assert config.target_modules == (before if targets is None else targets)


def test_the_switch_of_tuner_layers() -> None:
    inputs = {"input_ids": torch.arange(5, 10)[None]}
    model = get_peft_model(bert(), LoraConfig(task_type="SEQ_CLS", init_lora_weights=False)).eval()
    with torch.no_grad():
        model.base_model.model.classifier.modules_to_save["default"].weight.add_(1)
        tuned = model(**inputs).logits
        with compat.disabled_adapters(model):
            off = model(**inputs).logits
            assert all(layer.disable_adapters for layer in model.modules() if isinstance(layer, BaseTunerLayer))
        again = model(**inputs).logits
        with model.disable_adapter():
            base = model(**inputs).logits
    assert torch.equal(tuned, again)
    assert not torch.allclose(off, tuned)
    assert not torch.allclose(off, base)  # the head stays as it was trained


def test_the_refusal_to_merge() -> None:
    assert compat.merge_error(apply_method(bert(), LoraConfig()).base_model) is None
    assert "cannot be merged" in str(compat.merge_error(apply_method(bert(), BottleneckConfig()).base_model))


def test_a_saved_module_is_unwrapped_to_its_trained_copy() -> None:
    model = get_peft_model(bert(), LoraConfig(task_type="SEQ_CLS"))
    wrapper = model.base_model.model.classifier
    assert isinstance(wrapper, compat.ModulesToSaveWrapper)
    assert isinstance(wrapper, compat.AuxiliaryTrainingWrapper)
    trained = wrapper.modules_to_save["default"]
    assert compat.unwrap_saved_module(wrapper) is trained


def test_doras_magnitudes_start_at_the_norms_of_the_base() -> None:
    model = get_peft_model(bert(), LoraConfig(use_dora=True, target_modules=["query"]))
    layer = model.base_model.model.bert.encoder.layer[0].attention.self.query
    weight, norm = compat.dora_magnitude(layer, "default")
    torch.testing.assert_close(weight.detach(), norm)
    torch.testing.assert_close(norm, layer.base_layer.weight.norm(dim=1))


def test_a_lora_on_no_module_trains_single_rows() -> None:
    config = LoraConfig(target_modules=compat.DUMMY_TARGET_MODULES, trainable_token_indices=[1, 2])
    model = get_peft_model(bert(), config)
    assert any(isinstance(module, compat.TrainableTokensLayer) for module in model.modules())
    assert {name.split(".")[-2] for name, weight in model.named_parameters() if weight.requires_grad} == {
        "trainable_tokens_delta"
    }


@pytest.mark.parametrize(
    "name",
    [
        "_create_and_replace", "_replace_module", "_prepare_adapter_config", "_prepare_model",
        "_check_target_module_exists", "_check_new_adapter_config", "_check_merge_allowed",
        "_mark_only_adapters_as_trainable", "inject_adapter", "get_model_config", "set_adapter",
    ],
)  # fmt: skip
def test_the_hooks_of_a_tuner_exist(name: str) -> None:
    assert callable(getattr(BaseTuner, name))


@pytest.mark.parametrize("name", ["_move_adapter_to_device_of_base_layer", "_cast_input_dtype", "get_base_layer"])
def test_the_methods_of_a_tuner_layer_exist(name: str) -> None:
    assert callable(getattr(BaseTunerLayer, name))


def test_a_tuner_calls_its_public_hooks() -> None:
    calls = []

    class Spy(TunerLayer):
        adapter_layer_names = ("spy",)

        def __init__(self, base: nn.Module, name: str) -> None:
            super().__init__(name)
            self.base_layer, self.spy = base, nn.ModuleDict({name: nn.Linear(16, 16)})

        def forward(self, x: torch.Tensor, adapter_names: list[str] | None = None) -> torch.Tensor:
            calls.append(adapter_names)
            return self.base_layer(x)

    class SpyTuner(Tuner):
        prefix, merge_error = "spy", "never"

        def add_layer(self, config, adapter_name, target, target_name, parent) -> None:
            setattr(parent, target_name, Spy(target, adapter_name))

        def prepare(self, config, model) -> None:
            calls.append(model)
            config.target_modules = ["query"]

        @classmethod
        def is_target(cls, config, name: str) -> bool:
            return ".0." in name

    model = bert()
    tuner = SpyTuner(model, BottleneckConfig(), "default").eval()
    assert calls == [model]
    assert sum(isinstance(module, Spy) for module in tuner.modules()) == 1
    with tuner._enable_peft_forward_hooks(adapter_names=["default", "__base__"]):
        tuner(input_ids=torch.arange(10).view(2, 5))
    assert calls[1:] == [["default", "__base__"]]
    with pytest.raises(ValueError, match=r"never; use unload"):
        tuner.merge_and_unload()


@pytest.mark.parametrize("config_class", [LoraConfig, IA3Config, BottleneckConfig])
def test_a_method_without_target_modules_is_refused_with_them(config_class: Callable[..., PeftConfig]) -> None:
    class Unknown(BertConfig):
        model_type = "unknown"

    with pytest.raises(UserError, match="no target modules for unknown") as caught:
        apply_method(BertForSequenceClassification(Unknown(**SIZES)), config_class())
    typed = [each.removeprefix("method.config.").split("=") for each in caught.value.fix[0].split()]
    config = config_class(**{key: [] if value == "[]" else value for key, value in typed})
    model = apply_method(BertForSequenceClassification(Unknown(**SIZES)), config)
    assert any(isinstance(module, BaseTunerLayer) for module in model.modules())


def test_a_tuner_without_target_modules_names_them() -> None:
    class Bare(Tuner):
        prefix, merge_error = "bare", "never"

    with pytest.raises(ValueError, match="BottleneckConfig has no target modules; set target_modules"):
        Bare(bert(), BottleneckConfig(), "default")
    with pytest.raises(ValueError, match="PeftConfig has no field target_modules"):
        Bare(bert(), PeftConfig(), "default")


def test_a_hooked_tuner_replaces_nothing() -> None:
    reached = []

    class Hooking(HookedTuner):
        prefix, merge_error = "hooking", "never"

        def attach(self, model, adapter_name, config, is_loaded) -> list[nn.Module]:
            reached.append((adapter_name, is_loaded))
            return [model.bert]

    model = bert()
    names = [name for name, _ in model.named_modules()]
    config = BottleneckConfig(modules_to_save=["classifier"])
    tuner = Hooking(model, config, "default")
    assert reached == [("default", False)]
    assert tuner.targeted_module_names == ["bert"]
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trainable == {"classifier.modules_to_save.default.weight", "classifier.modules_to_save.default.bias"}
    assert set(names) <= {name for name, _ in model.named_modules()}
    tuner.unload()
    assert isinstance(model.classifier, nn.Linear)


@pytest.mark.parametrize(
    ("settings", "has_casts"), [({}, False), ({"use_dora": True}, True), ({"lora_dropout": 0.5}, True)]
)
def test_lora_without_casts_has_the_same_bits(settings: dict[str, Any], has_casts: bool) -> None:
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="SEQ_CLS", **settings)
    model, found = get_peft_model(bert(), config).train(), []
    layers = [each for each in model.modules() if isinstance(each, BaseTunerLayer)]
    for casts in (nullcontext, partial(compat.lora_without_casts, model)):
        torch.manual_seed(0)
        model.zero_grad()
        with casts(), torch.autocast("cpu", torch.bfloat16):
            assert casts is nullcontext or {each.cast_input_dtype_enabled for each in layers} == {has_casts}
            loss = model(input_ids=torch.arange(5, 15).view(2, 5), labels=torch.tensor([0, 1])).loss
        loss.backward()
        found.append([loss, *(weight.grad for weight in model.parameters() if weight.grad is not None)])
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))
    assert all(each.cast_input_dtype_enabled for each in layers)
