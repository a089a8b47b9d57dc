"""Names of labels as a config has them: texts, numbers and booleans."""

import re
from collections.abc import Iterable
from typing import Any


def label_name(label: Any) -> str:
    """Return the name of a label: 1.0 is 1, as pandas writes it in a column with empty cells, and True is true."""
    text = str(label).lower() if isinstance(label, bool) else str(label).strip()
    return re.sub(r"^(-?[0-9]+)\.0+$", r"\1", text)


def boolean_hint(values: Iterable[Any]) -> str:
    """Return what to write where a value of YAML became a boolean; empty where none is one."""
    has_boolean = any(isinstance(value, bool) for value in values)
    return "; YAML reads yes, no, on and off as true or false: put them in quotes" if has_boolean else ""
