"""A board as text: table cells for terminal and Markdown, notes, and sentences that summarize the tests."""

from collections import Counter
from collections.abc import Mapping, Sequence

from peftkit.leaderboard.costs import COSTS, Cost
from peftkit.leaderboard.runs import BoardEntry, BoardRun, GlueEntry, UnreadableRun, grouped
from peftkit.leaderboard.stats import DIAGNOSTIC, GLUE
from peftkit.leaderboard.verdict import Ranking, Records, Verdict, listed, rank_tasks

METRIC_LABELS = {"matthews_correlation": "matthews", "mean_squared_error": "mse ↓", "perplexity": "perplexity ↓",
         "reward_margin": "margin", "chosen_perplexity": "perplexity of chosen ↓"}  # fmt: skip
SPREAD = "± is the sample standard deviation over seeds; a single seed has none."
LETTERS = "group: entries of a task that share a letter do not differ significantly."
INTERVAL = "95 %: interval of the task's score (mean of its metrics) over seeds, for these examples."
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
        "model": entry.model.split("/")[-1],
        "settings": entry.settings,
        **{heading: score_cell(entry, name) for heading, name in metrics.items()},
        "group": letters,
        "95 % interval": _interval(entry),
        "Δ vs. full": "ref" if entry.is_reference else delta,
        "seeds": f"{len(entry.seeds)} of {entry.planned}"
        if len(entry.seeds) < entry.planned
        else str(len(entry.seeds)),
        "learning-rate trials": str(entry.trials),
        **{cost.heading: _cost_cell(entry, name, cost, marks) for name, cost in COSTS.items() if cost.heading},
    }


def _interval(entry: BoardEntry) -> str:
    """Return the interval of the task's score over seeds; errors are negative, so their bounds swap."""
    if entry.interval is None:
        return ""
    low, high = entry.interval
    return f"{100 * low:.1f} to {100 * high:.1f}" if entry.greater_is_better else f"{-high:.4g} to {-low:.4g}"


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
    devices = sorted({device for entry, _ in ranked for device in entry.timed})
    return (
        {device: chr(ord("A") + n) if n < 26 else str(n) for n, device in enumerate(devices)}
        if len(devices) > 1
        else {}
    )


def notes_of(ranked: Sequence[Ranked], marks: dict[str, str]) -> list[str]:
    entries = [entry for entry, _ in ranked]
    tasks = grouped([entry for entry in entries if entry.examples.get("train")], lambda entry: entry.task)
    sizes = {task: sorted({entry.examples["train"] for entry in members}) for task, members in tasks.items()}
    counts = {task: " and ".join(map(str, each)) for task, each in sizes.items()}
    is_same = len(set(counts.values())) == 1
    train = f"{next(iter(counts.values()))} each" if is_same else ", ".join(f"{task} {n}" for task, n in counts.items())
    named = "; ".join(f"{mark} = {device}" for device, mark in marks.items())
    notes = [
        (len({entry.model for entry in entries}) == 1, f"Model: {entries[0].model}."),
        (counts, f"Training examples: {train}. {SPREAD}"),
        (any(letters for _, letters in ranked), LETTERS),
        (any(entry.interval for entry in entries), INTERVAL),
        (
            not all(up for entry in entries for up in entry.higher_is_better.values()),
            "↓ lower is better; in its own unit, not times 100.",
        ),
        (marks, f"Machines (their times, memory and tokens/s do not compare): {named}."),
    ]
    return [text for is_true, text in notes if is_true]


