"""Reading of YAML files by others: plain values only, with limits of size, nesting and expansion."""

import io
import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from peftkit.config.errors import UserError, error_summary
from peftkit.paths import read_regular

MAX_BYTES = 1 << 20
MAX_VALUES = 20_000  # with every alias expanded
MAX_DEPTH = 40
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
TAG = re.compile("tag:yaml.org,2002:(map|seq|str|int|float|bool|null|timestamp|merge|value)")


def read_yaml(file: Path) -> DictConfig:
    """Return the keys of a YAML file.

    Raises:
        UserError: it is not a regular file, not valid YAML, too large, has tags such as !!python, or has no keys.
    """
    try:
        text = _read_text(file)
        _check_events(text, file)
        found = OmegaConf.load(io.StringIO(text))
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{file}{line}: {error.problem}") from error
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}") from error
    except (ValueError, yaml.YAMLError, OmegaConfBaseException) as error:  # UnicodeDecodeError is a ValueError
        raise UserError(f"{file}: {error_summary(error)}") from error
    if not isinstance(found, DictConfig):
        raise UserError(f"{file} contains no keys; it consists of key: value")
    return found


def package_directive(file: Path) -> str | None:
    """Return the package in Hydra's directive `# @package NAME` of a YAML file, None without a directive."""
    found = re.search(r"^\s*#\s*@package\s+(\S+)", _read_text(file), re.MULTILINE)
    return None if found is None else found[1]


def _read_text(file: Path) -> str:
    return read_regular(file, MAX_BYTES).decode("utf-8-sig")


def _check_events(text: str, file: Path) -> None:
    """Refuse tags, nesting and expansion before any value is built."""
    sizes: dict[str, int] = {}  # values below each anchor, with aliases expanded
    open_nodes: list[tuple[str | None, int]] = [(None, 0)]  # anchor, and values before it
    count = 0
    event: Any
    for event in yaml.parse(text, Loader=LOADER):
        where = f"{file}, line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise UserError(f"{where}: the alias *{event.anchor} contains itself, or has no anchor; write it out")
            count += sizes[event.anchor]
        elif isinstance(event, yaml.NodeEvent):
            tag = getattr(event, "tag", None)
            if tag is not None and not TAG.fullmatch(tag):
                short = tag.replace("tag:yaml.org,2002:", "!!")
                raise UserError(f"{where}: the tag {short} is refused; write a plain value")
            count += 1
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append((event.anchor, count))
            elif event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = count - before + 1
        if len(open_nodes) > MAX_DEPTH or count > MAX_VALUES:
            raise UserError(
                f"{where}: more than {MAX_DEPTH} levels or {MAX_VALUES:,} values, aliases expanded; use fewer"
            )
