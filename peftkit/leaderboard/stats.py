"""The entries of a board: mean and spread over the seeds of a task, and GLUE's average over tasks."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, median_high, stdev
from typing import Any

from peftkit.leaderboard.costs import TIMED, UNTIMED, with_relative_costs
from peftkit.leaderboard.runs import BoardEntry, BoardRun, Summary, UnreadableRun, grouped
from peftkit.metrics import METRICS

DIAGNOSTIC = tuple(metric.name for metric in METRICS.values() if metric.diagnostic)  # not in a task's score
UNBOUNDED = tuple(metric.name for metric in METRICS.values() if math.isinf(metric.range[1]))  # no shares
GLUE = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")  # AX is a diagnostic, not counted
REFERENCE = "full"  # the method with which the others are compared


def summarize(values: Sequence[float]) -> Summary:
    return Summary(fmean(values), stdev(values) if len(values) > 1 else None)


def task_score(scores: Mapping[str, Mapping[str, Any]]) -> float:
    """Return a task's score, higher is better: the plain mean of its metrics (GLUE, Wang et al. 2019, section 3.4).

    Metrics of which lower is better are not in that mean; without any others, their negative mean is returned.
    Diagnostic metrics are ignored.
    """
    counted = score_metrics(scores)
    up = [scores[name]["value"] for name in counted if scores[name]["higher_is_better"]]
    return fmean(up) if up else -fmean(scores[name]["value"] for name in counted)


def fold_text(entry: BoardEntry) -> str:
    """Return the number of folds of a cross-validation and the spread of the score over them, the mean of its seeds."""
    folds = [each for run in entry.scored_runs if (each := _fold_scores(run))]
    if not folds:
        return ""
    spread = fmean(stdev(each) for each in folds)
    return f"{len(folds[0])}, ± {100 * spread:.1f}" if entry.greater_is_better else f"{len(folds[0])}, ± {spread:.3g}"


def _fold_scores(run: BoardRun) -> list[float]:
    """Return the task's score in each fold of a run; none where a fold lacks a score."""
    folds = [each["scores"] for each in (run.cross_validation or {}).get("folds") or []]
    if len(folds) < 2 or any(not fold.keys() >= run.scores.keys() for fold in folds):
        return []
    return [task_score({name: {**each, "value": fold[name]} for name, each in run.scores.items()}) for fold in folds]


def score_metrics(metrics: Collection[str]) -> list[str]:
    """Return the metrics of a task's score, without diagnostic ones: a reward margin grows with every step."""
    return [name for name in metrics if not name.startswith(DIAGNOSTIC)] or list(metrics)


def board_entries(results: Iterable[BoardRun | UnreadableRun]) -> list[BoardEntry]:
    """Return an entry for each task, model, method and settings: real data first, in GLUE's order, best score first."""
    runs = [result for result in results if isinstance(result, BoardRun)]
    titles = _titles(runs)
    # a run that failed before it counted its examples has the counts of the entry's other seeds
    known = {run.group: run.examples for run in reversed(runs) if run.examples}
    runs = [replace(run, examples=run.examples or known.get(run.group, {})) for run in runs]
    members = list(grouped(runs, lambda run: run.identity[:-1]).values())
    full = [
        {**each[0].settings, **{f"examples.{name}": str(n) for name, n in each[0].examples.items()}} for each in members
    ]
    shown = differing_settings([(titles[r[0].source], r[0].task, r[0].model, r[0].method) for r in members], full)
    entries = [_entry(titles[r[0].source], r, text, flat) for r, text, flat in zip(members, shown, full, strict=True)]
    order = {task: number for number, task in enumerate(GLUE)}
    return sorted(
        _with_plans(_with_reference(entries)),
        key=lambda r: (
            r.board.startswith("OFFLINE"), r.board, order.get(r.task, len(GLUE)), r.task, r.model,
            math.inf if r.score is None else -r.score, r.method, r.settings,
        ),
    )  # fmt: skip


def _titles(runs: Sequence[BoardRun]) -> dict[tuple, str]:
    titles = {}
    for source, members in grouped(runs, lambda run: run.source).items():
        suite, data, data_for, _ = source
        pairs = sorted({(r.model, r.model_substituted_for) for r in members if r.model_substituted_for})
        parts = [f"model {name} substitutes {replaced}" for name, replaced in pairs]
        parts += [f"data {data} substitutes {data_for}"] if data_for else []
        titles[source] = "OFFLINE: " + ", ".join(parts) if parts else f"{suite}, data from {data}"
    return titles


