"""Validation of a command: every error of its overrides and runs; nothing is loaded but YAML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from peftkit.cli.compose import Composer, plan_sweep, without_hydra
from peftkit.cli.files import GROUPS, file_error, option_errors
from peftkit.cli.overrides import UPSTREAM_SECTIONS, parse
from peftkit.cli.tasks import name_errors, with_tasks
from peftkit.config import JOBS, SECTIONS, Refusal, UserError, config_errors, nearest, refusal
from peftkit.config.checks.job import ignored_errors
from peftkit.config.checks.outside import outside_errors
from peftkit.config.checks.values import key_errors, value_of
from peftkit.config.quoting import typed
from peftkit.config.secrets import secret_errors
from peftkit.config.suggestions import RENAMED, key_names, renamed_key, section_error, takes_list, unknown_key

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

HYDRA_PACKAGES = ("hydra.", "hydra_plugins.")
CHOSEN_BY_FILES = ("mode", "sweeper", "launcher", "runtime", "overrides")  # of Hydra's section


def command_errors(overrides: Sequence[str], composer: Composer, extra: Path | None, multirun: bool) -> list[str]:
    """Return every error of the command's runs, composed with an open composer, which caches their configs."""
    errors = {override: list(_override_errors(override, extra)) for override in overrides}
    messages = [message for wrong in errors.values() for message in wrong]
    valid = [override for override in overrides if not errors[override]]
    return [*dict.fromkeys([*messages, *_composition_errors(valid, composer, extra, multirun, bool(messages))])]


def _override_errors(text: str, extra: Path | None) -> Iterable[str]:
    """Return a message for an override that cannot be parsed, an unknown key, or an unknown option of a group."""
    from hydra.errors import HydraException

    try:
        override = parse(text)
    except HydraException:
        hint = "\"key='a value'\" where the value contains special characters"
        return [f"cannot parse {text.lstrip('+')!r}; write key=value, and {hint}"]
    key = override.key_or_group
    section, _, name = key.partition(".")
    if (key in GROUPS or "/" in key) and not _are_names(override):
        hint = f"; python -m peftkit {key} --help lists them" if key in GROUPS else ""
        return [f"{text.lstrip('+')}: expected a name{hint}"]
    if key in GROUPS:
        return _option_errors(key, override, extra)
    if key in (*SECTIONS, "train") or takes_list(key):
        return _list_errors(override)
    is_upstream = key.startswith(UPSTREAM_SECTIONS) and key not in RENAMED
    if key == "hydra.searchpath":
        return [f"{text}: Hydra searches no other folders; use -cd DIR"]
    if is_upstream or key.startswith(("hydra.", "hydra/")) or key in key_names(""):
        return []
    if section in key_names("") - {*SECTIONS, "train"}:
        return [refusal(f"unknown key {key}: {section} takes one value", f"{key}->{section}")]
    is_known = key not in RENAMED and section in SECTIONS and name.split(".")[0] in key_names(section)
    return [] if is_known else [unknown_key(key)]


def _are_names(override: Override) -> bool:
    """Return whether each value that an override gives a group is a text."""
    from hydra.core.override_parser.types import QuotedString

    group, value = override.key_or_group, override.value()
    names: Any = (str, QuotedString, type(None)) if override.is_delete() else (str, QuotedString)
    if override.is_sweep_override():
        is_choice = override.is_choice_sweep()
        values = getattr(value, "list", ["glob"]) if is_choice else [None]
        return is_choice and all(isinstance(each, names) for each in values)
    if isinstance(value, list) and group in GROUPS and value:
        return all(isinstance(each, str | QuotedString) for each in value)
    return isinstance(value, names)


def _list_errors(override: Override) -> Iterator[str]:
    """Yield a message for a list in place of a section, and for single values of a sweep in place of lists."""
    key, value = override.key_or_group, str(override.input_line).partition("=")[2]
    is_sweep = override.is_choice_sweep()
    values = list(override.sweep_string_iterator()) if is_sweep else []
    if key in SECTIONS if is_sweep else isinstance(override.value(), list) and not takes_list(key):
        yield section_error(key, value)
    elif is_sweep and not any(each.startswith("[") for each in values):
        yield refusal(f"{key}={value}: expected a list", f"{key}=[{value}]")


