"""The types, ranges and sizes of the fields of result.json, which may come from anyone."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

MAX_DEPTH, MAX_VALUES = 30, 200_000  # levels and values of a record
MAX_NUMBER = 1e100  # so that no sum or square overflows; a score or a loss above it diverged
MAX_NAME = 300  # characters of names and reasons
MAX_COUNT = 2**53
FREQUENT_ANSWER = "most frequent answer"  # key among the label counts of a split, where labels are texts
MAX_FIELDS = 10_000  # values of scores, config and audit; of 1,000 classes an audit has 6,000 names, counts and weights

Shape = Any  # float, int, bool, str (a name), dict (of anything), or one of the following
# {"key": shape}: these keys, of which those that end in ? may be missing or null; {...: shape}: any keys
# [shape]: a list
SOURCE = {"name": str, "kind?": str, "revision?": str, "substituted_for?": str}
STAGES = {"before": float, "after": float}
BY_DOMAIN = {...: {"examples": int, "scores": {...: float}}}
PIECES = {"tokens": float, "pieces_a_word": float, "split_words": float}
RECORD = {
    "run": {
        "config": {
            "task": {"name": str, "suite": str, "kind?": str},
            "model": {"name?": str, "family?": str},
            "method": {"name": str},
            "search?": {"lr_multipliers?": [float], "learning_rates?": [float], "config?": dict},
            "distill?": dict,
            "domains?": dict,
        },
        "overrides?": [str],
        "setup?": dict,
    },
    "scores?": {...: {"value": float, "higher_is_better": bool}},
    "costs?": dict,
    "audit": {
        "sources": {"model": SOURCE, "data": SOURCE},
        "rows?": {...: int},
        "label_names?": [str],
        "label_counts?": dict,
    },
    "meta": {"seed": int, "device": str, "status": str, "versions?": dict},
    "calibration?": {"temperature": float, "examples": int, "thresholds?": {...: float}},
    "cross_validation?": {"folds": [{"scores": {...: float}}]},
    "domains?": {
        "scores": BY_DOMAIN,
        "worst": {...: {"domain": str, "value": float}},
        "average": {...: float},
        "others?": {"scores": BY_DOMAIN},
        "classifier?": {"accuracy": float, "probe_accuracy": float, "chance": float, "examples": int},
        "group_weights?": {...: float},
    },
    "search?": {
        "trials?": [{"learning_rate": float, "config?": dict}],
        "rounds?": [{"trials": int, "examples_seen": int}],
        "curve?": [{"epoch": float, "score": float}],
    },
    "language?": {
        "held_out": STAGES,
        "general": STAGES,
        "pieces?": {"before": PIECES, "after": PIECES},
        "downstream?": {...: {"task": str, "method": str, "learning_rate": str, "rows": float, "seeds": {...: STAGES}}},
    },
}


def check_record(record: Any) -> None:
    """Check the fields that boards and later jobs read.

    Raises:
        ValueError: a field is missing or has another type, a name is too long, or a count is negative.
    """
    _check(record, RECORD, "")
    counts = {"scores": record.get("scores") or {}, "run.config": record["run"]["config"], "audit": record["audit"]}
    for path, values in counts.items():
        if (number := sum(map(len, _levels(values)))) > MAX_FIELDS:
            raise ValueError(f"{path} has {number:,} values")


def check_size(record: Any) -> None:
    """Check that values can be processed without overflow of the stack, of memory, or of a float.

    Raises:
        ValueError: they are too many, too deeply nested, or too large.
    """
    count = 0
    for depth, values in enumerate(_levels(record)):
        count += len(values)
        if depth > MAX_DEPTH or count > MAX_VALUES:
            raise ValueError("nested too deeply" if depth > MAX_DEPTH else f"more than {MAX_VALUES:,} values")
        if any(isinstance(value, int) and abs(value) > MAX_NUMBER for value in values):
            raise ValueError("a number is too large")


def _levels(record: Any) -> Iterator[list[Any]]:
    """Yield the values of each level of a record, the record itself first."""
    values = [record]
    while values:
        yield values
        nested = [
            value.values() if isinstance(value, dict) else value for value in values if isinstance(value, dict | list)
        ]
        values = [child for each in nested for child in each]


def _check(value: Any, shape: Shape, path: str) -> None:
    if isinstance(shape, dict):
        _check(value, dict, path)
        for key, inner in shape.items():
            if key is ...:
                for name, each in value.items():
                    _check(name, str, f"{path} key")
                    _check(each, inner, f"{path}.{name}")
                continue
            name = key.removesuffix("?")
            if name not in value and name == key:
                raise ValueError(f"{path}.{name}".lstrip(".") + " is missing")
            if name == key or value.get(name) is not None:
                _check(value[name], inner, f"{path}.{name}".lstrip("."))
    elif isinstance(shape, list):
        _check(value, list, path)
        for number, each in enumerate(value):
            _check(each, shape[0], f"{path}[{number}]")
    else:
        accepted, description = _TYPES[shape]
        if not isinstance(value, accepted) or (shape is not bool and isinstance(value, bool)):
            raise ValueError(f"{path or 'the content'}: expected {description}")
        if shape is str and len(value) > MAX_NAME and not path.startswith("run.overrides"):
            raise ValueError(f"{path} has more than {MAX_NAME} characters")
        if shape is float and MAX_NUMBER < abs(value) < math.inf and not path.startswith(("scores.", "search.")):
            raise ValueError(f"{path}: the number is too large")
        if shape is int and not 0 <= value < MAX_COUNT:
            raise ValueError(f"{path}: expected a number from 0 to 2**53")


_TYPES: Mapping[Any, tuple[Any, str]] = {
    float: ((int, float), "a number"),
    int: (int, "a whole number"),
    bool: (bool, "true or false"),
    str: (str, "a text"),
    dict: (dict, "an object"),
    list: (list, "a list"),
}
