"""The entries of a board: mean and spread over the seeds of a task, and GLUE's average over tasks."""

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, median_high, stdev
from typing import Any

from peftkit.leaderboard.costs import TIMED, UNTIMED, with_relative_costs
from peftkit.leaderboard.runs import BoardEntry, BoardRun, GlueEntry, Summary, UnreadableRun, grouped
from peftkit.metrics import METRICS

DIAGNOSTIC = tuple(metric.name for metric in METRICS.values() if metric.diagnostic)  # not in a task's score
GLUE = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")  # AX is a diagnostic, not counted
REFERENCE = "full"  # the method with which the others are compared
TASK_LIMITS = ("task.max_length", "task.max_train_samples", "task.max_eval_samples")  # mostly equal for all tasks


def summarize(values: Sequence[float]) -> Summary:
    return Summary(fmean(values), stdev(values) if len(values) > 1 else None)


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean over new seeds (Student's t), None for a single value."""
    from scipy.special import stdtrit

    if len(values) < 2:
        return None
    half = float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def task_score(scores: Mapping[str, Mapping[str, Any]]) -> float:
    """Return a task's score, higher is better: the plain mean of its metrics (GLUE, Wang et al. 2019, section 3.4).

    Metrics of which lower is better are not in that mean; without any others, their negative mean is returned.
    Diagnostic metrics are ignored.
    """
    counted = score_metrics(scores)
    up = [scores[name]["value"] for name in counted if scores[name]["higher_is_better"]]
    return fmean(up) if up else -fmean(scores[name]["value"] for name in counted)


def score_metrics(metrics: Collection[str]) -> list[str]:
    """Return the metrics of a task's score, without diagnostic ones: a reward margin grows with every step."""
    return [name for name in metrics if not name.startswith(DIAGNOSTIC)] or list(metrics)


def glue_average(task_scores: Mapping[str, float]) -> float | None:
    """Return the macro-average over the nine tasks, or None where one is missing (GLUE, section 3.4)."""
    return fmean(task_scores[task] for task in GLUE) if task_scores.keys() >= set(GLUE) else None


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
    shown = _differences([(titles[r[0].source], r[0].task, r[0].model, r[0].method) for r in members], full)
    entries = [_entry(titles[r[0].source], r, text, flat) for r, text, flat in zip(members, shown, full, strict=True)]
    order = {task: number for number, task in enumerate(GLUE)}
    return sorted(
        _with_plans(_with_reference(entries)),
        key=lambda r: (
            r.board.startswith("OFFLINE"), r.board, order.get(r.task, len(GLUE)), r.task, r.model,
            math.inf if r.score is None else -r.score, r.method, r.settings,
        ),
    )  # fmt: skip


def glue_entries(entries: Iterable[BoardEntry]) -> list[GlueEntry]:
    """Return the GLUE table of these entries.

    A limit of examples splits lines only where one task of the method has several: limits may differ between tasks.
    """
    chosen = [entry for entry in entries if entry.suite == "glue" and entry.task in GLUE and entry.score is not None]
    limits = {
        (e.board, e.model, e.method, e.task, tuple(e.all_settings.get(name) for name in TASK_LIMITS)) for e in chosen
    }
    limited = {key[:3] for key, count in Counter(each[:4] for each in limits).items() if count > 1}
    lines: dict[tuple, dict[str, BoardEntry]] = {}
    for entry in chosen:
        family = (entry.board, entry.model, entry.method)
        shared = {
            name: value
            for name, value in entry.all_settings.items()
            if (name in TASK_LIMITS and family in limited)
            or not name.startswith(("task.", "examples.", "sources.data."))
        }
        key: tuple = (*family, json.dumps(shared, sort_keys=True))
        if entry.task in lines.get(key, {}):  # differs only in a setting of this task, such as its template
            key = (*key, entry.settings)
        lines.setdefault(key, {})[entry.task] = entry
    shown = _differences([key[:3] for key in lines], [json.loads(key[3]) for key in lines])
    table = [
        _glue_line(key, " ".join(filter(None, [text, *key[4:]])), tasks)
        for (key, tasks), text in zip(lines.items(), shown, strict=True)
    ]
    boards = list(dict.fromkeys(line.board for line in table))
    return sorted(table, key=lambda x: (boards.index(x.board), len(x.missing), -(x.average or 0), x.method, x.settings))


def _titles(runs: Sequence[BoardRun]) -> dict[tuple, str]:
    titles = {}
    for source, members in grouped(runs, lambda run: run.source).items():
        suite, data, data_for, _ = source
        pairs = sorted({(r.model, r.model_substituted_for) for r in members if r.model_substituted_for})
        parts = [f"model {name} substitutes {replaced}" for name, replaced in pairs]
        parts += [f"data {data} substitutes {data_for}"] if data_for else []
        titles[source] = "OFFLINE: " + ", ".join(parts) if parts else f"{suite}, data from {data}"
    return titles


def _differences(families: Sequence[tuple], settings: Sequence[Mapping[str, str]]) -> list[str]:
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
            (last if counts[last] == 1 and full.startswith(("train.", "method.", "task.")) else full, values)
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
        interval=interval(list(by_seed.values())),
        planned=len({run.seed for run in members}),
    )


def _means(results: Sequence[BoardRun], names: Iterable[str]) -> dict[str, float]:
    values_of = {name: [result.costs[name] for result in results if name in result.costs] for name in names}
    return {name: fmean(values) for name, values in values_of.items() if values}


def _with_reference(entries: list[BoardEntry]) -> list[BoardEntry]:
    """Add the difference from and the costs relative to full fine-tuning on the same task, model and examples."""
    result: list[BoardEntry] = []
    for members in grouped(entries, _comparable).values():
        full = [entry for entry in members if entry.method == REFERENCE and entry.score is not None]
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
    models = Counter(board for board, _ in {(entry.board, entry.model) for entry in entries})
    tasks = grouped(entries, lambda entry: (entry.board, entry.task))
    usual = {task: median_high(entry.planned for entry in members) for task, members in tasks.items()}
    return [
        replace(
            entry,
            planned=max(entry.planned, usual[entry.board, entry.task]),
            label=f"{entry.name} {entry.model.split('/')[-1]}" if models[entry.board] > 1 else entry.name,
        )
        for entry in entries
    ]


def _glue_line(key: tuple, settings: str, tasks: Mapping[str, BoardEntry]) -> GlueEntry:
    board, model, method = key[:3]
    scores = {task: entry.score for task, entry in tasks.items() if entry.score is not None}
    seeds = set.intersection(*(set(entry.by_seed) for entry in tasks.values()))
    averages = [glue_average({task: entry.by_seed[seed] for task, entry in tasks.items()}) for seed in seeds]
    whole = [average for average in averages if average is not None]
    spread = summarize(whole).spread if whole else None
    missing = [task for task in GLUE if task not in scores]
    return GlueEntry(board, method, model, settings, scores, glue_average(scores), spread, missing)
