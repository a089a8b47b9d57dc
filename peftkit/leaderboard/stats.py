"""Turn results into rows: seeds into a mean with its spread, tasks into GLUE's average."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from statistics import fmean, median_high, stdev
from typing import Any

from peftkit.leaderboard.costs import with_pscp, with_quality
from peftkit.leaderboard.entries import BoardEntry, GlueEntry, Summary
from peftkit.leaderboard.runs import COSTS, TIMED, BoardRun, UnreadableRun
from peftkit.metrics import METRICS

BESIDE = tuple(metric.name for metric in METRICS.values() if metric.diagnostic)  # reported beside a task's score
GLUE = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")  # AX is a diagnostic, not counted
REFERENCE = "full"  # the method that the others are held against
TASK_LIMITS = ("task.max_length", "task.max_train_samples", "task.max_eval_samples")  # mostly asked of all tasks alike


def summarize(values: Sequence[float]) -> Summary:
    return Summary(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean (Student's t), None for a single value; for the same examples, new seeds."""
    if len(values) < 2:
        return None
    half = _t_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


@cache
def _t_quantile(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


def task_score(scores: Mapping[str, Mapping[str, Any]]) -> float:
    """Return a task's one score, more is better: the plain mean of its metrics (GLUE, Wang et al. 2019, section 3.4).

    Metrics of which less is better have no place in that mean; where there are no others, theirs is returned negative.
    Nor have those that are told beside others.
    """
    counted = counting(scores)
    up = [scores[name]["value"] for name in counted if scores[name]["higher_is_better"]]
    return fmean(up) if up else -fmean(scores[name]["value"] for name in counted)


def counting(metrics: Iterable[str]) -> list[str]:
    """Return the metrics that are a task's score: a reward's margin grows with every step, and is told beside it."""
    names = list(metrics)
    return [name for name in names if not name.startswith(BESIDE)] or names


def glue_average(task_scores: Mapping[str, float]) -> float | None:
    """Return the macro-average over the nine tasks, or None where one is missing (GLUE, section 3.4)."""
    return None if missing_tasks(task_scores) else fmean(task_scores[task] for task in GLUE)


def missing_tasks(tasks: Iterable[str]) -> list[str]:
    there = set(tasks)
    return [task for task in GLUE if task not in there]


def board_entries(results: Iterable[BoardRun | UnreadableRun]) -> list[BoardEntry]:
    """Return one row a task, model, method and settings: real data first, then GLUE's order, then the best score."""
    readable = [result for result in results if isinstance(result, BoardRun)]
    titles = _titles(readable)
    # a run that failed early never counted its rows: it belongs to its siblings
    known = {r.group: r.examples for r in reversed(readable) if r.examples}
    groups: dict[tuple, list[BoardRun]] = {}
    for r in readable:
        rows = r.examples or known.get(r.group, {})
        groups.setdefault((*r.group, tuple(sorted(rows.items()))), []).append(replace(r, examples=rows))
    members = list(groups.values())
    full = [
        {**each[0].settings, **{f"examples.{name}": str(n) for name, n in each[0].examples.items()}} for each in members
    ]
    shown = _differences([(titles[r[0].source], r[0].task, r[0].model, r[0].method) for r in members], full)
    rows_ = [_row(titles[r[0].source], r, text, flat) for r, text, flat in zip(members, shown, full, strict=True)]
    order = {task: number for number, task in enumerate(GLUE)}
    return sorted(
        _with_plans(_with_composites(_with_deltas(rows_))),
        key=lambda r: (
            r.board.startswith("OFFLINE"), r.board, order.get(r.task, len(GLUE)), r.task, r.model,
            math.inf if r.score is None else -r.score, r.method, r.settings,
        ),
    )  # fmt: skip


def glue_table(results: Iterable[BoardRun | UnreadableRun]) -> list[GlueEntry]:
    """Return a line a method, model and settings that the tasks share, with GLUE's average where all nine are there."""
    return glue_entries(board_entries(results))


def glue_entries(rows: Iterable[BoardEntry]) -> list[GlueEntry]:
    """Return the same of rows that are made already.

    A limit of rows parts lines only where a task of the method has several: one task may have another than the rest.
    """
    lines: dict[tuple, dict[str, BoardEntry]] = {}
    chosen = [row for row in rows if row.suite == "glue" and row.task in GLUE and row.score is not None]
    limits: dict[tuple, set[tuple]] = {}
    for row in chosen:
        asked = tuple(row.all_settings.get(name) for name in TASK_LIMITS)
        limits.setdefault((row.board, row.model, row.method, row.task), set()).add(asked)
    limited = {key[:3] for key, asked in limits.items() if len(asked) > 1}
    for row in chosen:
        family = (row.board, row.model, row.method)
        shared = {
            n: v for n, v in row.all_settings.items() if _is_shared(n) and (n not in TASK_LIMITS or family in limited)
        }
        key: tuple = (*family, json.dumps(shared, sort_keys=True))
        if row.task in lines.get(key, {}):  # differs in what only this task has, such as its template
            key = (*key, row.settings)
        lines.setdefault(key, {})[row.task] = row
    families = [key[:3] for key in lines]
    shown = _differences(families, [json.loads(key[3]) for key in lines])
    found = [
        _glue_line(key, " ".join(filter(None, [text, *key[4:]])), tasks)
        for (key, tasks), text in zip(lines.items(), shown, strict=True)
    ]
    boards = list(dict.fromkeys(line.board for line in found))
    return sorted(found, key=lambda x: (boards.index(x.board), len(x.missing), -(x.average or 0), x.method, x.settings))


def _titles(results: Sequence[BoardRun]) -> dict[tuple, str]:
    found = {}
    for source in dict.fromkeys(result.source for result in results):
        suite, data, data_for, _ = source
        pairs = sorted(
            {(r.model, r.model_substituted_for) for r in results if r.source == source and r.model_substituted_for}
        )
        parts = [f"model {name} substitutes {asked}" for name, asked in pairs]
        parts += [f"data {data} substitutes {data_for}"] if data_for else []
        found[source] = "OFFLINE: " + ", ".join(parts) if parts else f"{suite}, data from {data}"
    return found


def _differences(families: Sequence[tuple], settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Tell the members of a family apart by the settings in which they differ, each named once."""
    shown = [""] * len(families)
    for family in set(families):
        here = [number for number, each in enumerate(families) if each == family]
        names = {name for number in here for name in settings[number]}
        columns = {name: tuple(settings[number].get(name, "null") for number in here) for name in sorted(names)}
        differing = {name: values for name, values in columns.items() if len(set(values)) > 1}
        if "model.name" in differing:  # its checkpoint and the rest follow
            differing = {n: v for n, v in differing.items() if n == "model.name" or not n.startswith("model.")}
        asked = {n: v for n, v in differing.items() if not n.startswith(("examples.", "sources."))}
        told_apart = len(set(zip(*asked.values(), strict=True))) == len(here)
        # a rate that is interpolated stands twice: the later name, train.learning_rate, is the one that was used
        once = {(n.split(".")[-1], v): n for n, v in (asked if told_apart else differing).items()}
        last = [name for name, _ in once]
        for place, number in enumerate(here):
            parts = []
            for (name, values), full in once.items():
                is_plain = last.count(name) == 1 and full.startswith(("train.", "method.", "task."))
                if values[place] != "null":  # a label has only settings that the entry has
                    parts.append(f"{name if is_plain else full}={values[place]}")
            shown[number] = " ".join(parts)
    return shown


def _row(title: str, members: list[BoardRun], settings: str, flat: dict[str, str]) -> BoardEntry:
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
        costs=_means(done, [cost for cost in COSTS if cost not in TIMED]),
        timed={
            d: _means([run for run in done if run.device == d], TIMED) for d in sorted({run.device for run in done})
        },
        all_settings=flat,
        interval=interval(list(by_seed.values())),
    )


def _means(results: Sequence[BoardRun], names: Iterable[str]) -> dict[str, float]:
    there = {name: [result.costs[name] for result in results if name in result.costs] for name in names}
    return {name: fmean(values) for name, values in there.items() if values}


def _with_deltas(rows: list[BoardEntry]) -> list[BoardEntry]:
    best: dict[tuple, BoardEntry] = {}
    for row in rows:
        if row.method == REFERENCE and row.score is not None:
            kept = best.setdefault(_cell(row), row)
            if row.score > (kept.score or 0):
                best[_cell(row)] = row
    out = []
    for row in rows:
        reference = best.get(_cell(row))
        if row is reference:
            row = replace(row, is_reference=True)
        elif reference is not None and row.score is not None:
            row = replace(row, delta=row.score - (reference.score or 0))
        out.append(row)
    return out


def _with_composites(rows: list[BoardEntry]) -> list[BoardEntry]:
    """Add the costs that are told against full fine-tuning on the same task, model and rows."""
    cells: dict[tuple, list[BoardEntry]] = {}
    for row in rows:
        cells.setdefault(_cell(row), []).append(row)
    found = []
    for members in cells.values():
        reference = next((row for row in members if row.is_reference), None)
        found += with_pscp(with_quality(members, reference), reference)
    return found


def _with_plans(rows: list[BoardEntry]) -> list[BoardEntry]:
    """Say how many seeds each row ought to have: as many as the task's middle row asked for, or as it did itself."""
    asked: dict[tuple, list[int]] = {}
    for row in rows:
        asked.setdefault((row.board, row.task), []).append(row.attempted)
    usual = {key: median_high(counts) for key, counts in asked.items()}
    return [replace(row, planned=max(row.attempted, usual[row.board, row.task])) for row in rows]


def _cell(row: BoardEntry) -> tuple:
    data = row.all_settings.get("sources.data.revision")
    return row.board, row.task, row.model, data, tuple(sorted(row.examples.items()))


def _is_shared(name: str) -> bool:
    return name in TASK_LIMITS or not name.startswith(("task.", "examples.", "sources.data."))


def _glue_line(key: tuple, settings: str, tasks: Mapping[str, BoardEntry]) -> GlueEntry:
    scores = {task: row.score for task, row in tasks.items() if row.score is not None}
    seeds = set.intersection(*(set(row.by_seed) for row in tasks.values()))
    averages = [glue_average({task: row.by_seed[seed] for task, row in tasks.items()}) for seed in seeds]
    whole = [average for average in averages if average is not None]
    spread = stdev(whole) if len(whole) > 1 else None
    return GlueEntry(key[0], key[2], key[1], settings, scores, glue_average(scores), spread, missing_tasks(scores))
