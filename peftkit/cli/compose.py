"""Turn words, parts and recipes into the config of each run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit import paths
from peftkit.cli.overrides import normalize, parse
from peftkit.config import RunConfig, UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

Composer = Callable[[Sequence[str]], "DictConfig"]  # words -> the whole config, Hydra's own section included


@dataclass(frozen=True)
class Sweep:
    """The words with which Hydra runs or sweeps, and the words of each run."""

    words: list[str]
    runs: list[list[str]]


def compose_config(words: Sequence[str], more: Path | None = None) -> DictConfig:
    """Compose the config of one run from conf/, the recipes and these words."""
    with open_composer(more) as composer:
        return without_hydra(composer([normalize(word) for word in words]))


def expand_sweep(words: Sequence[str], more: Path | None = None) -> list[list[str]]:
    """Return the words of each run: one list, or the product of the sweep that words and recipe ask for."""
    with open_composer(more) as composer:
        return plan_sweep([normalize(word) for word in words], composer).runs


def plan_sweep(words: Sequence[str], composer: Composer, multirun: bool = False) -> Sweep:
    """Put a recipe's sweep and the command line's together; a key that the command line sets is the command line's.

    Raises:
        UserError: the recipes of one command sweep different keys.
    """
    overrides = [parse(word) for word in words]
    params = _params(overrides, composer, multirun)
    if params is None:  # another sweeper than Hydra's own, which takes words and params itself
        finite = [override for override in overrides if not override.is_sweep_override() or override.is_choice_sweep()]
        return Sweep([*words, *(["hydra.mode=MULTIRUN"] if multirun else [])], _product(finite))
    if drawn := [o.input_line for o in overrides if o.is_sweep_override() and not o.is_discrete_sweep()]:
        raise UserError(f"{drawn[0]} has no end; say hydra/sweeper=optuna too (pip install 'peftkit[optuna]')")
    added = [f"{key}={value}" for key, value in params.items()]
    runs = _product([*overrides, *map(parse, added)])
    mode = "RUN" if len(runs) == 1 and not multirun else "MULTIRUN"
    return Sweep([*words, *added, "hydra.sweeper.params=null", f"hydra.mode={mode}"], runs)


@contextmanager
def open_composer(more: Path | None) -> Iterator[Composer]:
    """Open conf/, the recipes and the folder of -cd to Hydra; many configs are composed in one opening."""
    import hydra
    from hydra.core.override_parser.types import Quote, QuotedString

    register_recipes(more)
    known: dict[tuple[str, ...], DictConfig] = {}  # a config takes 60 ms
    search = []
    if more is not None:
        search = [f"hydra.searchpath=[{QuotedString(f'file://{more.resolve()}', Quote.single).with_quotes()}]"]

    def compose_words(words: Sequence[str]) -> DictConfig:
        key = tuple(words)
        if key not in known:
            known[key] = hydra.compose("config", [*words, *search], return_hydra_config=True)
        return known[key]

    with hydra.initialize_config_dir(str(paths.conf_folder()), version_base="1.3"):
        yield compose_words


def build_run(cfg: DictConfig, recipe: str | None, overrides: Sequence[str]) -> RunConfig:
    """Return the typed config of one run."""
    from omegaconf import OmegaConf

    values: Any = OmegaConf.to_container(cfg, resolve=True)
    return RunConfig.from_config(values, recipe, overrides)


def without_hydra(cfg: DictConfig) -> DictConfig:
    from omegaconf import OmegaConf

    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


def register_recipes(more: Path | None = None) -> None:
    """Offer every recipe to Hydra as recipe=NAME; a file that is no YAML is passed over until it is asked for."""
    from hydra.core.config_store import ConfigStore

    for name, file in paths.recipes(more).items():
        if more is not None and file.is_relative_to(more / "recipe"):  # Hydra finds those by itself
            continue
        node = read_recipe(file)
        if not isinstance(node, str):
            group, _, leaf = f"recipe/{name}".rpartition("/")
            ConfigStore.instance().store(group=group, name=leaf, node=node, package="_global_")


def read_recipe(file: Path) -> DictConfig | str:
    """Return a recipe, or a sentence that says why it is none."""
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        node = OmegaConf.load(file)
    except YAMLError as error:
        return yaml_fault(error)
    except (OSError, UnicodeDecodeError, OmegaConfBaseException) as error:
        return f"{file}: {str(error).splitlines()[0]}"
    return node if isinstance(node, DictConfig) else f"{file} holds no keys; a recipe is made of key: value"


def yaml_fault(error: Exception) -> str:
    """Return where a file is no YAML, and why."""
    from yaml import MarkedYAMLError

    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}"
    return str(error).splitlines()[0]


def _params(overrides: Sequence[Override], composer: Composer, multirun: bool) -> dict[str, str] | None:
    """Return what the recipe sweeps and the command line leaves to it; None where the sweeper is not Hydra's own."""
    given = {override.key_or_group for override in overrides}
    choices = next((o for o in overrides if o.key_or_group == "recipe" and o.is_choice_sweep()), None)
    names = [f"recipe={name}" for name in choices.sweep_string_iterator()] if choices else []
    singles = [str(o.input_line) for o in overrides if not o.is_sweep_override()]
    found = []
    for words in [[*singles, name] for name in names] or [singles]:
        hydra_config = composer(words).hydra
        if "BasicSweeper" not in hydra_config.sweeper._target_:
            return None
        sweeps = multirun or str(hydra_config.mode) == "RunMode.MULTIRUN"
        params = (hydra_config.sweeper.params or {}) if sweeps else {}
        found.append({key: str(value) for key, value in params.items() if key not in given})
    if any(params != found[0] for params in found):
        raise UserError(f"{' and '.join(names)} sweep different keys; run them one at a time")
    return found[0]


def _product(overrides: Sequence[Override]) -> list[list[str]]:
    """Return the words of each run, without those that are for Hydra itself."""
    factors = []
    for override in overrides:
        if override.is_sweep_override():
            key = override.get_key_element()
            factors.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        elif not override.is_hydra_override():
            factors.append([str(override.input_line)])
    return [list(run) for run in itertools.product(*factors)]
