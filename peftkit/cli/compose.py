"""Composition of the config of each run from conf/, the recipes and the overrides."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from peftkit import paths
from peftkit.cli.files import register_files
from peftkit.cli.overrides import parse
from peftkit.cli.tasks import with_tasks
from peftkit.compat.hydra import share_config_store
from peftkit.config import RunConfig, UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

Composer = Callable[[Sequence[str]], DictConfig]  # overrides -> the whole config, Hydra's own section included


MAX_RUNS = 5000  # of one command


@dataclass(frozen=True)
class Sweep:
    """The overrides for Hydra, and those of each run."""

    overrides: list[str]
    runs: list[list[str]]


def plan_sweep(overrides: Sequence[str], composer: Composer, multirun: bool = False) -> Sweep:
    """Join the sweep of a recipe and that of the command line, which has precedence.

    Raises:
        UserError: the recipes of one command sweep different keys.
    """
    parsed = [parse(override) for override in overrides]
    params = _recipe_sweep(parsed, composer, multirun)
    if params is None:  # another sweeper than Hydra's own, which applies its params itself
        finite = [each for each in parsed if not each.is_sweep_override() or each.is_choice_sweep()]
        typed = {each.key_or_group for each in parsed}
        added = ["hydra.sweeper.direction=maximize"] if "hydra.sweeper.direction" not in typed else []  # of the score
        return Sweep([*overrides, *added, *(["hydra.mode=MULTIRUN"] if multirun else [])], _product(finite))
    added = [f"{key}={value}" for key, value in params.items()]
    parsed, texts = [*parsed, *map(_parse_param, added)], [*overrides, *added]
    if composer([str(each.input_line) for each in parsed if not each.is_sweep_override()]).sequential_seeds:
        order = sorted(range(len(parsed)), key=lambda number: parsed[number].key_or_group != "seed")
        parsed, texts = [parsed[n] for n in order], [texts[n] for n in order]  # all runs of a seed before the next seed
    if unbounded := [each.input_line for each in parsed if each.is_sweep_override() and not each.is_discrete_sweep()]:
        raise UserError(
            f"{unbounded[0]} is an unbounded sweep; set hydra/sweeper=optuna too (pip install 'peftkit[optuna]')"
        )
    runs = _product(parsed)
    if not runs:
        raise UserError("the sweep has no values; write them out, such as seed=0,1,2")
    mode = "RUN" if len(runs) == 1 and not multirun else "MULTIRUN"
    return Sweep([*texts, "hydra.sweeper.params=null", f"hydra.mode={mode}"], runs)


@contextmanager
def open_composer(extra: Path | None) -> Iterator[Composer]:
    """Initialize Hydra with conf/, the recipes and the folder of -cd; one opening composes many configs."""
    import hydra

    share_config_store()
    register_files(extra)
    cache: dict[tuple[str, ...], DictConfig] = {}  # composing takes 60 ms

    def compose(overrides: Sequence[str]) -> DictConfig:
        key = tuple(overrides)
        if key not in cache:
            cache[key] = hydra.compose("config", [*overrides], return_hydra_config=True)
        return cache[key]

    with hydra.initialize_config_dir(str(paths.conf_folder()), version_base="1.3"):
        yield compose


def build_run(
    cfg: DictConfig, recipe: str | None, overrides: Sequence[str], config_dir: str | None = None
) -> RunConfig:
    """Return the typed config of one run; that of several tasks needs the composer that composed it to be open."""
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    if values["tasks"] is not None:
        values = with_tasks(values, overrides)
    return RunConfig.from_config(values, recipe, overrides, config_dir)


def without_hydra(cfg: DictConfig) -> DictConfig:
    """Return a config without Hydra's own section."""
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


def _recipe_sweep(overrides: Sequence[Override], composer: Composer, multirun: bool) -> dict[str, str] | None:
    """Return what the recipe sweeps and the command line does not set; None where the sweeper is not Hydra's own."""
    given = {override.key_or_group for override in overrides}
    given |= {"task"} if "tasks" in given else set()  # which replaces it
    choices = next((o for o in overrides if o.key_or_group == "recipe" and o.is_choice_sweep()), None)
    names = [f"recipe={name}" for name in choices.sweep_string_iterator()] if choices else []
    singles = [str(o.input_line) for o in overrides if not o.is_sweep_override()]
    found = []
    for chosen in [[*singles, name] for name in names] or [singles]:
        hydra_config = composer(chosen).hydra
        if "BasicSweeper" not in hydra_config.sweeper._target_:
            return None
        sweeps = multirun or str(hydra_config.mode) == "RunMode.MULTIRUN"
        params = (hydra_config.sweeper.params or {}) if sweeps else {}
        found.append({key: str(value) for key, value in params.items() if key not in given})
    if any(params != found[0] for params in found):
        raise UserError(f"{' and '.join(names)} sweep different keys; run them one at a time")
    return found[0]


def _parse_param(override: str) -> Override:
    from hydra.errors import HydraException

    try:
        return parse(override)
    except HydraException as error:
        raise UserError(f"hydra.sweeper.params: cannot parse {override!r}; write values such as '0,1,2'") from error


def _product(overrides: Sequence[Override]) -> list[list[str]]:
    """Return the overrides of each run, without those for Hydra itself."""
    factors, is_sweep = [], any(each.is_sweep_override() for each in overrides)
    last = {each.get_key_element(): each for each in overrides}  # of a key typed twice, as in Hydra's sweeper
    for override in last.values() if is_sweep else overrides:
        if override.is_sweep_override():
            key = override.get_key_element()
            values = itertools.islice(override.sweep_string_iterator(), MAX_RUNS + 1)
            factors.append([f"{key}={value}" for value in values])
        elif not override.is_hydra_override():
            factors.append([str(override.input_line)])
    if math.prod(map(len, factors)) > MAX_RUNS:
        raise UserError(f"a sweep of more than {MAX_RUNS:,} runs; sweep fewer values, such as seed=0,1,2")
    return [list(run) for run in itertools.product(*factors)]