def _option_errors(group: str, override: Override, extra: Path | None) -> Iterator[str]:
    value = str(override.input_line).partition("=")[2]
    if not override.is_sweep_override() and isinstance(override.value(), list):  # Hydra would compose only the last
        names = value.strip("[]").replace(" ", "")
        wrong, single = f"{group}={value}: expected one {group}", f"{'-m ' * (',' in names)}{group}={names}"
        if group == "task" and "," in names:
            yield Refusal(f"{wrong}; use tasks=[{names}], or {single}", "task->tasks", single)
        else:
            yield refusal(wrong, single)
        return
    for name in _values(override):
        yield from option_errors(group, name, extra)


def _values(override: Override) -> list[str]:
    if override.is_choice_sweep():
        return [str(value).strip("'\"") for value in override.sweep_string_iterator()]
    if override.is_sweep_override() or override.is_delete():
        return []
    return [str(override.get_value_string()).strip("'\"")]


def _composition_errors(
    overrides: Sequence[str], composer: Composer, extra: Path | None, multirun: bool, has_errors: bool
) -> Iterator[str]:
    """Compose each run and yield its errors."""
    from hydra.errors import HydraException

    try:
        yield from _hydra_errors(overrides, composer)
        yield from _sweep_errors(overrides, composer, multirun)
        runs = plan_sweep(overrides, composer, multirun).runs
        for run in distinct_runs(runs, has_errors):
            yield from _run_errors(composer(run), run, extra)
        yield from _seed_errors(runs)
    except UserError as error:
        yield error.message
    except RecursionError:
        yield "the defaults of the recipe, or of a file on which it builds, lead back to itself; remove that entry"
    except (HydraException, OmegaConfBaseException) as error:
        message = _message(error, overrides, extra)
        if not has_errors or "unknown" in message:  # else it may follow from the other errors
            yield message


def _seed_errors(runs: list[list[str]]) -> Iterator[str]:
    """Yield the errors of all seeds; a run of each would take 0.1 s to compose."""
    for text in dict.fromkeys(part for run in runs for part in run if part.startswith("seed=")):
        yield from key_errors("seed", parse(text).value())


def _run_errors(composed: DictConfig, overrides: Sequence[str], extra: Path | None) -> Iterator[str]:
    values: Any = OmegaConf.to_container(without_hydra(composed), resolve=True)
    if secrets := list(secret_errors(values)):
        yield from secrets
        return
    typed = {parse(text).key_or_group: text.lstrip("+") for text in overrides}
    if isinstance(job := values.get("job"), str) and job in JOBS:
        yield from ignored_errors(job, typed)
        yield from outside_errors(job, value_of(values, "ood.shuffle") is True, typed)
    if values["tasks"] is not None:
        if wrong := list(name_errors(values["tasks"], [*typed], extra)):
            yield from wrong
            return
        values = with_tasks(values, overrides)
    yield from config_errors(values, None if extra is None else str(extra))


def distinct_runs(runs: list[list[str]], has_errors: bool = False) -> list[list[str]]:
    """Return the overrides of runs that differ in more than the seed; where errors exist, each override once."""
    seen: set[str] = set()
    chosen: list[list[str]] = []
    for run in runs:
        parts = set(run) if has_errors else {" ".join(part for part in run if not part.startswith("seed="))}
        if not parts <= seen or not chosen:
            chosen.append(run)
        seen |= parts
    return chosen


def _sweep_errors(overrides: Sequence[str], composer: Composer, multirun: bool) -> Iterator[str]:
    parsed = [parse(override) for override in overrides]
    sweeps = [override for override in parsed if override.is_sweep_override()]
    yield from (
        refusal(f"{each.input_line}: all runs of a sweep have one number of workers", "workers=2", "workers=auto")
        for each in sweeps
        if each.key_or_group == "workers"
    )
    if not sweeps or multirun:
        return
    singles = [str(override.input_line) for override in parsed if not override.is_sweep_override()]
    if str(composer(singles).hydra.mode) != "RunMode.MULTIRUN":
        for override in sweeps:
            line = str(override.input_line).lstrip("+")
            key, _, value = line.partition("=")
            one = typed(key, value.replace("'", ""))  # normalization quotes parts of a value
            yield Refusal(f"{line} names several values; add -m to run them all, or write {one} for one value", one)


