"""The plans of a command in the terminal: the lines of one, or a table of several with their totals."""

import os
import sys
from collections.abc import Sequence

from peftkit.config.console import is_main_process
from peftkit.config.progress import duration
from peftkit.jobs.plan_record import Plan

ALWAYS = ("task", "method", "seed", "trained", "steps", "peak")  # columns also where all runs have the same value
DEFAULT_WIDTH = 100  # characters, without a terminal


def show_plans(plans: Sequence[Plan]) -> None:
    """Print the plan of a single run, or a table with an entry for each run and the totals."""
    if not is_main_process() or not plans:
        return
    hint = [] if plans[0].duration else ["plan.measure=true estimates the time from a few training steps."]
    if len(plans) == 1:
        for name, text in plans[0].lines().items():
            print(f"{name:>16}  {text}")
        for line in hint:
            print(line)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Column, Table

    common = set.intersection(*(set(plan.overrides) for plan in plans))
    entries = [_entry(plan, common) for plan in plans]
    names = [name for name in entries[0] if name in ALWAYS or _differs(entries, name)]
    names += [name for name in entries[0] if name.startswith("fits") or (name == "time" and plans[0].duration)]
    texts = ("task", "model", "method", "settings")
    columns = [Column(name, justify="left" if name in texts else "right", overflow="fold") for name in names]
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for entry in entries:
        table.add_row(*(entry[name].replace("[", r"\[") for name in names))
    has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    Console(width=None if has_width else DEFAULT_WIDTH, highlight=False).print(table)
    print(*_totals(plans), *hint, sep="\n")


def _entry(plan: Plan, common: set[str]) -> dict[str, str]:
    own = [
        each for each in plan.overrides if each not in common and each.partition("=")[0] not in (*plan.names, "seed")
    ]
    return plan.names | {
        "settings": " ".join(own),
        "seed": str(plan.seed),
        "trained": f"{plan.parameters.trainable:,}",
        "steps": f"{plan.steps:,}",
        "trials": str(plan.trials),
        "peak": f"{_gb(plan.memory.total)}{'' if plan.memory.is_measured else '*'}",
        f"fits {plan.available / 1e9:.4g} GB": "yes" if plan.fits else "no",
        "time": "" if plan.duration is None else duration(plan.duration.total),
    }


def _differs(entries: Sequence[dict[str, str]], name: str) -> bool:
    return len({entry[name] for entry in entries}) > 1 and not name.startswith(("fits", "time"))


def _totals(plans: Sequence[Plan]) -> list[str]:
    """Return the totals, and what the columns mean."""
    trials, times = sum(plan.trials for plan in plans), [plan.duration for plan in plans if plan.duration is not None]
    steps = sum(plan.steps + plan.trial_steps for plan in plans)
    total = f"Total: {len(plans)} runs{f' and {trials} trials' if trials else ''}, {steps:,} steps"
    total += f", about {duration(sum(each.total for each in times))}" if times else ""
    unfit = sum(not plan.fits for plan in plans)
    lines = [f"{total}; {f'{unfit} do not fit' if unfit else 'all fit'}."]
    if plans[0].imported:
        process = _gb(plans[0].imported)
        lines.append(f"A run fits if its peak and the {process} of the Python process after the imports do.")
    if not all(plan.memory.is_measured for plan in plans):
        lines.append("* extrapolated from one example, since the batch does not fit here; its time is not estimated.")
    if times:
        lines.append("Time: loading, training and evaluation; not the checks of the artifact afterwards.")
    return lines


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
