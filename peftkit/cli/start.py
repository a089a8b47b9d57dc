"""The settings that a run takes from its start (`start=`) where none are typed."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from peftkit.cli.arguments import run_folder
from peftkit.cli.compose import Composer
from peftkit.cli.files import GROUPS
from peftkit.cli.overrides import normalize_override, parse
from peftkit.compat.hub import download_adapter
from peftkit.config import UserError
from peftkit.config.quoting import as_override
from peftkit.config.start import found_start, start_settings
from peftkit.paths import group_files, with_home


def with_start(overrides: Sequence[str], composer: Composer, extra: Path | None) -> list[str]:
    """Return the overrides of a command with the model and the method of its start, in front.

    What is wrong with the start or with another override is not found here, but where the command is validated.

    Raises:
        UserError: the starts of a sweep have other models or methods.
    """
    from hydra.errors import HydraException

    try:
        parsed = [parse(each) for each in overrides]
    except HydraException:
        return [*overrides]
    typed = {each.key_or_group: each for each in parsed}
    if "start" not in typed or typed["start"].is_delete():
        return [*overrides]
    chosen = typed["start"]
    starts = [*chosen.sweep_string_iterator()] if chosen.is_choice_sweep() else [str(chosen.get_value_string())]
    chosen_by = [typed[key] for key in ("recipe", "source") if key in typed]
    names = [str(each.input_line) for each in chosen_by if not each.is_sweep_override()]
    found = [start_values(start.strip("'\""), {*typed}, names, composer, extra) for start in starts]
    if any(each != found[0] for each in found):
        raise UserError(f"start= names runs of other models or methods; use one command for each: start={starts[0]}")
    return [*(normalize_override(f"{key}={as_override(value)}") for key, value in found[0].items()), *overrides]


def with_start_of(values: Mapping[str, Any], composer: Composer) -> dict[str, Any]:
    """Return the values of a config with the model and the method of their start, as `with_start` does.

    Args:
        values: by key, of the Python API; a mapping sets the keys below its own.
    """
    if values.get("start") is None:
        return {**values}
    parts = {group: values[group] for group in GROUPS if isinstance(values.get(group), Mapping)}
    own = {key: value for key, value in values.items() if value is not None and key not in parts}
    own |= {f"{group}.{key}": value for group, part in parts.items() for key, value in part.items()}
    start = with_home(run_folder(values["start"]))
    chosen = [f"{key}={own[key]}" for key in ("recipe", "source") if key in own]
    return {**start_values(start, {*own}, chosen, composer, None), **own, "start": start}


def start_values(
    start: str, given: Collection[str], chosen: Sequence[str], composer: Composer, extra: Path | None
) -> dict[str, Any]:
    """Return the keys and values that a run has from its start, without those that are given or are so anyway.

    Args:
        given: keys that the user sets.
        chosen: overrides that choose a recipe and where models come from.
    """
    source = next((each.partition("=")[2] for each in chosen if each.startswith("source=")), "auto")
    try:
        settings = start_settings(found_start(start, source, download_adapter), extra)
    except UserError:  # an unfinished run, which validation refuses
        return {}
    groups: dict[str, str] = {
        each: settings[each] for each in ("model", "method") if each in settings and each not in given
    }
    if any(name not in group_files(group, extra) for group, name in groups.items()):
        return {}
    config = composer([*chosen, *(f"{group}={name}" for group, name in groups.items())])
    default = composer(chosen)
    values: dict[str, Any] = {
        group: name for group, name in groups.items() if default[group].name != config[group].name
    }
    for key, value in settings.items():
        if key in ("model", "method") or any(key == each or key.startswith(f"{each}.") for each in given):
            continue
        found = OmegaConf.select(config, key)
        if (OmegaConf.to_container(found) if OmegaConf.is_config(found) else found) != value:
            values[key] = value
    return values
