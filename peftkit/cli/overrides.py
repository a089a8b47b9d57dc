"""Parsing of the command line: flags, and key=value overrides normalized to Hydra's grammar."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.config import JOBS, UserError, nearest
from peftkit.config.quoting import quote
from peftkit.paths import is_file, is_folder, with_home

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

FLAGS = ("-m", "--multirun", "--resolve", "--help", "--version", "-sc", "--shell-completion", "--hydra-help")
INSPECTION_FLAGS = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
SHORT_FLAGS = {"-c": "--cfg", "-i": "--info", "-p": "--package", "-cd": "--config-dir"}
FLAGS_WITH_VALUE = (*INSPECTION_FLAGS, "--package", "--config-dir")
ODD = re.compile(r"[^\x00-\x7f]|[~()&#=;!<>^`]")  # characters that Hydra's grammar reads in quotes only
FUNCTION = re.compile(r"(choice|range|interval|glob|sort|shuffle|tag|int|float|str|bool|json_str|extend_list)\(.*\)")
# sections of options of upstream and of the user's code, which are checked there and need no + of Hydra
UPSTREAM_SECTIONS = (
    "train.",
    "collator.",
    "method.config.",
    "method.quantization.",
    "search.config.",
    "task.splits.",
    "task.generation",
    "generate.request.",
    "generate.generation.",
    "generate.quantization.",
)
COLUMN_KEYS = ("task.text=", "task.label=", "task.labels=", "embed.column=", "extend.column=")  # text[0], текст, 3
COLUMN = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^,'"\[\]][^,\[\]]*(?:\[[^,\]]*\][^,\[\]]*)*""")
NUMBER_NAME = re.compile(r"[-+]?[0-9._]+|true|false|nan|inf", re.IGNORECASE)  # which Hydra reads as other types
SAFE_NAME = re.compile(r"[\w ./:?%@*+|$-]*", re.ASCII)  # as Hydra's grammar reads it


@dataclass(frozen=True)
class CommandLine:
    """A parsed command line."""

    flags: list[str]  # for Hydra
    overrides: list[str]
    extra: Path | None  # the folder of -cd
    multirun: bool
    shows_config: bool  # prints a config or other information, and stops


def read_command(arguments: Sequence[str]) -> CommandLine:
    """Separate flags from overrides, in any order.

    Raises:
        UserError: a flag or its value is unknown.
    """
    flags: list[str] = []
    overrides: list[str] = []
    extra = None
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        flag, _, value = argument.partition("=")
        flag = SHORT_FLAGS.get(flag, flag)
        if not argument.startswith("-"):
            overrides.append(normalize_override(argument))
        elif flag in FLAGS_WITH_VALUE:
            if not value and queue and "=" not in queue[0]:
                value = queue.pop(0)
            value = value or ("all" if flag == "--info" else "")
            _check_value(flag, value)
            if flag == "--config-dir":  # Hydra does not search it: see cli/files.py
                extra = Path(value)
            else:
                flags += [flag, value]
        elif flag in FLAGS:
            flags.append(flag)
        else:
            raise UserError(f"unknown flag {flag}{_flag_hint(flag)}")
    multirun = bool({"-m", "--multirun"} & {*flags})
    flags = [flag for flag in flags if flag not in ("-m", "--multirun")]
    shows = [flag for flag in flags if flag in INSPECTION_FLAGS]
    if len(shows) > 1:
        raise UserError(f"{' and '.join(shows)} exclude each other; use one at a time")
    if not shows and {"--resolve", "--package"} & {*flags}:
        raise UserError("--resolve and --package require --cfg job")
    return CommandLine(flags, [*overrides, *_default_task(overrides)], extra, multirun, bool(shows))


def _default_task(overrides: Sequence[str]) -> list[str]:
    """Return the task of a job on the user's own data where none is chosen."""
    values = dict(override.partition("=")[::2] for override in overrides)
    job = JOBS.get(values.get("job", ""))
    is_chosen = {"task", "recipe"} & values.keys() or "task.dataset" not in values
    return [] if job is None or job.default_task is None or is_chosen else [f"task={job.default_task}"]


def parse(override: str) -> Override:
    """Parse a key=value override; with an open composer, glob(*) expands to the options of a group."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    is_open = GlobalHydra.instance().is_initialized()
    parser = OverridesParser.create(GlobalHydra.instance().config_loader() if is_open else None)
    return parser.parse_overrides([override])[0]


def normalize_override(override: str) -> str:
    """Return an override in Hydra's grammar: input= and odd texts quoted, ++ for options that no YAML lists."""
    key, equals, value = override.partition("=")
    if key == "input" and equals:
        return f"input={quote(with_home(value) if is_file(with_home(value)) else value)}"
    if equals:
        override = f"{key}={_as_columns(value) if override.startswith(COLUMN_KEYS) else _with_quotes(value)}"
    return f"++{override}" if override.startswith(UPSTREAM_SECTIONS) else override


def _with_quotes(value: str) -> str:
    """Quote the texts that need it in a value, a list or a sweep, such as names in other scripts and paths below ~."""
    if {*"'\"${}\\"} & {*value} or FUNCTION.fullmatch(value):
        return value
    parts = [(part, with_home(part)) for part in re.split(r"(\s*[\[\],]\s*)", value)]
    return "".join(quote(path) if ODD.search(part) or path != part else part for part, path in parts)


def _as_columns(value: str) -> str:
    """Quote the names of columns that Hydra's grammar does not read as texts; commas separate names, and sweeps."""
    from hydra.errors import OverrideParseException

    is_list = value.startswith("[") and value.endswith("]")
    names = COLUMN.findall(value[1:-1] if is_list else value)
    if not any(NUMBER_NAME.fullmatch(name.strip()) for name in names):
        try:
            parse(f"name={value}")
            return value
        except OverrideParseException:
            pass
    if ",".join(names) != (value[1:-1] if is_list else value):
        return value  # a sweep of lists, or a function
    quoted = ",".join(
        name
        if name[0] in "'\"" or (SAFE_NAME.fullmatch(name) and not NUMBER_NAME.fullmatch(name.strip()))
        else quote(name.strip())
        for name in names
    )
    return f"[{quoted}]" if is_list else quoted


def _check_value(flag: str, value: str) -> None:
    if flag in INSPECTION_FLAGS and value not in INSPECTION_FLAGS[flag]:
        raise UserError(f"{flag} {value}: unknown value{nearest(value, INSPECTION_FLAGS[flag], f'{flag} ')}")
    if flag == "--config-dir" and not is_folder(value):
        raise UserError(f"-cd {value} is not a folder; name one with recipes/, model/, method/ or task/")


def _flag_hint(flag: str) -> str:
    name = flag.lstrip("-").replace("-", "_")
    if flag in ("-cp", "--config-path", "-cn", "--config-name"):
        return "; -cd DIR adds your own models, methods, tasks and recipes"
    if close := get_close_matches(flag, [*FLAGS, *FLAGS_WITH_VALUE], n=1, cutoff=0.75):
        return f"; did you mean {close[0]}?"
    return f"; overrides have no dashes: {name}=..."
