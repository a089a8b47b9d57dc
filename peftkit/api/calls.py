"""What the functions of the API share: a config of their arguments, and the job that it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peftkit.cli.compose import open_composer
from peftkit.cli.values import compose_values
from peftkit.config import RunConfig, UserError
from peftkit.config.console import log_records
from peftkit.config.own_code import open_code
from peftkit.jobs.dispatch import run_job


def compose_runs(runs: Sequence[Mapping[str, Any]]) -> list[RunConfig]:
    """Compose and check the config of each run, all before the first starts."""
    with open_composer(None) as composer:
        return [compose_values(composer, values) for values in runs]


def compose_run(settings: Mapping[str, Any], **chosen: Any) -> RunConfig:
    """Compose and check the config of one run."""
    return compose_runs([run_values(settings, **chosen)])[0]


def run_values(settings: Mapping[str, Any], **chosen: Any) -> dict[str, Any]:
    """Return the arguments of a function as the values of a config; `settings` may not set those of `chosen`."""
    given = dict(_dotted(settings))
    for name in given.keys() & {*dict(_dotted(chosen)), "job"}:
        wrong = f"{name}={given[name]!r:.60}: this function sets {name}"
        raise UserError(f"{wrong}; drop it, use an argument of the function, or call another one")
    return {**chosen, **settings}


def _dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value with its dotted key; a mapping also gives the values in it."""
    for name, value in values.items():
        yield f"{prefix}{name}", value
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{name}.")


def run_for_folder(config: RunConfig) -> Path:
    """Run the job of a config, and return the folder that it wrote."""
    with log_records():
        return Path(run_job(config))


@contextmanager
def with_libraries(config: RunConfig) -> Iterator[None]:
    """Open the packages of a config and set what libraries need, for the time of a call; messages are log records."""
    from peftkit.pipeline.libraries import library_settings

    with library_settings(config.source, config.threads), log_records(), open_code(config.allow_code or ()):
        yield
