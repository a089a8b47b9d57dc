"""Turn the words that a user types into checked runs; light, so that a typo is answered before torch loads."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from peftkit import paths
from peftkit.help import help_text
from peftkit.schema import SECTIONS, UserError, complaints, key_names, nearest

if TYPE_CHECKING:
    from omegaconf import DictConfig

GROUPS = ("model", "method", "task", "recipe")
OPEN = ("train.", "method.config.", "method.quantization.")  # upstream's options: any name, checked against upstream


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Check every run of the command, then do them one after the other."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or {"-h", "--help"} & set(words):
        print(help_text())
        sys.exit(0)
    if "--version" in words:
        from peftkit import __version__

        print(f"peftkit {__version__}")
        sys.exit(0)
    flags, overrides, more = _split(words)
    register_recipes(more)
    overrides = [_open(word) for word in overrides]
    if found := check(overrides, more, "-m" in flags or "--multirun" in flags):
        print("\n".join(f"peftkit: {sentence}" for sentence in found), file=sys.stderr)
        sys.exit(2)
    sys.argv = ["peftkit", *flags, *_narrow(overrides, more)]
    outcome = _Outcome()
    _hydra(outcome)
    outcome.end()


class _Outcome:
    """What became of the runs of this command."""

    def __init__(self) -> None:
        self.folders: list[Path] = []
        self.status = 0

    def run(self, cfg: DictConfig) -> None:
        """Do one run; a failed one does not stop the others."""
        from hydra.core.hydra_config import HydraConfig

        from peftkit import jobs

        hydra = HydraConfig.get()
        try:
            folder = jobs.run(cfg, list(hydra.overrides.task), hydra.runtime.choices.get("recipe"))
        except UserError as error:
            self._fail(2, str(error))
        except KeyboardInterrupt:
            self._fail(130, "interrupted; the same command trains on from the last checkpoint")
            self.end()
        except Exception as error:
            if "PEFTKIT_DEBUG" in os.environ:
                traceback.print_exc()
            reason = (str(error) or type(error).__name__).splitlines()[0]
            self._fail(1, f"{reason} (the run folder's log.jsonl has the traceback; PEFTKIT_DEBUG=1 shows it here)")
        else:
            if folder is not None and cfg.job == "finetune":
                self.folders.append(folder)

    def end(self) -> NoReturn:
        if self.folders:
            from peftkit import jobs

            jobs.finish(self.folders)
        sys.exit(self.status)

    def _fail(self, status: int, sentence: str) -> None:
        print(f"peftkit: {sentence}", file=sys.stderr)
        self.status = self.status or status


def _hydra(outcome: _Outcome) -> None:
    import hydra

    hydra.main(config_path=str(paths.conf_folder()), config_name="config", version_base="1.3")(outcome.run)()


def register_recipes(more: Path | None = None) -> dict[str, Path]:
    """Offer every recipes/**/*.yaml to Hydra as recipe=NAME, and return their files by name."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    found = {
        str(file.relative_to(folder).with_suffix("")): file
        for folder in paths.recipe_folders(more)
        for file in sorted(folder.rglob("*.yaml"))
    }
    for name, file in found.items():
        group, _, leaf = f"recipe/{name}".rpartition("/")
        ConfigStore.instance().store(group=group, name=leaf, node=OmegaConf.load(file), package="_global_")
    return found


def check(overrides: Sequence[str], more: Path | None = None, multirun: bool = True) -> list[str]:
    """Return every complaint about the command's runs; nothing is loaded but YAML."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    recipes = register_recipes(more)
    found, right = [], []
    for word in overrides:
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException:
            found.append(f"cannot read {word!r}; write key=value, with quotes around a value that has spaces or commas")
            continue
        key = override.key_or_group
        if wrong := _unknown(key, override, recipes, more):
            found += wrong
        else:
            right.append(word)
            if override.is_sweep_override() and not multirun and not _is_sweep(right, more):
                found.append(f"{word} names several values; add -m to run them all")
    try:
        for each in expand(right, more):
            for sentence in complaints(_container(compose(each, more))):
                if sentence not in found:
                    found.append(sentence)
    except (HydraException, OmegaConfBaseException) as error:
        if not found:
            found.append(str(error.__cause__ or error).splitlines()[0])
    return found


def compose(overrides: Sequence[str], more: Path | None = None, with_hydra: bool = False) -> DictConfig:
    """Compose the config of one run from conf/, the recipes and these words."""
    import hydra

    search = [f"hydra.searchpath=[file://{more.resolve()}]"] if more is not None else []
    with hydra.initialize_config_dir(str(paths.conf_folder()), version_base="1.3"):
        words = [_open(word) for word in overrides] + search
        return hydra.compose("config", words, return_hydra_config=with_hydra)


def expand(overrides: Sequence[str], more: Path | None = None) -> list[list[str]]:
    """Return the words of each run: one list, or the product of the sweep that words and recipe ask for."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    register_recipes(more)
    words = [word for word in _narrow(list(overrides), more) if not word.startswith(("hydra.mode", "hydra.sweeper"))]
    batches = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(words), None)
    return [list(job) for job in batches[0]]


