"""Win rates against the references, one table for each judge of a board."""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from peftkit.leaderboard.runs import BoardEntry

WIN_RATE = "judge_win_rate"
JUDGE_NOTE = (
    "judge_win_rate: share of held-out examples in which the judge preferred the answer to the reference, in both "
    "orders, ties as half, times 100; ± is the sample standard deviation over seeds, the interval is over examples. "
    "Position bias: share of verdicts that changed with the order. Where more than half of a seed's replies have no "
    "verdict, the rate is omitted. The interval assumes independent examples; where several examples share an "
    "instruction, it is too narrow. Rates of different judges are not comparable."
)
MAX_UNPARSABLE = 0.5  # share of replies without a verdict, which count as ties, above which there is no rate
Judgement = dict[str, Any]  # the judge.json of one seed


def judge_tables(entries: Sequence[BoardEntry], title: str) -> list[tuple[str, list[dict[str, str]]]]:
    """Return a heading and a line per entry, highest win rate first, for each judge of the board `title`."""
    tables = []
    for name, judgements in _by_judge(entries).items():
        pairs = zip(entries, judgements, strict=True)
        judged = [(entry, seeds) for entry, seeds in pairs if seeds and entry.board == title]
        judged.sort(key=lambda each: (each[0].task, _rate(each[1]) is None, -(_rate(each[1]) or 0)))
        if judged:
            tables.append((f"Against the references, judged by {name}", [_cells(*each) for each in judged]))
    return tables


def judge_columns(entries: Sequence[BoardEntry]) -> list[dict[str, float | None]]:
    """Return the win rate of each entry by each judge; None without judgement or with too few verdicts."""
    by_judge = _by_judge(entries)
    return [
        {f"{WIN_RATE} by {name}": _rate(judgements[index]) for name, judgements in by_judge.items()}
        for index in range(len(entries))
    ]


def _by_judge(entries: Sequence[BoardEntry]) -> dict[str, list[list[Judgement]]]:
    """Return the judgements of each entry's seeds by judge: its name, with its id where several have that name."""
    complete = [
        [{judge: each for judge, each in (run.judged or {}).items() if _is_complete(each)} for run in entry.scored_runs]
        for entry in entries
    ]
    names = {judge: _name(each["judge"]) for runs in complete for run in runs for judge, each in run.items()}
    counts = Counter(names.values())
    judges = sorted((name if counts[name] == 1 else f"{name} ({judge})", judge) for judge, name in names.items())
    return {name: [[run[judge] for run in runs if judge in run] for runs in complete] for name, judge in judges}


def _name(judge: dict[str, Any]) -> str:
    replaced = judge.get("stands_in_for")
    return f"{judge['name']} (offline, in place of {replaced})" if replaced else str(judge["name"])


def _is_complete(judgement: Any) -> bool:
    """Return whether a judgement, perhaps of another version, has every field that the table shows."""
    return (
        isinstance(judgement, dict)
        and isinstance(judgement.get("judge"), dict)
        and isinstance(judgement["judge"].get("name"), str)
        and all(isinstance(judgement.get(name), (int, float)) for name in ("win_rate", "rows", "of"))
        and isinstance(judgement.get("unparsable_share") or 0, (int, float))
        and isinstance(judgement.get("interval"), list)
        and len(judgement["interval"]) == 2
        and all(isinstance(end, (int, float)) for end in judgement["interval"])
    )


def _rate(seeds: Sequence[Judgement]) -> float | None:
    if not seeds or any((seed.get("unparsable_share") or 0) > MAX_UNPARSABLE for seed in seeds):
        return None
    return fmean(seed["win_rate"] for seed in seeds)


def _cells(entry: BoardEntry, seeds: Sequence[Judgement]) -> dict[str, str]:
    rates = [100 * seed["win_rate"] for seed in seeds]
    low, high = (100 * fmean(seed["interval"][end] for seed in seeds) for end in (0, 1))
    has_rate = _rate(seeds) is not None
    return {
        "task": entry.task,
        "model": entry.model,
        "method": entry.name,
        WIN_RATE: (f"{fmean(rates):.1f}" + (f" ± {stdev(rates):.1f}" if len(rates) > 1 else "")) if has_rate else "",
        "95 %": f"{low:.1f} to {high:.1f}" if has_rate else "",
        "position bias": _mean_share(seeds, "position_bias"),
        "unparsable": _mean_share(seeds, "unparsable_share"),
        "examples": " and ".join(sorted({f"{seed['rows']} of {seed['of']}" for seed in seeds})),
        "seeds": str(len(seeds)),
    }


def _mean_share(seeds: Sequence[Judgement], name: str) -> str:
    values = [seed[name] for seed in seeds if isinstance(seed.get(name), (int, float))]
    return f"{fmean(values):.1%}" if values else ""
