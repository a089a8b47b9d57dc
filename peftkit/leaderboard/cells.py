"""Cells of the terminal's and Markdown's tables: scores, costs and notes of a board as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from peftkit.leaderboard.entries import BoardEntry, GlueEntry
from peftkit.leaderboard.runs import BoardRun, UnreadableRun
from peftkit.leaderboard.stats import BESIDE, GLUE
from peftkit.leaderboard.verdict import Records

SHORT = {"matthews_correlation": "matthews", "mean_squared_error": "mse ↓", "perplexity": "perplexity ↓",
         "reward_margin": "margin", "chosen_perplexity": "perplexity of chosen ↓"}  # fmt: skip
SPREAD = "± is the sample standard deviation over seeds; a single seed has none."
LETTERS = "group: entries of a task that share a letter do not differ significantly."
INTERVAL = "95 %: interval of the task's score (mean of its metrics) over seeds, for these examples."
MATRIX = 12  # rows that fit against each other in one table


Ranked = tuple[BoardEntry, str]  # a row, and the letters of its groups


def cells_of(ranked: Ranked, marks: dict[str, str], metrics: Sequence[str]) -> dict[str, str]:
    """Return what the terminal and Markdown show of a row."""
    row, letters = ranked
    trained, total = row.costs.get("trainable_params"), row.costs.get("total_params")
    share = f" {_percent(trained / total)}" if trained is not None and total else ""
    delta = "" if row.delta is None else f"{100 * row.delta:+.1f}" if row.is_up else f"{-row.delta:+.3g}"
    seconds, peak, speed, latency, merged, quality = (_timed(row, marks, name) for name in FORMS)
    return {
        "method": row.method,
        "model": row.model.split("/")[-1],
        "settings": row.settings,
        **{metric_name(name): score_cell(row, name) for name in metrics},
        "group": letters,
        "95 % interval": _interval(row),
        "Δ vs. full": "ref" if row.is_reference else delta,
        "seeds": f"{len(row.seeds)} of {row.planned}" if len(row.seeds) < row.planned else str(len(row.seeds)),
        "learning-rate trials": str(row.trials),
        "trained parameters": amount(trained) + share,
        "head parameters": amount(row.costs.get("head_params")),
        "checkpoint size": amount(row.costs.get("adapter_bytes"), "B"),
        "training time": seconds,
        "peak memory": peak,
        "tokens/s": speed,
        "latency per example": latency,
        "merged latency": merged,
        "time to 95 %": quality,
    }


def _interval(row: BoardEntry) -> str:
    """Show the interval of the task's score over seeds; an error's is kept negative, so it turns around."""
    if row.interval is None:
        return ""
    low, high = row.interval
    return f"{100 * low:.1f} to {100 * high:.1f}" if row.is_up else f"{-high:.4g} to {-low:.4g}"


def _timed(row: BoardEntry, marks: dict[str, str], name: str) -> str:
    """Show a cost that holds for one machine, with the machine's mark where the board has several."""
    there = [(device, costs[name]) for device, costs in row.timed.items() if name in costs]
    return ", ".join(FORMS[name](value) + (f" {marks[device]}" if marks else "") for device, value in there)


def marks_of(ranked: Sequence[Ranked]) -> dict[str, str]:
    """Return a letter a machine, or nothing where there is one machine only."""
    devices = sorted({device for row, _ in ranked for device in row.timed})
    return (
        {device: chr(ord("A") + n) if n < 26 else str(n) for n, device in enumerate(devices)}
        if len(devices) > 1
        else {}
    )


def notes_of(ranked: Sequence[Ranked], marks: dict[str, str]) -> list[str]:
    rows = [row for row, _ in ranked]
    sizes: dict[str, set[int]] = {}
    for row in rows:
        if row.examples.get("train"):
            sizes.setdefault(row.task, set()).add(row.examples["train"])
    counts = {task: " and ".join(map(str, sorted(each))) for task, each in sizes.items()}
    models = sorted({row.model for row in rows})
    notes = [f"Model: {models[0]}."] if len(models) == 1 else []
    if counts:
        same = len(set(counts.values())) == 1
        each = f"{next(iter(counts.values()))} each" if same else ", ".join(f"{task} {n}" for task, n in counts.items())
        notes.append(f"Training examples: {each}. {SPREAD}")
    notes += [LETTERS] if any(letters for _, letters in ranked) else []
    notes += [INTERVAL] if any(row.interval for row in rows) else []
    if not all(up for row in rows for up in row.higher_is_better.values()):
        notes.append("↓ lower is better; in its own unit, not times 100.")
    if marks:
        named = "; ".join(f"{mark} = {device}" for device, mark in marks.items())
        notes.append(f"Machines (their times, memory and tokens/s do not compare): {named}.")
    return notes


