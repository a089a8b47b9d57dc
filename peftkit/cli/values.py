"""Composition of a config from Python values: no value is ever parsed as an override."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from peftkit.cli.compose import Composer, without_hydra
from peftkit.cli.files import GROUPS, option_errors
from peftkit.cli.overrides import UPSTREAM_SECTIONS
from peftkit.cli.start import with_start_of
from peftkit.cli.tasks import name_errors
from peftkit.config import RunConfig, UserError, config_errors
from peftkit.config.checks.outside import outside_errors
from peftkit.config.checks.values import value_of
from peftkit.config.quoting import as_override
from peftkit.config.several_tasks import joined
from peftkit.config.suggestions import unknown_key
from peftkit.paths import with_home


def compose_values(composer: Composer, values: Mapping[str, Any]) -> RunConfig:
    """Return the config of one run.

    Args:
        values: by key; a key may be dotted, and a mapping sets the keys below it. A text chooses an option of recipe,
            model, method or task, and None keeps the default of these and of `train`.

    Raises:
        UserError: every error of the values.
    """
    values = with_start_of(values, composer)
    composed, cfg, overrides = _compose(composer, values)
    resolved: Any = OmegaConf.to_container(cfg, resolve=True)
    if (names := resolved["tasks"]) is not None:
        if errors := list(name_errors(names, [each for each in ("task",) if isinstance(values.get(each), str)], None)):
            raise UserError("; ".join(errors))
        own = {f"task.{key}": value for key, value in (values.get("task") or {}).items()}
        parts = [_compose(composer, {**values, **own, "task": name, "tasks": None})[1] for name in names]
        tasks: list[Any] = [OmegaConf.to_container(part.task, resolve=True) for part in parts]
        resolved = joined(resolved, tasks)
    named = [each.partition("=")[0] for each in overrides]
    outside = outside_errors(resolved["job"], value_of(resolved, "ood.shuffle") is True, named)
    if errors := [*outside, *config_errors(resolved)]:
        raise UserError("; ".join(errors))
    return RunConfig.from_config(resolved, composed.hydra.runtime.choices.get("recipe"), overrides)


def _compose(composer: Composer, values: Mapping[str, Any]) -> tuple[DictConfig, DictConfig, list[str]]:
    """Return the composed config, that without Hydra's section and with the values, and the values as overrides."""
    for group in GROUPS:
        if values.get(group) is not None and not isinstance(values[group], str | Mapping):
            raise UserError(f"{group}={values[group]!r:.60}: expected a name, as a text")
    chosen = {group: values[group] for group in GROUPS if isinstance(values.get(group), str)}
    errors = [message for group, name in chosen.items() for message in option_errors(group, name, None)]
    if errors:
        raise UserError("; ".join(errors))
    composed = composer([f"{group}={name}" for group, name in chosen.items()])
    cfg = without_hydra(composed)
    unset = {name for name in (*GROUPS, "train", "tasks") if values.get(name) is None}
    flat = dict(_flat(cfg, {key: value for key, value in values.items() if key not in {*chosen, *unset}}))
    for key, value in flat.items():
        try:
            _set(cfg, key, value)
        except OmegaConfBaseException as error:
            raise UserError(f"{key}={value!r}: {str(error).splitlines()[0]}") from error
    overrides = [f"{group}={name}" for group, name in chosen.items()]
    return composed, cfg, overrides + [f"{key}={as_override(value)}" for key, value in flat.items()]


def _flat(cfg: DictConfig, values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value with its dotted key; a mapping is one value where the config has no section of that name."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        is_section = isinstance(OmegaConf.select(cfg, key, throw_on_missing=False), DictConfig)
        if isinstance(value, Mapping) and is_section:
            yield from _flat(cfg, value, f"{key}.")
        else:
            yield key, value if name == "input" else _with_home(value)


def _with_home(value: Any) -> Any:
    """Return paths as texts, with the home folder for ~."""
    if isinstance(value, list | tuple):
        return [_with_home(each) for each in value]
    return with_home(str(value)) if isinstance(value, str | Path) else value


def _set(cfg: DictConfig, key: str, value: Any) -> None:
    parent, _, name = key.rpartition(".")
    section = OmegaConf.select(cfg, parent) if parent else cfg
    if not key.startswith(UPSTREAM_SECTIONS) and (section is None or name not in list(section)):
        raise UserError(unknown_key(key))
    OmegaConf.update(cfg, key, _literal(value), force_add=True, merge=False)


def _literal(value: Any) -> Any:
    """Return a value in which OmegaConf finds no interpolation."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", value)
    if isinstance(value, Mapping):
        return {name: _literal(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_literal(each) for each in value]
    return str(value) if isinstance(value, Path) else value
