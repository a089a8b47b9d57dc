"""A board as text: table cells for terminal and Markdown, notes, and sentences that summarize the tests."""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from peftkit.leaderboard.costs import COSTS, Cost
from peftkit.leaderboard.runs import BoardEntry, BoardRun, GlueEntry, UnreadableRun, grouped
from peftkit.leaderboard.stats import GLUE, UNBOUNDED, fold_text, score_metrics
from peftkit.leaderboard.verdict import Records, listed

METRIC_LABELS = {"matthews_correlation": "matthews", "mean_squared_error": "mse ↓", "perplexity": "perplexity ↓",
         "reward_margin": "margin", "chosen_perplexity": "perplexity of chosen ↓"}  # fmt: skip
SPREAD = "± is the sample standard deviation over seeds; a single seed has none."
FOLDS = "folds: of a cross-validation, with the standard deviation of the score over them; the score pools them all."
LETTERS = "group: entries of a task that share a letter do not differ significantly."
INTERVAL = "95 % interval: of the score {of}, over new seeds and new examples; exceptions are noted."
VERSUS = "vs. majority: whether an entry is significantly better than the baseline with one answer ({baselines})."
FLAG = "not better than majority"
MAX_MATRIX_ENTRIES = 12  # in a table of all pairs
Ranked = tuple[BoardEntry, str]  # an entry, and the letters of its groups


def entry_cells(ranked: Ranked, marks: dict[str, str], metrics: Mapping[str, str]) -> dict[str, str]:
    """Return the cells of an entry in the terminal and in Markdown; `metrics` are those shown, by their headings."""
    entry, letters = ranked
    delta = (
        ""
        if entry.delta is None
        else f"{100 * entry.delta:+.1f}"
        if entry.greater_is_better
        else f"{-entry.delta:+.3g}"
    )
    return {
        "method": entry.method,
        "model": entry.model_label,
        "settings": entry.settings,
        **{heading: score_cell(entry, name) for heading, name in metrics.items()},
        "vs. majority": entry.against_baseline,
        "group": letters,
        "95 % interval": _interval(entry),
        "Δ vs. full": "ref" if entry.is_reference else delta,
        "seeds": seeds_text(entry),
        "folds": fold_text(entry),
        "trials": "" if entry.is_baseline else entry.trials_text,
        **{cost.heading: _cost_cell(entry, name, cost, marks) for name, cost in COSTS.items() if cost.heading},
    }


def seeds_text(entry: BoardEntry) -> str:
    """Return the number of seeds with a score; nothing for a baseline, which has none."""
    if entry.is_baseline:
        return ""
    return f"{len(entry.seeds)} of {entry.planned}" if len(entry.seeds) < entry.planned else str(len(entry.seeds))


def score_name(entry: BoardEntry) -> str:
    """Return what the score of an entry's task is: its metric, or "mean of" several."""
    counted = score_metrics(entry.scores)
    names = [name for name in counted if entry.higher_is_better[name]] or counted
    text = listed([metric_name(name).removesuffix(" ↓").replace("_", " ") for name in names])
    return f"mean of {text}" if len(names) > 1 else text


def score_names(entries: Iterable[BoardEntry]) -> dict[str, str]:
    """Return what the score of each task is, for those whose score is a mean of several metrics."""
    named = {entry.task: score_name(entry) for entry in entries if entry.is_ranked}
    return {task: name for task, name in named.items() if name.startswith("mean of ")}


def baseline_text(entries: Iterable[BoardEntry]) -> str:
    """Return sentences on what the baselines are, with their answer on each task, and which tasks have none."""
    scored = [entry for entry in entries if entry.score is not None]
    known = {entry.task for entry in scored if entry.is_baseline}
    texts = []
    for method, members in grouped(
        [entry for entry in scored if entry.is_baseline], lambda entry: entry.method
    ).items():
        constant = [each for each in members if each.answer is not None]  # several of a task: on other data or metrics
        answers = dict.fromkeys(f"{each.task} {each.all_settings['task.answer']}" for each in constant)
        origins = {each.all_settings["task.labels"] for each in constant}
        of = f"{method} of the {' or '.join(sorted(origins))} labels ({', '.join(answers)})"
        texts.append(of if answers else f"{method}, the mean score of random answers")
    without = ", ".join(dict.fromkeys(entry.task for entry in scored if entry.task not in known))
    text = f"Baselines: {'; '.join(texts)}." if texts else ""
    return text + (f" No baseline, as labels or a metric are not recorded: {without}." if without else "")


def _interval(entry: BoardEntry) -> str:
    """Return the interval of the task's score; errors are negative, so their bounds swap."""
    if entry.interval is None:
        return ""
    low, high = entry.interval
    return f"{100 * low:z.1f} to {100 * high:z.1f}" if entry.greater_is_better else f"{-high:.4g} to {-low:.4g}"