def problems_of(results: Iterable[BoardRun | UnreadableRun]) -> dict[str, list[str]]:
    """Return headlines, each with a line a run: those that are unfinished, and those without scores that count."""
    found = list(results)
    unfinished = [_problem(result) for result in found if result.is_unfinished]
    wrong = [_problem(result) for result in found if result.problem and not result.is_unfinished]
    told = {
        f"{len(unfinished)} of {len(found)} runs unfinished; their commands, typed again, resume them:": unfinished,
        f"{len(wrong)} of {len(found)} runs without valid scores:": wrong,
    }
    return {headline: lines for headline, lines in told.items() if lines}


def _problem(result: BoardRun | UnreadableRun) -> str:
    what = ""
    if isinstance(result, BoardRun):
        what = f"{result.task} {result.model} {result.method} seed {result.seed}: "
    return f"{what}{result.problem}  ({result.folder})"


def metrics_of(ranked: Sequence[Ranked]) -> list[str]:
    return list(dict.fromkeys(name for row, _ in ranked for name in row.scores))


def metric_name(name: str) -> str:
    return SHORT.get(name, name.removeprefix("accuracy_"))


def score_cell(row: BoardEntry, name: str) -> str:
    entry = row.scores.get(name)
    if entry is None:
        return "–"
    if not row.higher_is_better[name] or name.startswith(BESIDE):  # an error has the unit of its labels
        return f"{entry.mean:.4g}" + ("" if entry.spread is None else f" ± {entry.spread:.2g}")
    return f"{100 * entry.mean:.1f}" + ("" if entry.spread is None else f" ± {100 * entry.spread:.1f}")


def glue_cells(line: GlueEntry) -> dict[str, str]:
    average = "–" if line.average is None else f"{100 * line.average:.1f}"
    average += "" if line.spread is None else f" ± {100 * line.spread:.1f}"
    scores = {task: f"{100 * line.scores[task]:.1f}" if task in line.scores else "–" for task in GLUE}
    return {
        "method": line.method,
        "model": line.model.split("/")[-1],
        "settings": line.settings,
        **scores,
        "average": average,
    }


def boards_of(rows: Sequence[BoardEntry], groups: Sequence[str]) -> list[tuple[str, list[Ranked]]]:
    ranked = zip(rows, groups, strict=True)
    return [(title, list(found)) for title, found in groupby(ranked, key=lambda each: each[0].board)]


def tasks_of(ranked: Sequence[Ranked]) -> list[list[Ranked]]:
    return [list(found) for _, found in groupby(ranked, key=lambda each: each[0].task)]


def without_constants(lines: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Leave out the column of trials where there was one for every row."""
    if any(line["learning-rate trials"] != "1" for line in lines):
        return list(lines)
    return [{name: cell for name, cell in line.items() if name != "learning-rate trials"} for line in lines]


def totals_cells(records: Records, title: str) -> list[dict[str, str]]:
    """Return for each row of a board how often it won, tied and lost against the others over tasks, best first."""
    counts: dict[str, list[int]] = {}
    for (board, one, _), record in records.items():
        if board == title:
            counts[one] = [a + b for a, b in zip(counts.get(one, [0, 0, 0]), record, strict=True)]
    ordered = sorted(counts.items(), key=lambda each: (each[1][2] - each[1][0], each[0]))
    return [dict(zip(("method", "won", "tied", "lost"), (one, *map(str, n)), strict=True)) for one, n in ordered]


def records_cells(records: Records, title: str) -> list[dict[str, str]]:
    """Return won-tied-lost of each row against each other one; only the totals where there are many."""
    totals = totals_cells(records, title)
    names = [line["method"] for line in totals]
    if len(names) > MATRIX:
        return totals
    found = []
    for one in names:
        cells = {other: "-".join(map(str, records.get((title, one, other), ()))) for other in names}
        found.append({"": one, **{other: "" if one == other else cell for other, cell in cells.items()}})
    return found


def plain(text: str) -> str:
    """Keep text of a run from moving the cursor, colouring the terminal or turning its line around."""
    return "".join(c if c.isprintable() else " " for c in text)


def amount(value: float | None, unit: str = "") -> str:
    """Show three digits of a count or of bytes: 338 k, 22.7 MB."""
    if value is None:
        return ""
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:{'.3g' if value < 99.5 * size else '.0f'}} {prefix}{unit}"
    return f"{value:.3g} {unit}".strip()


def _percent(share: float) -> str:
    return f"{100 * share:.{'0f' if share > 0.1 else '2g'}}%"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _milliseconds(value: float) -> str:
    return f"{value:.3g} ms"


FORMS: dict[str, Callable[[float], str]] = {  # what is told of a machine, in the order of the columns
    "train_seconds": _duration, "train_peak_bytes": lambda value: amount(value, "B"), "tokens_per_second": amount,
    "latency_ms": _milliseconds, "merged_latency_ms": _milliseconds, "seconds_to_quality": _duration,
}  # fmt: skip
