"""Win rates against the references, one table for each judge of a board."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from peftkit.leaderboard.entries import BoardEntry

WIN_RATE = "judge_win_rate"
JUDGE_NOTE = (
    "judge_win_rate: share of held-out examples in which the judge preferred the answer to the reference, in both "
    "orders, ties as half, times 100; ± is the sample standard deviation over seeds, the interval is over examples. "
    "Position bias: share of verdicts that changed with the order. Where more than half of a seed's replies have no "
    "verdict, the rate is left out. The interval takes examples as independent; several examples of one instruction "
    "are not, and it is too narrow for them. Rates of different judges are not comparable."
)
MAX_UNPARSABLE = 0.5  # share of replies without a verdict, which count as ties, above which there is no rate
Judgement = dict[str, Any]  # the judge.json of one seed
JudgementsByJudge = dict[str, list[Judgement]]  # by the id of the judge


def judge_tables(entries: Sequence[BoardEntry], title: str) -> list[tuple[str, list[dict[str, str]]]]:
    """Return a heading and a line per entry, highest win rate first, for each judge of the board `title`."""
    judgements = _judgements(entries)
    tables = []
    for judge, name in _names(judgements).items():
        lines = []
        for entry, by_judge in zip(entries, judgements, strict=True):
            if entry.board == title and (seeds := by_judge.get(judge)):
                rate = _rate(seeds)
                lines.append((entry.task, 1.0 if rate is None else -rate, _cells(entry, seeds)))
        if lines:
            lines.sort(key=lambda line: line[:2])
            tables.append((f"Against the references, judged by {name}", [cells for *_, cells in lines]))
    return tables


def judge_columns(entries: Sequence[BoardEntry]) -> list[dict[str, float | None]]:
    """Return the win rate of each entry by each judge; None without judgement or with too few verdicts."""
    judgements = _judgements(entries)
    names = _names(judgements)
    return [
        {
            f"{WIN_RATE} by {name}": _rate(by_judge[judge]) if judge in by_judge else None
            for judge, name in names.items()
        }
        for by_judge in judgements
    ]


def _judgements(entries: Sequence[BoardEntry]) -> list[JudgementsByJudge]:
    """Return the judgements of each entry's runs."""
    judgements: list[JudgementsByJudge] = []
    for entry in entries:
        by_judge: JudgementsByJudge = {}
        for run in entry.scored_runs:
            for judge, judgement in (run.judged or {}).items():
                if _is_complete(judgement):
                    by_judge.setdefault(judge, []).append(judgement)
        judgements.append(by_judge)
    return judgements


def _names(judgements: Sequence[JudgementsByJudge]) -> dict[str, str]:
    """Return the name of each judge, with its id where another judge of that name had other settings."""
    plain = {judge: _name(seeds[0]["judge"]) for by_judge in judgements for judge, seeds in by_judge.items()}
    all_names = list(plain.values())
    names = {judge: name if all_names.count(name) == 1 else f"{name} ({judge})" for judge, name in plain.items()}
    return dict(sorted(names.items(), key=lambda pair: (pair[1], pair[0])))


def _name(judge: dict[str, Any]) -> str:
    replaced = judge.get("stands_in_for")
    return f"{judge['name']} (offline, in place of {replaced})" if replaced else str(judge["name"])


def _is_complete(judgement: Any) -> bool:
    """Return whether a judgement, perhaps of another version, has every field that the table shows."""
    return (
        isinstance(judgement, dict)
        and isinstance(judgement.get("judge"), dict)
        and "name" in judgement["judge"]
        and all(isinstance(judgement.get(name), (int, float)) for name in ("win_rate", "rows", "of"))
        and isinstance(judgement.get("interval"), list)
        and len(judgement["interval"]) == 2
        and all(isinstance(end, (int, float)) for end in judgement["interval"])
    )


def _rate(seeds: Sequence[Judgement]) -> float | None:
    if any((seed.get("unparsable_share") or 0) > MAX_UNPARSABLE for seed in seeds):
        return None
    return fmean(seed["win_rate"] for seed in seeds)


def _cells(entry: BoardEntry, seeds: Sequence[Judgement]) -> dict[str, str]:
    rates = [100 * seed["win_rate"] for seed in seeds]
    low, high = (100 * fmean(seed["interval"][end] for seed in seeds) for end in (0, 1))
    has_rate = _rate(seeds) is not None
    counts = sorted({f"{seed['rows']} of {seed['of']}" for seed in seeds})
    return {
        "task": entry.task,
        "model": entry.model,
        "method": entry.name,
        WIN_RATE: (f"{fmean(rates):.1f}" + (f" ± {stdev(rates):.1f}" if len(rates) > 1 else "")) if has_rate else "",
        "95 %": f"{low:.1f} to {high:.1f}" if has_rate else "",
        "position bias": _mean_share(seeds, "position_bias"),
        "unparsable": _mean_share(seeds, "unparsable_share"),
        "examples": " and ".join(counts),
        "seeds": str(len(seeds)),
    }


def _mean_share(seeds: Sequence[Judgement], name: str) -> str:
    values = [seed[name] for seed in seeds if isinstance(seed.get(name), (int, float))]
    return f"{fmean(values):.1%}" if values else ""
