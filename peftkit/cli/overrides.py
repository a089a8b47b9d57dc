"""Turn the command line into flags and key=value words, spelled as Hydra reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.config import UserError, nearest

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

PLAIN = ("-m", "--multirun", "--resolve", "--help", "--version", "-sc", "--shell-completion", "--hydra-help")
SHOWS = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
SHORT = {"-c": "--cfg", "-i": "--info", "-p": "--package", "-cd": "--config-dir"}
VALUED = (*SHOWS, "--package", "--config-dir")
# upstream's options: any name may be typed without Hydra's +, and is checked against upstream
OPEN = (
    "train.",
    "method.config.",
    "method.quantization.",
    "task.splits.",
    "generate.request.",
    "generate.quantization.",
)


@dataclass(frozen=True)
class CommandLine:
    """A command line: flags for Hydra, key=value words, the folder of -cd, and what it asks for."""

    flags: list[str]
    overrides: list[str]
    more: Path | None
    multirun: bool
    shows: bool  # prints a config or other information, and stops


def read_command(arguments: Sequence[str]) -> CommandLine:
    """Part flags from words; they may stand in any order.

    Raises:
        UserError: a flag is unknown, or its value is.
    """
    flags: list[str] = []
    overrides: list[str] = []
    more, multirun = None, False
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        if not word.startswith("-"):
            overrides.append(normalize(word))
            continue
        flag, _, value = word.partition("=")
        flag = SHORT.get(flag, flag)
        if flag in ("-m", "--multirun"):
            multirun = True
            continue
        if flag not in VALUED:
            if flag not in PLAIN:
                raise UserError(f"unknown flag {flag}{_flag_hint(flag)}")
            flags.append(flag)
            continue
        if not value and queue and "=" not in queue[0]:
            value = queue.pop(0)
        value = value or ("all" if flag == "--info" else "")
        _check_value(flag, value)
        more = Path(value) if flag == "--config-dir" else more
        flags += [flag, value]
    shows = [flag for flag in flags if flag in SHOWS]
    if len(shows) > 1:
        raise UserError(f"{' and '.join(shows)} exclude each other; ask for one at a time")
    if not shows and {"--resolve", "--package"} & {*flags}:
        raise UserError("--resolve and --package go with --cfg job")
    return CommandLine(flags, overrides, more, multirun, bool(shows))


def parse(word: str) -> Override:
    """Parse a key=value word; inside an opened drawer, glob(*) knows the options."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    is_open = GlobalHydra.instance().is_initialized()
    parser = OverridesParser.create(GlobalHydra.instance().config_loader() if is_open else None)
    return parser.parse_overrides([word])[0]


def normalize(word: str) -> str:
    """Spell a word as Hydra reads it: a text to predict in quotes, and ++ for keys that no YAML lists.

    Spelling twice changes nothing.
    """
    if word.startswith("input="):
        return f"input={_quoted(word.removeprefix('input='))}"
    return f"++{word}" if word.startswith(OPEN) else word


def _quoted(text: str) -> str:
    """Quote a text with commas, braces and apostrophes in it, so that it is that text and no list or sweep."""
    if text in ("", "null") or re.fullmatch(r"""'([^'\\]|\\.)*'|"([^"\\]|\\.)*\"""", text, re.DOTALL):
        return text
    if len(text) > 1 and text[0] == text[-1] == "'":  # quoted by somebody who forgot the apostrophes inside
        text = text[1:-1]
    text = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text)
    return "'" + text.replace("${", "\\${") + "'"


def _check_value(flag: str, value: str) -> None:
    if flag in SHOWS and value not in SHOWS[flag]:
        raise UserError(f"{flag} {value} is wrong{nearest(value, SHOWS[flag], f'{flag} ')}")
    if flag == "--config-dir" and not Path(value).is_dir():
        raise UserError(f"-cd {value} is no folder; name one that holds recipes/, model/, method/ or task/")


def _flag_hint(flag: str) -> str:
    name = flag.lstrip("-").replace("-", "_")
    if flag in ("-cp", "--config-path", "-cn", "--config-name"):
        return "; -cd DIR adds your own parts and recipes"
    if close := get_close_matches(flag, [*PLAIN, *VALUED], n=1, cutoff=0.75):
        return f"; did you mean {close[0]}?"
    return f"; a key is written without dashes: {name}=..."
