"""Hydra's sweeper composes each run of a sweep once, and compositions share the registered files."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from hydra._internal.config_repository import CachingConfigRepository
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf

from peftkit.cli.compose import open_composer
from peftkit.compat.hydra import composed_at_launch


def test_the_composition_before_the_first_run_is_left_out() -> None:
    Plugins.instance()
    from hydra._internal.core_plugins import basic_sweeper
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    assert "self.validate_batch_is_legal(batch)" in inspect.getsource(BasicSweeper.sweep)
    batch = [["no_such_key=1"]]
    with pytest.raises(AttributeError):  # this sweeper is not set up
        BasicSweeper(None).validate_batch_is_legal(batch)
    with composed_at_launch():
        BasicSweeper(None).validate_batch_is_legal(batch)
        assert basic_sweeper.OmegaConf is not OmegaConf and basic_sweeper.OmegaConf.to_yaml is OmegaConf.to_yaml
        basic_sweeper.OmegaConf.save({}, "/no/such/folder/multirun.yaml")
    assert 'OmegaConf.save(self.config, sweep_dir / "multirun.yaml")' in inspect.getsource(BasicSweeper.sweep)
    assert basic_sweeper.OmegaConf is OmegaConf
    assert BasicSweeper.validate_batch_is_legal is Sweeper.validate_batch_is_legal


def nodes(level: dict[str, Any]) -> Iterator[Any]:
    for each in level.values():
        yield from nodes(each) if isinstance(each, dict) else [each]


def test_a_composition_leaves_the_registered_files_as_they_are() -> None:
    assert "copy.deepcopy(delegate)" in inspect.getsource(CachingConfigRepository.__init__)
    with open_composer(None) as composer:
        store = ConfigStore.instance()
        before = {id(each): repr(each) for each in nodes(store.repo)}
        assert copy.deepcopy(store) is store
        composer(["recipe=lora_glue", "seed=1"])
        assert {id(each): repr(each) for each in nodes(store.repo)} == before
