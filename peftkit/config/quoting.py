"""Values and overrides as they are typed on the command line, in the quotes of Hydra's grammar."""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHELL = re.compile(r"[\w.,:=/@+-]|\[|\]")  # characters that a shell leaves alone
UNQUOTED = re.compile(r"[\w./-]+", re.ASCII)  # texts that need no quotes


def quote(text: str) -> str:
    """Return a text in the quotes of Hydra's grammar, in which it is no list, sweep or interpolation."""
    # backslashes are doubled before what they would escape: an interpolation, a quote, the end
    escaped = re.sub(r"(\\*)(\$\{|'|\Z)", lambda match: match[1] * 2 + (f"\\{match[2]}" if match[2] else ""), text)
    return f"'{escaped}'"


def as_override(value: Any) -> str:
    """Return a value as the right side of an override."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{as_override(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(as_override, value)) + "]"
    if not isinstance(value, str | Path):
        return json.dumps(value)
    text = str(value)
    return text if UNQUOTED.fullmatch(text) and text not in ("null", "true", "false") else quote(text)


def typed(key: str, value: Any) -> str:
    """Return an override as typed in a shell, in its quotes where it needs them."""
    return in_shell(f"{key}={as_override(value)}")


def in_shell(override: str) -> str:
    """Return an override in the quotes of a shell where it needs them."""
    if not SHELL.sub("", override):
        return override
    return shlex.quote(override) if re.search(r"[\"$`\\!]", override) else f'"{override}"'
