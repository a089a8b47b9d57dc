"""Checks of job=export: the format, its own keys and its package, the run, and the folder that is replaced."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from peftkit.config.checks.rules import messages_of
from peftkit.config.checks.run_folders import recorded_config
from peftkit.config.errors import UserError, refusal
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
    try:
        config = None if run.run is None else recorded_config(Path(run.run))
    except UserError:
        return  # which has a message already
    if config is not None:
        yield from _run_errors(Path(str(run.run)), config, chosen)


def _key_errors(run: RunConfig, chosen: ExportFormat) -> Iterator[str]:
    others = {key: other.name for other in EXPORT_FORMATS.values() for key in other.keys if key not in chosen.keys}
    for key, name in others.items():
        if getattr(run.export, key) not in (None, False):
            yield refusal(f"export.{key} is for format={name}", f"~export.{key}", f"format={name}")
    if chosen.package is not None and find_spec(chosen.package[0]) is None:
        package, extra = chosen.package
        yield f"format={chosen.name} needs the package {package}; pip install 'peftkit[{extra}]'"


def _folder_errors(run: RunConfig) -> Iterator[str]:
    """Yield a message for a folder with other files, which an export would delete."""
    folder = Path(run.output or ".")
    is_other = run.output is not None and is_folder(folder) and names_in(folder) and not is_file(folder / EXPORT_RECORD)
    inside = as_override(folder / str(run.format))
    yield from messages_of(
        (is_other, refusal(f"output={run.output} has other files, and an export replaces it", f"output={inside}")),
    )


def _run_errors(folder: Path, config: RunConfig, chosen: ExportFormat) -> Iterator[str]:
    kind = kind_of(config.task)
    is_language_model = not kind.has_sequence_head and kind.heads[config.model.family].endswith("LM")
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
            is_language_model and not chosen.generates,
            refusal(
                f"run={folder} is a language model ({kind.name}), and format={chosen.name} has no text",
                *(f"format={each.name}" for each in EXPORT_FORMATS.values() if each.generates),
            ),
        ),
        (
            config.prune.heads is not None,
            f"run={folder} has layers of different numbers of heads, which other programs have no models for; export "
            "the run that it was pruned from",
        ),
    )