def differing_settings(families: Sequence[tuple], settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Label the members of a family by the settings in which they differ, each named once."""
    shown = [""] * len(families)
    for members in grouped(range(len(families)), families.__getitem__).values():
        names = sorted({name for number in members for name in settings[number]})
        columns = {name: tuple(settings[number].get(name, "null") for number in members) for name in names}
        differing = {name: values for name, values in columns.items() if len(set(values)) > 1}
        if "model.name" in differing:  # it determines its checkpoint and the rest
            differing = {n: v for n, v in differing.items() if n == "model.name" or not n.startswith("model.")}
        chosen = {n: v for n, v in differing.items() if not n.startswith(("examples.", "sources."))}
        is_enough = len(set(zip(*chosen.values(), strict=True))) == len(members)
        # an interpolated rate occurs twice; the later name, train.learning_rate, is the one in effect
        once = {(n.split(".")[-1], v): n for n, v in (chosen if is_enough else differing).items()}
        counts = Counter(last for last, _ in once)
        labels = [
            (last if counts[last] == 1 and full.startswith(("train.", "method.", "task.", "setup.")) else full, values)
            for (last, values), full in once.items()
        ]
        for column, number in enumerate(members):  # a label has only settings that the entry has
            shown[number] = " ".join(f"{label}={each[column]}" for label, each in labels if each[column] != "null")
    return shown


def _entry(title: str, members: list[BoardRun], settings: str, flat: dict[str, str]) -> BoardEntry:
    members = sorted(members, key=lambda run: run.seed)
    done = [run for run in members if run.problem is None]
    names = list(dict.fromkeys(name for run in done for name in run.scores))
    by_seed = {run.seed: task_score(run.scores) for run in done}
    return BoardEntry(
        board=title,
        task=members[0].task,
        model=members[0].model,
        method=members[0].method,
        settings=settings,
        runs=tuple(members),
        scores={n: summarize([r.scores[n]["value"] for r in done if n in r.scores]) for n in names},
        higher_is_better={n: next(bool(r.scores[n]["higher_is_better"]) for r in done if n in r.scores) for n in names},
        by_seed=by_seed,
        costs=_means(done, UNTIMED),
        timed={
            d: _means([run for run in done if run.device == d], TIMED) for d in sorted({run.device for run in done})
        },
        all_settings=flat,
        planned=len({run.seed for run in members}),
    )


def _means(results: Sequence[BoardRun], names: Iterable[str]) -> dict[str, float]:
    values_of = {name: [result.costs[name] for result in results if name in result.costs] for name in names}
    return {name: fmean(values) for name, values in values_of.items() if values}


def _with_reference(entries: list[BoardEntry]) -> list[BoardEntry]:
    """Add the difference from and the costs relative to full fine-tuning on the same task, model and examples."""
    result: list[BoardEntry] = []
    for members in grouped(entries, _comparable).values():
        full = [
            entry
            for entry in members
            if entry.method == REFERENCE and entry.score is not None and "tasks" not in entry.all_settings
        ]
        reference = max(full, key=lambda entry: entry.score or 0.0, default=None)
        best = reference.score if reference else None
        members = [
            replace(entry, is_reference=True)
            if entry is reference
            else replace(entry, delta=None if best is None or entry.score is None else entry.score - best)
            for entry in members
        ]
        result += with_relative_costs(members, reference)
    return result


def _comparable(entry: BoardEntry) -> tuple:
    data = entry.all_settings.get("sources.data.revision")
    return entry.board, entry.task, entry.model, data, tuple(sorted(entry.examples.items()))


def _with_plans(entries: list[BoardEntry]) -> list[BoardEntry]:
    """Add the label, and the planned seeds: the median of the task's entries, or the entry's own attempts if more."""
    names = {
        board: _model_labels({entry.model for entry in members})
        for board, members in grouped(entries, lambda entry: entry.board).items()
    }
    tasks = grouped(entries, lambda entry: (entry.board, entry.task))
    usual = {task: median_high(entry.planned for entry in members) for task, members in tasks.items()}
    return [
        replace(
            entry,
            planned=max(entry.planned, usual[entry.board, entry.task]),
            model_label=names[entry.board][entry.model],
            label=f"{entry.name} {names[entry.board][entry.model]}" if len(names[entry.board]) > 1 else entry.name,
        )
        for entry in entries
    ]


def _model_labels(models: Iterable[str]) -> dict[str, str]:
    """Return the last part of each model's name, or the whole name where two models share it."""
    counts = Counter(model.split("/")[-1] for model in models)
    return {model: last if counts[last := model.split("/")[-1]] == 1 else model for model in models}