def _narrow(overrides: list[str], more: Path | None) -> list[str]:
    """Turn a recipe's sweep into words, less the keys that the command line sets itself.

    Hydra's own sweeper would run with both, and stop over the key that stands twice.
    """
    params = _sweep_params(overrides, more)
    if not params:
        return overrides
    given = {word.split("=", 1)[0].lstrip("+~") for word in overrides}
    left = [f"{key}={value}" for key, value in params.items() if key not in given]
    # values of the command line may sweep too, so the mode stays as the recipe has it
    return [*overrides, *left, "hydra.sweeper.params=null"]


def _sweep_params(overrides: Sequence[str], more: Path | None) -> dict[str, str]:
    from omegaconf import OmegaConf

    singles = [word for word in overrides if not _sweeps(word)]
    hydra_config = compose(singles, more, with_hydra=True).hydra
    if str(hydra_config.mode) != "RunMode.MULTIRUN" or "BasicSweeper" not in hydra_config.sweeper._target_:
        return {}
    return OmegaConf.to_container(hydra_config.sweeper.params or OmegaConf.create({}))  # type: ignore[return-value]


def _is_sweep(overrides: Sequence[str], more: Path | None) -> bool:
    singles = [word for word in overrides if not _sweeps(word)]
    return str(compose(singles, more, with_hydra=True).hydra.mode) == "RunMode.MULTIRUN"


def _sweeps(word: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(word).is_sweep_override()


def _unknown(key: str, override: object, recipes: dict[str, Path], more: Path | None) -> list[str]:
    """Return a sentence for a key, or for a group's option, that is not there."""
    if key.startswith("hydra") or key.startswith(OPEN):
        return []
    if key in GROUPS:
        options = set(recipes) if key == "recipe" else options_of(key, more)
        return [
            f"there is no {key}={value}{nearest(value, options, f'{key}=')}"
            for value in _option_values(override)
            if value not in options and value != "null"
        ]
    section, _, name = key.partition(".")
    top = key_names("")
    if section not in top:
        return [f"unknown key {key}{nearest(section, top | {'recipe'})}"]
    if name and section in SECTIONS and name.split(".")[0] not in key_names(section):
        return [f"unknown key {key}{nearest(name, key_names(section), f'{section}.')}"]
    if name and section not in SECTIONS:
        return [f"unknown key {key}; {section} is a plain value: {section}=..."]
    return []


def options_of(group: str, more: Path | None = None) -> set[str]:
    """Return the options of a config group, those of -cd DIR included."""
    folders = [paths.conf_folder()] + ([more] if more is not None else [])
    return {file.stem for folder in folders for file in (folder / group).glob("[!_]*.yaml")}


def _option_values(override: object) -> list[str]:
    from hydra.core.override_parser.types import Override

    assert isinstance(override, Override)
    if override.is_choice_sweep():
        return [str(value) for value in override.sweep_string_iterator()]
    return [] if override.is_sweep_override() else [str(override.get_value_string()).strip("'\"")]


def _open(word: str) -> str:
    """Let upstream options be typed without Hydra's + for keys that the YAML does not list."""
    return f"++{word}" if word.startswith(OPEN) else word


def _container(cfg: DictConfig) -> dict:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def _split(words: list[str]) -> tuple[list[str], list[str], Path | None]:
    """Part Hydra's flags from the key=value words, and find the folder of -cd."""
    flags, overrides, more = [], [], None
    takes_value = {"--cfg", "-c", "--package", "-p", "--config-dir", "-cd", "--config-name", "-cn", "--info", "-i"}
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if not word.startswith("-"):
            overrides.append(word)
            continue
        flags.append(word)
        if word in takes_value and queue and "=" not in queue[0]:
            flags.append(queue.pop(0))
        if word in ("-cd", "--config-dir"):
            more = Path(flags[-1])
        elif word.startswith("--config-dir="):
            more = Path(word.split("=", 1)[1])
    return flags, overrides, more