def problems_of(results: Sequence[BoardRun | UnreadableRun]) -> dict[str, list[str]]:
    """Return a line for each unfinished run and each run without valid scores, below one headline per group."""
    groups = {
        "unfinished; their commands, typed again, resume them": [r for r in results if r.is_unfinished],
        "without valid scores": [r for r in results if r.problem and not r.is_unfinished],
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
    return f"{100 * value:.1f}" if entry.greater_is_better else f"{abs(value):.4g}"


def metrics_of(ranked: Sequence[Ranked]) -> list[str]:
    return list(dict.fromkeys(name for entry, _ in ranked for name in entry.scores))


def metric_name(name: str) -> str:
    return METRIC_LABELS.get(name, name.removeprefix("accuracy_"))


def score_cell(entry: BoardEntry, name: str) -> str:
    summary = entry.scores.get(name)
    if summary is None:
        return "–"
    if not entry.higher_is_better[name] or name.startswith(DIAGNOSTIC):  # errors have the unit of the labels
        return f"{summary.mean:.4g}" + ("" if summary.spread is None else f" ± {summary.spread:.2g}")
    return f"{100 * summary.mean:.1f}" + ("" if summary.spread is None else f" ± {100 * summary.spread:.1f}")


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


def boards_of(entries: Sequence[BoardEntry], groups: Sequence[str]) -> list[tuple[str, list[Ranked]]]:
    return list(grouped(zip(entries, groups, strict=True), lambda each: each[0].board).items())


def tasks_of(ranked: Sequence[Ranked]) -> list[list[Ranked]]:
    return list(grouped(ranked, lambda each: each[0].task).values())


def without_constants(lines: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Drop the column of learning-rate trials where every entry has one."""
    constant = "learning-rate trials" if all(line["learning-rate trials"] == "1" for line in lines) else None
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


def headlines(
    entries: Sequence[BoardEntry], groups: Sequence[str], detectable: Mapping[tuple[str, str], float]
) -> dict[str, list[tuple[str, str]]]:
    """Return (task, sentence) pairs for each board; a sentence over all tasks has the task ''."""
    return {
        board: _overall(tasks, entries)
        + [(each.task, _sentence(each, entries, detectable.get((board, each.task), 0.0))) for each in tasks]
        for board, tasks in grouped(rank_tasks(entries, groups), lambda each: each.board).items()
    }


def summary_sentences(entries: Sequence[BoardEntry], verdict: Verdict, title: str) -> dict[str, str]:
    """Return the sentence of each tested task of a board."""
    tested = {each.task for each in rank_tasks(entries, verdict.groups) if each.board == title and each.is_tested}
    summaries = headlines(entries, verdict.groups, verdict.detectable).get(title, [])
    return {task: text for task, text in summaries if task in tested}


def _overall(tasks: Sequence[Ranking], entries: Sequence[BoardEntry]) -> list[tuple[str, str]]:
    """Return which entries are among the best on the most tested tasks."""
    tested = [each for each in tasks if each.is_tested and len(each.ranked) > 1]
    if len(tested) < 2:
        return []
    counts = Counter(name for each in tested for name in {entries[number].label for number in each.top})
    most = max(counts.values())
    names = sorted(name for name, count in counts.items() if count == most)
    text = (
        f"{listed(names)} {'is' if len(names) == 1 else 'are'} best, or not significantly different from the best, "
        f"on {most} of {len(tested)} tasks."
    )
    without = [each.task for each in tested if len(each.top) == len(each.ranked)]
    text += f" On {listed(without)} no methods differ significantly." if without else ""
    return [("", text)]


def _sentence(task: Ranking, entries: Sequence[BoardEntry], detectable: float) -> str:
    if not task.ranked:
        return "no run has a valid score."
    name, *tied = (entries[number].label for number in task.top)
    best = entries[task.top[0]]
    score = figure(best, best.score or 0)
    size = f"{100 * detectable:.1f} points" if best.greater_is_better else f"{detectable:.3g}"
    # it is zero where all predictions are equal
    power = f" Minimum detectable difference (80 % power): {size}." if detectable else ""
    if len(task.ranked) == 1:
        return f"{name} scores {score}; there is no other entry to compare with."
    if not task.is_tested:
        extreme = "highest" if best.greater_is_better else "lowest"
        return f"{name} has the {extreme} mean, {score}; differences were not tested."
    if len(task.top) == len(task.ranked):
        return f"no significant differences among {len(task.ranked)} entries; {name} has {score}.{power}"
    if not tied:
        others = "the other entry" if len(task.worse) == 1 else f"each of the other {len(task.worse)}"
        return f"{name} is best with {score}, significantly better than {others}.{power}"
    worse = f"; significantly worse: {listed([entries[number].label for number in task.worse])}" if task.worse else ""
    return (
        f"{name} has the best mean, {score}. No significant difference from the best: {listed(tied)}{worse}."
        f"{_fewest_parameters([entries[number] for number in task.top])}{power}"
    )


def _fewest_parameters(best: Sequence[BoardEntry]) -> str:
    """Return which of the best entries trains the fewest parameters."""
    known = [(entry.costs["trainable_params"], entry.label) for entry in best if "trainable_params" in entry.costs]
    if len(known) < 2:
        return ""
    least, name = min(known, key=lambda pair: pair[0])
    units = ((1e9, " billion"), (1e6, " million"), (1e3, " thousand"))
    count = next((f"{least / size:.3g}{unit}" for size, unit in units if least >= size), f"{least:.0f}")
    return f" Among these, {name} trains the fewest parameters, {count}."


def plain(text: str) -> str:
    """Replace unprintable characters, which could move the cursor, color the terminal or reverse the line."""
    return "".join(c if c.isprintable() else " " for c in text)