def _cost_cell(entry: BoardEntry, name: str, cost: Cost, marks: dict[str, str]) -> str:
    """Return a cost, for each machine with its mark where the board has several."""
    total = entry.costs.get("total_params")
    if name == "trainable_params" and name in entry.costs and total:
        share = entry.costs[name] / total
        return f"{cost.text(entry.costs[name])} {100 * share:.{'0f' if share > 0.1 else '2g'}}%"
    measured = {"": entry.costs, **entry.timed}.items()
    values = [(cost.text(costs[name]), marks.get(device, "")) for device, costs in measured if name in costs]
    return ", ".join(f"{text} {mark}".strip() for text, mark in values)


def marks_of(ranked: Sequence[Ranked]) -> dict[str, str]:
    """Return a letter for each machine; empty if there is only one."""
    devices = _devices(ranked)
    return (
        {device: chr(ord("A") + n) if n < 26 else str(n) for n, device in enumerate(devices)}
        if len(devices) > 1
        else {}
    )


def _devices(ranked: Sequence[Ranked]) -> list[str]:
    """Return the machines on which times were measured, each with how its runs shared it."""
    return sorted({device for entry, _ in ranked for device in entry.timed})


def notes_of(ranked: Sequence[Ranked], marks: dict[str, str]) -> list[str]:
    entries = [entry for entry, _ in ranked if not entry.is_baseline]
    baselines = [entry for entry, _ in ranked if entry.is_baseline]
    of_baselines = baseline_text(entry for entry, _ in ranked).strip()
    means = score_names(entries)
    of = f"({', '.join(f'{task}: {name}' for task, name in means.items())})" if means else "of the task"
    constant = ", ".join(dict.fromkeys(each.method for each in baselines if each.answer is not None))
    tasks = grouped([entry for entry in entries if entry.examples.get("train")], lambda entry: entry.task)
    sizes = {task: sorted({entry.examples["train"] for entry in members}) for task, members in tasks.items()}
    counts = {task: " and ".join(map(str, each)) for task, each in sizes.items()}
    is_same = len(set(counts.values())) == 1
    train = f"{next(iter(counts.values()))} each" if is_same else ", ".join(f"{task} {n}" for task, n in counts.items())
    devices = _devices(ranked)
    named = "; ".join(f"{mark} = {device}" for device, mark in marks.items())
    notes = [
        (len({entry.model for entry in entries}) == 1, f"Model: {entries[0].model}."),
        (counts, f"Training examples: {train}. {SPREAD}"),
        (any(fold_text(entry) for entry in entries), FOLDS),
        (any(entry.trials > 1 for entry in entries), _budget(entries)),
        (any(letters for _, letters in ranked), LETTERS),
        (any(entry.interval for entry in entries), INTERVAL.format(of=of)),
        (of_baselines, of_baselines),
        (any(entry.against_baseline for entry in entries), VERSUS.format(baselines=constant)),
        (
            not all(up for entry in entries for up in entry.higher_is_better.values()),
            "↓ lower is better; in its own unit, not times 100.",
        ),
        (len(devices) == 1, f"Machine: {', '.join(devices)}."),
        (marks, f"Machines (their times, memory and tokens/s do not compare): {named}."),
    ]
    return [text for is_true, text in notes if is_true]


def _budget(entries: Sequence[BoardEntry]) -> str:
    """Return how many trials each entry had, and how many examples they saw; without trained weights there are none."""
    searched = [entry for entry in entries if entry.trials and not entry.is_baseline]
    numbers = sorted({entry.trials for entry in searched})
    for members in grouped(searched, lambda entry: (entry.task, entry.model, entry.examples.get("train"))).values():
        seen = sorted(each for entry in members if (each := entry.trial_examples) is not None)
        if len(numbers) == 1 and seen and seen[-1] > 1.01 * seen[0]:  # the rest is rounding
            return (
                f"Unequal budgets: {members[0].task}: the trials of an entry saw {seen[0]:,} to {seen[-1]:,} examples."
            )
    if len(numbers) == 1:
        totals = {entry.trial_examples for entry in searched}
        seen_text = f", which saw {totals.pop():,} examples in all" if len(totals) == 1 and None not in totals else ""
        return f"Equal budgets: {numbers[0]} trials for each entry{seen_text}, scored on held-out training examples."
    return f"Unequal budgets: {numbers[0]} to {numbers[-1]} trials; entries with more trials have an advantage."


def problems_of(results: Sequence[BoardRun | UnreadableRun]) -> dict[str, list[str]]:
    """Return a line for each unfinished run and each run without valid scores, below one headline per group."""
    groups = {
        "unfinished; their commands, typed again, resume them": [r for r in results if r.is_unfinished],
        "without valid scores": [r for r in results if r.problem and not (r.is_unfinished or r.is_skipped)],
    }
    return {
        f"{len(group)} of {len(results)} runs {what}:": [_problem(result) for result in group]
        for what, group in groups.items()
        if group
    }


