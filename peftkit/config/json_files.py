"""Reading of JSON files and weights that may be damaged or by somebody else."""

import json
from pathlib import Path
from typing import Any

from peftkit.config.errors import UserError, error_summary
from peftkit.paths import is_file, read_regular


def read_json(file: Path, hint: str) -> Any:
    """Return the content of a JSON file.

    Args:
        hint: what to do where it cannot be read.

    Raises:
        UserError: it is missing, not a regular file, too large, or not JSON.
    """
    try:
        return json.loads(read_regular(file))
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing; {hint}") from error
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error_summary(error)
        raise UserError(f"{file} cannot be read: {reason}; {hint}") from error


def safetensors_error(file: Path) -> str | None:
    """Return what is wrong with the header or the size of a file of weights, None if nothing is."""
    if not is_file(file):
        return "not a regular file"
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > size - 8:
            return "truncated"
        try:
            header = json.loads(opened.read(length))
            end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            return "not a file of safetensors"
    return None if size == 8 + length + end else "truncated" if size < 8 + length + end else "longer than its header"
