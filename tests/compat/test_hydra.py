"""Hydra's sweeper composes each run of a sweep once."""

from __future__ import annotations

import inspect

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf

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