def _hydra_errors(overrides: Sequence[str], composer: Composer) -> Iterator[str]:
    """Refuse what a file changed in Hydra's section; Hydra's settings on the command line are the user's own.

    The files were checked before they were composed; this checks the result.
    """
    parsed = [parse(override) for override in overrides]
    typed = [o for o in parsed if not o.is_sweep_override() and not o.key_or_group.startswith("hydra.")]
    cfg = composer([str(override.input_line) for override in typed])
    section, default = _constant(cfg.hydra), _shipped_section()
    changed = [name for name, value in section.items() if value != default.get(name)]
    for name in changed if not any(override.key_or_group.startswith("hydra/") for override in typed) else ():
        yield f"hydra.{name} is set by a recipe or YAML and could run code; type it on the command line if you mean it"
    sweeper, launcher = str(cfg.hydra.sweeper._target_), str(cfg.hydra.launcher._target_)
    for target in (target for target in (sweeper, launcher) if not target.startswith(HYDRA_PACKAGES)):
        yield f"{target} is no sweeper or launcher of Hydra; use hydra/launcher=basic hydra/sweeper=basic"
    others = [each for each, plain in ((sweeper, "BasicSweeper"), (launcher, "BasicLauncher")) if plain not in each]
    if others and (cfg.workers or 1) != 1:
        wrong = f"workers={cfg.workers} trains the runs of a plain sweep on this machine, not those of {others[0]}"
        yield refusal(wrong, "~workers")
    if others and cfg.sequential_seeds:
        yield refusal("sequential_seeds=true decides between the runs of a plain sweep only", "~sequential_seeds")
    if "BasicSweeper" not in sweeper and cfg.job != "finetune":
        yield f"job={cfg.job} has no score for hydra/sweeper=optuna; use job=finetune, or drop the sweeper"


@lru_cache(maxsize=1)
def _shipped_section() -> dict[str, Any]:
    """Return Hydra's section as peftkit ships it; a composer must be open."""
    import hydra

    return _constant(hydra.compose("config", [], return_hydra_config=True).hydra)


def _constant(section: DictConfig) -> dict[str, Any]:
    """Return what files may not change of Hydra's section."""
    values: dict[str, Any] = OmegaConf.to_container(section, resolve=False)  # type: ignore[assignment]
    values["job"].pop("override_dirname", None)
    return {name: value for name, value in values.items() if name not in CHOSEN_BY_FILES}


def _message(error: Exception, overrides: Sequence[str], extra: Path | None) -> str:
    """Return an error of Hydra or OmegaConf as one line, with the nearest right name where one is unknown."""
    from hydra.core.global_hydra import GlobalHydra

    text = str(error)
    prefix = match[1] + ": " if (match := re.search(r"In '((?!config'|hydra/config')[^']*)'", text)) else ""
    if match := re.search(r"Could not (?:find|load) '([^']*)/([^'/]*)'", text):
        group, name = match[1], match[2]
        top, _, rest = f"{group}/{name}".partition("/")
        if top in GROUPS and (invalid := file_error(top, rest, extra)):  # chosen by another file
            return invalid
        options = GlobalHydra.instance().config_loader().get_group_options(group)
        hint = nearest(name, options, f"{group}=")
        if group.startswith("hydra/"):
            hint += "; more come with pip install 'peftkit[slurm]', 'peftkit[ray]' or 'peftkit[optuna]'"
        is_typed = any(override.startswith(f"{group}=") for override in overrides)
        return f"{prefix}unknown {group}={name}{'' if is_typed else ', which the recipe or YAML chooses'}{hint}"
    if "Cannot merge DictConfig with ListConfig" in text:
        return f"{prefix}a list in place of a section's keys; use, for example, search: {{lr_multipliers: [0.3, 1, 3]}}"
    if match := re.search(r"Could not override '([^']*)'", text):
        section, _, name = match[1].partition(".")
        if name in key_names(section) and match[1] not in RENAMED:  # a key that only the YAML of other tasks lists
            return refusal(f"{match[1]} is not for this {section}", f"~{match[1]}")
        unknown = unknown_key(match[1])
        return renamed_key(f"{prefix}{unknown}", match[1], "") if prefix else unknown
    key = f"{full_key}: " if (full_key := getattr(error, "full_key", None)) else ""
    cause = str(error.__cause__) if type(error).__name__ == "ConfigCompositionException" and error.__cause__ else text
    lines = [line.strip() for line in cause.splitlines() if line.strip() and not line.endswith(":")]
    return f"{prefix}{key}{lines[0] if lines else type(error).__name__}"
