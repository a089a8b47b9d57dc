"""The tasks of tasks=[...]: each is composed with all other settings of the run, in place of its name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from peftkit.cli.files import option_errors, options_of
from peftkit.cli.overrides import normalize_override
from peftkit.config import refusal
from peftkit.config.quoting import as_override
from peftkit.config.several_tasks import joined
from peftkit.config.suggestions import nearest, with_hint

REPLACED = ("task", "tasks", "input")  # overrides that are not part of the composition of a task


def with_tasks(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the resolved values of a config of several tasks with the settings of each in place of its name.

    A composer must be open.

    Args:
        overrides: of the run; those of `task.` apply to each task.
    """
    import hydra

    kept = [normalize_override(each) for each in overrides if key_of(each) not in REPLACED]
    kept = [each for each in kept if "=" in each or each.startswith("~")]  # no flags
    composed = [hydra.compose("config", [*kept, "tasks=null", f"task={name}"]) for name in values["tasks"]]
    tasks: list[Any] = [OmegaConf.to_container(OmegaConf.masked_copy(cfg, ["task"]), resolve=True) for cfg in composed]
    return joined(values, [each["task"] for each in tasks])


def key_of(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def name_errors(names: Any, typed: Sequence[str], extra: Path | None) -> Iterator[str]:
    """Yield what is wrong with the names of tasks=, before any of them is composed.

    Args:
        typed: the keys of the command line.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not names:
        fix = f"tasks=[{names}]" if isinstance(names, str) else "tasks=[cola,rte]"
        yield refusal(f"tasks={as_override(names)}: expected a list of names", fix)
        return
    if "task" in typed:
        yield refusal(f"either task= or tasks={as_override(names)}", "~task", "tasks=null")
    distinct = list(dict.fromkeys(names))
    fewer = f"tasks={as_override(distinct)}" if len(distinct) > 1 else f"task={distinct[0]} ~tasks"
    if len(distinct) < len(names):
        yield refusal(f"tasks={as_override(names)} names a task twice", fewer)
    elif len(distinct) == 1:
        yield refusal(f"tasks={as_override(names)} names one task", fewer)
    known = options_of("task", extra)
    for name in distinct:
        if name not in known:
            others = [each for each in distinct if each != name]
            wrong, prefix = f"tasks={as_override(names)}: unknown task {name}", ",".join([*others, ""])
            yield with_hint(wrong, nearest(name, known, f"tasks=[{prefix}", "]"))
        else:
            yield from option_errors("task", name, extra)
