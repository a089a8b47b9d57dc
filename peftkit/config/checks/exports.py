"""Checks of job=export: the format, its own keys and its package, the run, and the folder that is replaced."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from peftkit.config.checks.rules import messages_of
from peftkit.config.checks.run_folders import readable_config
from peftkit.config.errors import refusal
from peftkit.config.export_formats import EXPORT_FORMATS, ExportFormat
from peftkit.config.kinds import kind_of
from peftkit.config.quoting import as_override
from peftkit.config.run import RunConfig, is_prompted
from peftkit.config.sections import EXPORT_RECORD
from peftkit.paths import is_file, is_folder, names_in


def export_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for a missing format, for keys of other formats, and for what cannot be exported."""
    if run.job != "export":
        return
    if run.format is None:
        fixes = [f"format={name}" for name in EXPORT_FORMATS]
        yield refusal("job=export needs the format", *fixes, verb="set")
        return
    chosen = EXPORT_FORMATS.get(run.format)
    if chosen is None:  # which the choices of the key refuse
        return
    yield from _key_errors(run, chosen)
    yield from _folder_errors(run)
    config = readable_config(run.run)
    if config is not None:
        yield from [*_run_errors(Path(str(run.run)), config)] or _format_errors(chosen, config)


def _key_errors(run: RunConfig, chosen: ExportFormat) -> Iterator[str]:
    others = {key: other.name for other in EXPORT_FORMATS.values() for key in other.keys if key not in chosen.keys}
    for key, name in others.items():
        if getattr(run.export, key) not in (None, False):
            yield refusal(f"export.{key} is for format={name}", f"~export.{key}", f"format={name}")
    if missing := [name for name in chosen.packages if find_spec(name) is None]:
        yield f"format={chosen.name} needs the package {', '.join(missing)}; pip install 'peftkit[{chosen.name}]'"


def _folder_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for a folder with other files, which an export would delete."""
    folder = Path(run.output or ".")
    is_other = run.output is not None and is_folder(folder) and names_in(folder) and not is_file(folder / EXPORT_RECORD)
    inside = as_override(folder / str(run.format))
    yield from messages_of(
        (is_other, refusal(f"output={run.output} has other files, and an export replaces it", f"output={inside}")),
    )


def _run_errors(folder: Path, config: RunConfig) -> Iterator[str]:
    yield from messages_of(
        (
            is_prompted(config),
            f"run={folder}: no weights were trained, so there is nothing to export; use its base, and its prompt in "
            "prompt/prompt.json",
        ),
        (
            config.method.traits.has_own_model,
            f"run={folder}: method={config.method.name} is a model of peftkit's own; load it by peftkit.load, or "
            "export a run of another method",
        ),
        (
            config.prune.heads is not None,
            f"run={folder} has layers of different numbers of heads, which other programs have no models for; export "
            "the run that it was pruned from",
        ),
        (
            config.model.pairs is not None,
            f"run={folder}: model.pairs={config.model.pairs} has a head of peftkit's own; load it by peftkit.load, or "
            "export a run without model.pairs",
        ),
    )


def _format_errors(chosen: ExportFormat, config: RunConfig) -> Iterator[str]:
    """Yield a message for a run whose head or method the format has no place for, with the formats that have one."""
    kind, method = kind_of(config.task), config.method
    head = kind.heads[config.model.family]
    is_language_model = not kind.has_sequence_head and head.endswith("LM")
    takes = [
        each
        for each in EXPORT_FORMATS.values()
        if (each.heads is None or head in each.heads) and (each.generates or not is_language_model)
    ]
    if chosen not in takes:
        wrong = f"format={chosen.name} has no models with the head of task={config.task.name} ({kind.name})"
        if is_language_model and not chosen.generates:
            wrong = f"the run is a language model ({kind.name}), and format={chosen.name} cannot generate text"
        yield refusal(wrong, *(f"format={each.name}" for each in takes))
    elif not method.traits.mergeable and not _has_unmerged(chosen, config):
        has_none = chosen.unmerged == "none"
        lack = f"format={chosen.name} has merged models only" if has_none else "PEFT has no such tuner"
        wrong = f"method={method.name} cannot be merged into the base, and {lack}"
        others = [f"format={each.name}" for each in takes if _has_unmerged(each, config)]
        yield refusal(wrong, *others) if others else f"{wrong}; export a run of method=lora, or load it by peftkit.load"


def _has_unmerged(chosen: ExportFormat, config: RunConfig) -> bool:
    """Return whether a format has a method although it cannot be merged."""
    is_of_peft = str(config.method.config["_target_"]).startswith("peft.")
    return chosen.unmerged == "all" or (chosen.unmerged == "peft" and is_of_peft)