def _problem(result: BoardRun | UnreadableRun) -> str:
    where = f"{result.problem}  ({result.folder})"
    if isinstance(result, UnreadableRun):
        return where
    return f"{result.task} {result.model} {result.method} seed {result.seed}: {where}"


def figure(entry: BoardEntry, value: float) -> str:
    """Format a score times 100, an error unchanged."""
    return f"{100 * value:z.1f}" if entry.greater_is_better else f"{abs(value):.4g}"


def metrics_of(ranked: Sequence[Ranked]) -> list[str]:
    return list(dict.fromkeys(name for entry, _ in ranked for name in entry.scores))


def metric_headings(same_task: Sequence[Ranked]) -> dict[str, str]:
    """Return the metrics of a task by their headings; an arrow marks those of which lower is better."""
    lower = {name for entry, _ in same_task for name, is_up in entry.higher_is_better.items() if not is_up}
    names = {name: metric_name(name).removesuffix(" ↓") for name in metrics_of(same_task)}
    return {f"{label} ↓" if name in lower else label: name for name, label in names.items()}


def metric_name(name: str) -> str:
    return METRIC_LABELS.get(name, name.removeprefix("accuracy_"))


def score_cell(entry: BoardEntry, name: str) -> str:
    summary = entry.scores.get(name)
    if summary is None:
        return "–"
    if not entry.higher_is_better[name] or name.startswith(UNBOUNDED):  # errors have the unit of the labels
        return f"{summary.mean:.4g}" + ("" if summary.spread is None else f" ± {summary.spread:.2g}")
    return f"{100 * summary.mean:z.1f}" + ("" if summary.spread is None else f" ± {100 * summary.spread:.1f}")


def glue_cells(line: GlueEntry) -> dict[str, str]:
    average = "–" if line.average is None else f"{100 * line.average:z.1f}"
    average += "" if line.spread is None else f" ± {100 * line.spread:.1f}"
    scores = {task: f"{100 * line.scores[task]:z.1f}" if task in line.scores else "–" for task in GLUE}
    return {
        "method": line.method,
        "model": line.model_label,
        "settings": line.settings,
        **scores,
        "average": average,
        "vs. majority": line.against_baseline,
    }


def boards_of(entries: Sequence[BoardEntry], groups: Sequence[str]) -> list[tuple[str, list[Ranked]]]:
    return list(grouped(zip(entries, groups, strict=True), lambda each: each[0].board).items())


def tasks_of(ranked: Sequence[Ranked]) -> list[list[Ranked]]:
    return list(grouped(ranked, lambda each: each[0].task).values())


def without_constants(lines: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Drop the column of trials where every entry has one."""
    constant = "trials" if all(line["trials"] in ("", "1") for line in lines) else None
    return [{name: cell for name, cell in line.items() if name != constant} for line in lines]


def totals_cells(records: Records, title: str) -> list[dict[str, str]]:
    """Return how often each entry of a board won, tied and lost against the others over tasks, best first."""
    of_board = grouped([key for key in records if key[0] == title], lambda key: key[1])
    counts = {
        one: [sum(n) for n in zip(*map(records.__getitem__, keys), strict=True)] for one, keys in of_board.items()
    }
    ordered = sorted(counts.items(), key=lambda each: (each[1][2] - each[1][0], each[0]))
    return [dict(zip(("method", "won", "tied", "lost"), (one, *map(str, n)), strict=True)) for one, n in ordered]


def records_cells(records: Records, title: str) -> list[dict[str, str]]:
    """Return won-tied-lost of each pair of entries; with more than MAX_MATRIX_ENTRIES entries only the totals."""
    totals = totals_cells(records, title)
    names = [line["method"] for line in totals]
    if len(names) > MAX_MATRIX_ENTRIES:
        return totals
    return [
        {"": one}
        | {other: "" if one == other else "-".join(map(str, records.get((title, one, other), ()))) for other in names}
        for one in names
    ]


def plain(text: str) -> str:
    """Replace unprintable characters, which could move the cursor, color the terminal or reverse the line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def wrapped(text: str, width: int) -> str:
    """Return a text in lines, broken at spaces, else after a slash or an underscore."""
    lines: list[str] = []
    for line in textwrap.wrap(plain(text), width, break_long_words=False, break_on_hyphens=False):
        start = ""
        for piece in re.split(r"(?<=[_/])", line):
            if start and len(start + piece) > width:
                lines.append(start)
                start = ""
            start += piece
        lines.append(start)
    return "\n".join(lines)
