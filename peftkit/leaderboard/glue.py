"""GLUE's average over tasks, and its test against the average of the baselines."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist, fmean

import numpy as np

from peftkit.leaderboard.contrast import ALPHA, holm
from peftkit.leaderboard.runs import BoardEntry, GlueEntry
from peftkit.leaderboard.stats import GLUE, differing_settings, summarize
from peftkit.leaderboard.verdict import BETTER, NOT_BETTER, Comparison

TASK_LIMITS = ("task.max_length", "task.max_train_samples", "task.max_eval_samples")  # mostly equal for all tasks
CONSTANT = "majority class"  # name of the constant baselines of all tasks; of STS-B it is the mean


def glue_average(task_scores: Mapping[str, float]) -> float | None:
    """Return the macro-average over the nine tasks, or None where one is missing (GLUE, section 3.4)."""
    return fmean(task_scores[task] for task in GLUE) if task_scores.keys() >= set(GLUE) else None


def glue_entries(entries: Sequence[BoardEntry], against_baseline: Iterable[Comparison] = ()) -> list[GlueEntry]:
    """Return the GLUE table of these entries, baselines last.

    An average is tested against that of the constant baselines: the mean of the tasks' differences, with the standard
    error of independent tasks. Holm's correction is over the averages of a board.

    A limit of examples splits lines only where one task of the method has several: limits may differ between tasks.
    """
    tests = {comparison.first: comparison for comparison in against_baseline}
    chosen = {
        number: entry
        for number, entry in enumerate(entries)
        if entry.suite == "glue"
        and entry.task in GLUE
        and entry.score is not None
        and "task.folds" not in entry.all_settings  # those are scored on training examples
    }
    limits = {
        (e.board, e.model, e.method, e.task, tuple(e.all_settings.get(name) for name in TASK_LIMITS))
        for e in chosen.values()
    }
    limited = {key[:3] for key, count in Counter(each[:4] for each in limits).items() if count > 1}
    lines: dict[tuple, dict[str, int]] = {}
    for number, entry in chosen.items():
        family = (entry.board, entry.model, entry.method if entry.answer is None else CONSTANT)
        shared = {
            name: value
            for name, value in entry.all_settings.items()
            if (name in TASK_LIMITS and family in limited)
            or not name.startswith(("task.", "examples.", "sources.data."))
        }
        key: tuple = (*family, json.dumps(shared, sort_keys=True))
        if entry.task in lines.get(key, {}):  # differs only in a setting of this task, such as its template
            key = (*key, entry.settings)
        lines.setdefault(key, {})[entry.task] = number
    shown = differing_settings([key[:3] for key in lines], [json.loads(key[3]) for key in lines])
    table = [
        _glue_line(key, " ".join(filter(None, [text, *key[4:]])), {entries[n].task: entries[n] for n in tasks.values()})
        for (key, tasks), text in zip(lines.items(), shown, strict=True)
    ]
    found = [[tests[n] for n in tasks.values() if n in tests] for tasks in lines.values()]
    table = _with_outcomes(table, found)
    boards = list(dict.fromkeys(line.board for line in table))
    return sorted(
        table,
        key=lambda x: (
            boards.index(x.board), x.is_baseline, len(x.missing), -(x.average or 0), x.method, x.settings
        ),
    )  # fmt: skip


def _with_outcomes(lines: Sequence[GlueEntry], tests: Sequence[Sequence[Comparison]]) -> list[GlueEntry]:
    """Add whether each average is significantly better than that of the baselines, where all nine tasks were tested."""
    result = []
    complete = [len(each) == len(GLUE) and not line.missing for line, each in zip(lines, tests, strict=True)]
    for board in dict.fromkeys(line.board for line in lines):
        own = [n for n, line in enumerate(lines) if line.board == board and complete[n]]
        differences = {n: fmean(c.difference for c in tests[n]) for n in own}
        errors = {n: math.sqrt(sum(c.error**2 for c in tests[n])) / len(GLUE) for n in own}
        p = [2 * NormalDist().cdf(-abs(differences[n]) / max(errors[n], 1e-12)) for n in own]
        adjusted = dict(zip(own, holm(np.array(p)), strict=True))
        for n, line in enumerate(lines):
            if line.board == board:
                is_better = n in adjusted and adjusted[n] <= ALPHA and differences[n] > 0
                outcome = "" if n not in adjusted else BETTER if is_better else NOT_BETTER
                result.append(replace(line, against_baseline=outcome))
    return result


def _glue_line(key: tuple, settings: str, tasks: Mapping[str, BoardEntry]) -> GlueEntry:
    board, model, method = key[:3]
    first = next(iter(tasks.values()))
    scores = {task: entry.score for task, entry in tasks.items() if entry.score is not None}
    seeds = set.intersection(*(set(entry.by_seed) for entry in tasks.values()))
    averages = [glue_average({task: entry.by_seed[seed] for task, entry in tasks.items()}) for seed in seeds]
    whole = [average for average in averages if average is not None]
    spread = summarize(whole).spread if whole else None
    missing = [task for task in GLUE if task not in scores]
    return GlueEntry(
        board, method, model, settings, scores, glue_average(scores), spread, missing,
        model_label=first.model_label, is_baseline=first.is_baseline,
    )  # fmt: skip
