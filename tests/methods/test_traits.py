"""Traits of methods: those in conf/method, and those derived for any config class of PEFT."""

from __future__ import annotations

from dataclasses import asdict, fields

import pytest
import yaml
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PromptLearningConfig

from peftkit.config.traits import Traits, traits_of
from peftkit.paths import conf_folder

METHODS = sorted((conf_folder() / "method").glob("*.yaml"))


@pytest.mark.parametrize("file", METHODS, ids=lambda file: file.stem)
def test_each_method_lists_only_traits_that_cannot_be_derived(file) -> None:
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    derived = asdict(traits_of(settings["config"], {}))
    given = settings["traits"]
    assert given.keys() <= {field.name for field in fields(Traits)}
    assert all(derived[name] != value for name, value in given.items())


def test_each_method_names_its_paper() -> None:
    without = [file.stem for file in METHODS if not yaml.safe_load(file.read_text(encoding="utf-8"))["paper"]]
    assert without == ["peft", "untuned"]


@pytest.mark.parametrize("config", PEFT_TYPE_TO_CONFIG_MAPPING.values(), ids=lambda config: config.__name__)
def test_the_traits_of_any_config_of_peft_are_derived_from_its_fields(config) -> None:
    if not config.__module__.startswith("peft."):
        pytest.skip("a tuner of peftkit")
    traits = traits_of({"_target_": f"peft.{config.__name__}"}, {})
    is_soft_prompt = issubclass(config, PromptLearningConfig)
    assert traits.trains
    assert traits.adapter
    assert traits.lengthens_text == is_soft_prompt
    assert traits.packable != is_soft_prompt
    assert traits.mixed_batch == (config.__name__ == "LoraConfig")
    assert traits.regularized == traits.scheduled == (config.__name__ == "AdaLoraConfig")


def test_dora_cannot_mix_adapters_within_a_batch() -> None:
    assert not traits_of({"_target_": "peft.LoraConfig", "use_dora": True}, {}).mixed_batch
