"""Scores by domain on a board: the worst domain and the mean, also of domains that were left out in turn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from peftkit.leaderboard.rendering import figure
from peftkit.leaderboard.runs import BoardEntry, BoardRun, Summary, grouped
from peftkit.leaderboard.stats import summarize, task_score

NOTE = (
    "Scores of the task in each domain, lowest first, with the number of examples; ± is the sample standard deviation "
    "over seeds. The worst domain is that of each seed. Of domains that were left out in turn, the last line of a "
    "method has all, each scored by the runs that did not train on it."
)
SHOWN = 12  # domains of an entry, the lowest
LEFT_OUT = "domains.leave_out"


@dataclass(frozen=True)
class DomainSummary:
    """The scores of an entry by domain, higher is better: over seeds the worst, the mean of all, and each."""

    worst: Summary
    average: Summary
    each: dict[str, Summary]
    examples: dict[str, int]


def domain_summary(entries: Sequence[BoardEntry]) -> DomainSummary | None:
    """Return the scores by domain of one entry, or of several that scored different domains; None without any."""
    by_seed: dict[int, dict[str, float]] = {}
    examples: dict[str, int] = {}
    for entry in entries:
        for run in entry.scored_runs:
            scores = _scores(run)
            by_seed.setdefault(run.seed, {}).update(scores)
            examples |= {name: run.domains["scores"][name]["examples"] for name in scores} if run.domains else {}
    complete = [scores for scores in by_seed.values() if scores and scores.keys() == examples.keys()]
    if not complete:
        return None
    return DomainSummary(
        summarize([min(scores.values()) for scores in complete]),
        summarize([fmean(scores.values()) for scores in complete]),
        {name: summarize([scores[name] for scores in complete]) for name in examples},
        examples,
    )


def _scores(run: BoardRun) -> dict[str, float]:
    """Return the task's score in each domain of a run that has all metrics of the run."""
    found: Mapping[str, Mapping[str, Mapping[str, float]]] = (run.domains or {}).get("scores") or {}
    return {
        name: task_score({metric: {**entry, "value": each["scores"][metric]} for metric, entry in run.scores.items()})
        for name, each in found.items()
        if each["scores"].keys() >= run.scores.keys()
    }


def domain_cells(entries: Sequence[BoardEntry], title: str) -> list[dict[str, str]]:
    """Return a line for each entry with scores by domain, and for each method whose domains were left out in turn."""
    of_board = [entry for entry in entries if entry.board == title and not entry.is_baseline]
    lines = []
    for members in grouped(of_board, _without_left_out).values():
        lines += [_cells(entry.name, [entry]) for entry in members]
        left_out = {entry.all_settings.get(LEFT_OUT) for entry in members} - {None, "all"}
        if len(left_out) > 1:
            name = " ".join(part for part in members[0].name.split() if "leave_out=" not in part)
            lines.append(_cells(f"{name}, {len(left_out)} domains left out in turn", members))
    return [line for line in lines if line]


def _without_left_out(entry: BoardEntry) -> tuple:
    """Return what is equal for entries that differ in the domain that is left out, if any."""
    left_out = entry.all_settings.get(LEFT_OUT)
    settings = {
        name: value
        for name, value in entry.all_settings.items()
        if name != LEFT_OUT and not (name.startswith("examples.") and left_out)
    }
    return entry.task, entry.model, entry.method, left_out in (None, "all") and left_out, *sorted(settings.items())


def _cells(name: str, entries: Sequence[BoardEntry]) -> dict[str, str]:
    found = domain_summary(entries)
    if found is None:
        return {}
    order = sorted(found.each, key=lambda each: found.each[each].mean)
    shown = [f"{each} {figure(entries[0], found.each[each].mean)} ({found.examples[each]:,})" for each in order[:SHOWN]]
    return {
        "task": entries[0].task,
        "method": name,
        "model": entries[0].model_label,
        "worst domain": _text(entries[0], found.worst),
        "average": _text(entries[0], found.average),
        "domains": ", ".join(shown) + (", ..." if len(order) > SHOWN else ""),
        "seeds": str(len(entries[0].seeds)),
    }


def _text(entry: BoardEntry, summary: Summary) -> str:
    spread = "" if summary.spread is None else f" ± {figure(entry, summary.spread)}"
    return figure(entry, summary.mean) + spread
