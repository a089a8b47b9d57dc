"""Checks of the settings that a search tries."""

from collections.abc import Iterator
from typing import Any

from peftkit.config.checks.rules import messages_of
from peftkit.config.checks.values import as_typed, range_errors
from peftkit.config.errors import refusal
from peftkit.config.own_code import shipped_targets
from peftkit.config.quoting import as_override
from peftkit.config.run import RunConfig
from peftkit.config.search_space import candidates
from peftkit.config.signatures import Field, fields_of
from peftkit.config.suggestions import nearest, renamed_key

MAX_TRIALS = 1000  # of a method


def search_errors(run: RunConfig) -> list[str]:
    """Return a message for each setting of `search` that cannot be tried."""
    search, config = run.search, run.search.config or {}
    given = [f"search.{name}" for name in ("lr_multipliers", "learning_rates") if getattr(search, name) is not None]
    found = messages_of(
        (
            run.trial and search.is_set,
            refusal(
                "trial=true trains with one setting and searches none",
                "~trial",
                " ".join(f"~{key}" for key in [*given, *(f"search.config.{name}" for name in config)]),
            ),
        ),
        (
            search.halving_factor is not None and not search.is_set and not run.trial,
            refusal(
                "search.halving_factor has no candidates to choose from",
                "search.lr_multipliers=[0.3,1,3]",
                "~search.halving_factor",
            ),
        ),
        (
            len(given) > 1,
            refusal("search.learning_rates replaces search.lr_multipliers", *(f"~{key}" for key in given)),
        ),
    )
    messages = [*found, *(message for name, values in config.items() for message in _grid_errors(run, name, values))]
    if not messages and (number := len(candidates(run))) > MAX_TRIALS:
        key = f"search.config.{next(iter(config))}" if config else given[0]
        messages.append(refusal(f"{key}: {number:,} trials; at most {MAX_TRIALS:,} are tried", f"~{key}"))
    return messages


def _grid_errors(run: RunConfig, name: str, values: Any) -> Iterator[str]:
    key, target = f"search.config.{name}", str(run.method.config.get("_target_"))
    fields = fields_of(target) or {}
    if name.startswith("_"):
        yield refusal(f"{key} is not searched", f"~{key}")
    elif not isinstance(values, list) or not values:
        fix = f"~{key}" if values in (None, []) else f"{key}=[{as_override(values)}]"
        yield refusal(f"{key}={as_typed(values)}: expected a list of values", fix)
    elif name not in fields and not any(name in (fields_of(other) or {}) for other in shipped_targets()):
        yield renamed_key(f"{key}: no method has this option", key, nearest(name, fields, "search.config."))
    else:
        distinct = [value for number, value in enumerate(values) if value not in values[:number]]
        wrong = {index: text for index, value in enumerate(distinct) if (text := _refused(fields, name, value))}
        rest = [value for index, value in enumerate(distinct) if index not in wrong]
        fix = f"{key}={as_override(rest)}" if rest else f"~{key}"
        if len(distinct) < len(values):
            yield refusal(f"{key}={as_typed(values)} has a value twice", fix)
        for index, text in wrong.items():
            yield refusal(f"{key}: {as_typed(distinct[index])} is not {text}", fix)


def _refused(fields: dict[str, Field], name: str, value: Any) -> str | None:
    """Return what an option of method.config takes where it does not take this value."""
    if name in fields and (expected := fields[name].refuses(value)) is not None:
        return expected
    errors = [message for _, message in range_errors({"method": {"config": {name: value}}}, set())]
    return errors[0].partition("expected ")[2].partition(";")[0] or errors[0] if errors else None
