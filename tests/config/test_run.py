"""The typed config of a run holds every key once and survives being written and read."""

from __future__ import annotations

import dataclasses
import json

import pytest
import yaml
from helpers.commands import choose, compose_config
from omegaconf import OmegaConf

from peftkit import paths
from peftkit.config import JOBS, SECTIONS, RunConfig, UserError
from peftkit.config.later_keys import ADDED_LATER, with_later_keys
from peftkit.config.run import PROVENANCE
from peftkit.config.suggestions import key_names
from peftkit.leaderboard.settings import flatten
from peftkit.results.run_folder import run_id


@pytest.mark.parametrize(
    "overrides",
    [["recipe=lora_glue", "task=mrpc"], ["task=language_modeling", "task.dataset=tests"], ["method=adalora"]],
)
def test_a_config_survives_json(overrides: list[str]) -> None:
    (config,) = choose(overrides)
    read = RunConfig.from_config(json.loads(json.dumps(config.to_dict())), config.recipe, config.overrides)
    assert read == config


def test_recipe_and_overrides_are_recorded_beside_the_config() -> None:
    (config,) = choose(["recipe=lora_glue", "task=mrpc", "seed=3"])
    assert config.recipe == "lora_glue" and config.overrides == ("recipe=lora_glue", "task=mrpc", "seed=3")
    assert not {*PROVENANCE} & {*config.to_dict()}


def test_defaults_of_the_top_level_and_its_sections_are_in_the_yaml_alone() -> None:
    file = yaml.safe_load((paths.conf_folder() / "config.yaml").read_text(encoding="utf-8"))
    for owner, values in [(RunConfig, file), *((SECTIONS[name], file[name]) for name in SECTIONS if name in file)]:
        for field in dataclasses.fields(owner):
            has_default = {field.default, field.default_factory} != {dataclasses.MISSING}
            assert has_default != (field.name in {*values, "model", "method", "task"}), field.name


def test_a_config_that_lacks_later_keys_is_read_with_their_defaults_and_has_the_same_id() -> None:
    values = choose(["task=mrpc"])[0].to_dict()
    read = RunConfig.from_config({name: value for name, value in values.items() if name not in ADDED_LATER})
    assert read.to_dict() == {**values, **{name: ADDED_LATER[name] for name in ("bench", "cache_features")}}
    (calibrated,) = choose(["task=mrpc", "calibration.holdout=0.1"])
    earlier = calibrated.to_dict() | {"calibration": {"holdout": 0.1}}  # before there was a second key
    assert run_id(RunConfig.from_config(earlier), {}, {}) == run_id(calibrated, {}, {})
    assert with_later_keys(earlier) == calibrated.to_dict()
    assert run_id(calibrated, {}, {}) != run_id(read, {}, {}) == run_id(choose(["task=mrpc"])[0], {}, {})
    assert "calibration" not in {key.partition(".")[0] for key in flatten(read.to_dict())}  # of entries on boards


def test_a_config_with_other_keys_is_refused() -> None:
    values = OmegaConf.to_container(compose_config([]), resolve=True)
    assert isinstance(values, dict)
    del values["distill"]
    with pytest.raises(UserError, match="of another version of peftkit"):
        RunConfig.from_config(values)


@pytest.mark.parametrize("job", JOBS.values(), ids=lambda job: job.name)
def test_the_keys_of_a_job_exist(job: object) -> None:
    for key in (*(job.reads or ()), *job.keys, *job.reads_without_run):  # type: ignore[attr-defined]
        section, _, name = key.partition(".")
        assert section in key_names("") | {"recipe"}
        assert section == "train" or not name or name in key_names(section)
