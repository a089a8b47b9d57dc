"""Turn what judges said of runs into a table a judge: how often a row's answers were preferred to the references."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any

from peftkit.leaderboard.entries import BoardEntry
from peftkit.leaderboard.runs import BoardRun, UnreadableRun

WIN_RATE = "judge_win_rate"
JUDGE_NOTE = (
    "judge_win_rate: share of held-out rows in which the judge preferred the answer to the reference, in both orders, "
    "ties as half, times 100; ± is the sample standard deviation over seeds, the interval is over rows. Position bias: "
    "share of verdicts that turned with the order. Where more than half of a seed's replies hold no verdict, the rate "
    "is left out. The interval takes rows as independent; several rows of one instruction are not, "
    "and it is too narrow for them. Another judge is another scale."
)
READABLE = 0.5  # share of replies without a verdict above which a rate would be of ties that nobody gave
JudgeEntries = dict[str, list[dict[str, Any]]]  # id of a judge -> what it said of each seed


def judge_tables(
    rows: Sequence[BoardEntry], results: Iterable[BoardRun | UnreadableRun], title: str
) -> list[tuple[str, list[dict[str, str]]]]:
    """Return a heading and a line a row, the most preferred first, for each judge of a board; empty where none was."""
    told = _told(rows, results)
    names = _names(told)
    tables = []
    for judge, name in names.items():
        lines = []
        for row, each in zip(rows, told, strict=True):
            if row.board == title and (said := each.get(judge)):
                rate = _rate(said)
                lines.append((row.task, 1.0 if rate is None else -rate, _cells(row, said)))
        if lines:
            tables.append((f"Against the references, judged by {name}", [cells for *_, cells in _sorted(lines)]))
    return tables


def judge_columns(
    rows: Sequence[BoardEntry], results: Iterable[BoardRun | UnreadableRun]
) -> list[dict[str, float | None]]:
    """Return of each row its win rate by each judge, None where that judge did not see it, or said nothing."""
    told = _told(rows, results)
    names = _names(told)
    return [
        {f"{WIN_RATE} by {name}": _rate(each[judge]) if judge in each else None for judge, name in names.items()}
        for each in told
    ]


def _told(rows: Sequence[BoardEntry], results: Iterable[BoardRun | UnreadableRun]) -> list[JudgeEntries]:
    judged = {r.folder: r.judged for r in results if isinstance(r, BoardRun) and r.judged}
    found: list[JudgeEntries] = []
    for row in rows:
        here: JudgeEntries = {}
        for folder in row.folders.values():
            for judge, said in judged.get(folder, {}).items():
                if _is_whole(said):
                    here.setdefault(judge, []).append(said)
        found.append(here)
    return found


def _names(told: Sequence[JudgeEntries]) -> dict[str, str]:
    """Name each judge: by its id too, where another of its name was asked otherwise."""
    plain = {judge: _name(said[0]["judge"]) for each in told for judge, said in each.items()}
    often = list(plain.values())
    names = {judge: name if often.count(name) == 1 else f"{name} ({judge})" for judge, name in plain.items()}
    return dict(sorted(names.items(), key=lambda pair: (pair[1], pair[0])))


def _name(judge: dict[str, Any]) -> str:
    stands_in = judge.get("stands_in_for")
    return f"{judge['name']} (offline, in place of {stands_in})" if stands_in else str(judge["name"])


def _is_whole(said: Any) -> bool:
    """Tell whether an entry of a result of others has what is shown of it."""
    return (
        isinstance(said, dict)
        and isinstance(said.get("judge"), dict)
        and "name" in said["judge"]
        and all(isinstance(said.get(name), (int, float)) for name in ("win_rate", "rows", "of"))
        and isinstance(said.get("interval"), list)
        and len(said["interval"]) == 2
        and all(isinstance(end, (int, float)) for end in said["interval"])
    )


def _rate(said: Sequence[dict[str, Any]]) -> float | None:
    if any((each.get("unparsable_share") or 0) > READABLE for each in said):
        return None
    return fmean(each["win_rate"] for each in said)


def _cells(row: BoardEntry, said: Sequence[dict[str, Any]]) -> dict[str, str]:
    rates = [100 * each["win_rate"] for each in said]
    low, high = (100 * fmean(each["interval"][end] for each in said) for end in (0, 1))
    has_rate = _rate(said) is not None
    counts = sorted({f"{each['rows']} of {each['of']}" for each in said})
    return {
        "task": row.task,
        "model": row.model,
        "method": row.name,
        WIN_RATE: (f"{fmean(rates):.1f}" + (f" ± {stdev(rates):.1f}" if len(rates) > 1 else "")) if has_rate else "",
        "95 %": f"{low:.1f} to {high:.1f}" if has_rate else "",
        "position bias": _share(said, "position_bias"),
        "unparsable": _share(said, "unparsable_share"),
        "rows": " and ".join(counts),
        "seeds": str(len(said)),
    }


def _share(said: Sequence[dict[str, Any]], name: str) -> str:
    values = [each[name] for each in said if isinstance(each.get(name), (int, float))]
    return f"{fmean(values):.1%}" if values else ""


def _sorted(lines: list[tuple[str, float, dict[str, str]]]) -> list[tuple[str, float, dict[str, str]]]:
    return sorted(lines, key=lambda line: line[:2])
