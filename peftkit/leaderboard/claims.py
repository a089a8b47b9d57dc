"""Claims of papers about the methods, and whether a board's runs support them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import NormalDist, fmean

import numpy as np

from peftkit.leaderboard.contrast import ALPHA, contrast, reach
from peftkit.leaderboard.entries import BoardEntry
from peftkit.leaderboard.paired import cell_of
from peftkit.leaderboard.runs import BoardRun
from peftkit.leaderboard.stats import REFERENCE, interval
from peftkit.leaderboard.verdict import Verdict

SUPPORTED, REFUSED, OPEN = "supported", "refused", "undecided"
LOSS, SLOWER = 0.01, 1.1  # one point, ten percent: less than that is little
ADAPTERS = ("adapter", "adapter_pfeiffer", "adapter_parallel", "lora")
WIDTH = 2 * NormalDist().inv_cdf(0.975)  # of a 95 % interval, in standard errors
SHOWN = 40  # lines


@dataclass(frozen=True)
class Finding:
    """A claim, the lines of what was measured, and the verdict with its reason."""

    claim: str
    lines: list[str]
    verdict: str
    reason: str


@dataclass(frozen=True)
class Gap:
    """A difference of task scores, with its standard error over new seeds and examples."""

    value: float
    error: float

    @property
    def low(self) -> float:
        return self.value - WIDTH / 2 * self.error

    @property
    def high(self) -> float:
        return self.value + WIDTH / 2 * self.error

    def __str__(self) -> str:
        return f"{100 * self.value:+.1f} points (95 %: {100 * self.low:+.1f} to {100 * self.high:+.1f})"


Cell = tuple[str, str, str, int]  # board, task, model, training rows: where two rows differ by their method


def small_data(rows: Sequence[BoardEntry], verdict: Verdict, results: Sequence[BoardRun]) -> Finding:
    """Hold adapters against full fine-tuning at every number of training rows (He et al. 2021, section 3.2)."""
    claim = "With few training rows adapters and LoRA beat full fine-tuning, and with more the lead shrinks."
    gaps = {cell: pick(found, ADAPTERS) for cell, found in gaps_to(REFERENCE, rows).items()}
    lines = [f"{_named(cell)}: {method} - full {gap}" for cell, found in gaps.items() for method, gap in found.items()]
    leads, changes = [], []
    for sizes in _by(gaps, lambda cell: cell[:3]).values():
        least, most = gaps[min(sizes, key=_train)], gaps[max(sizes, key=_train)]
        if len(sizes) > 1 and (there := least.keys() & most.keys()):
            leads.append(together([least[method] for method in there]))
            changes.append(together([minus(least[method], most[method]) for method in there]))
    if not leads:
        takes = "it takes full and an adapter or lora at two or more numbers of training rows"
        return Finding(claim, lines, OPEN, f"{takes}; {_sizes(rows)}")
    lead, change = apart(leads), apart(changes)
    reason = f"with the fewest rows the lead is {lead}; with the most it is smaller by {change}"
    return Finding(claim, lines, _sign([lead, change]), reason)


def _sizes(rows: Sequence[BoardEntry]) -> str:
    """Say at which numbers of training rows there are adapters and full fine-tuning."""
    known = [row for row in rows if row.score is not None and row.method in (REFERENCE, *ADAPTERS)]
    found = []
    for cells in _by(_by(known, _cell).items(), lambda item: item[0][:3]).values():
        sizes = []
        for cell, members in sorted(cells, key=lambda item: _train(item[0])):
            methods = sorted({row.method for row in members})
            alone = "" if REFERENCE in methods else " without full"
            sizes.append(f"{' and '.join(methods)} at {_train(cell):,}{alone}")
        found.append(f"{cell[1]}, {cell[2].split('/')[-1]} has {'; '.join(sizes)}")
    return "; ".join(found) or "there is neither"


def prompt_scale(rows: Sequence[BoardEntry], verdict: Verdict, results: Sequence[BoardRun]) -> Finding:
    """Hold prompt tuning against full fine-tuning on models of several sizes (Lester et al. 2021, figure 1)."""
    claim = "Prompt tuning comes closer to full fine-tuning the larger the model is."
    gaps = {c: found["prompt"] for c, found in gaps_to(REFERENCE, rows).items() if "prompt" in found}
    known = {_cell(row): row for row in rows}
    size = {cell: known[cell].costs.get("total_params", 0.0) for cell in gaps}
    lines = [f"{_named(cell)}, {size[cell] / 1e6:.0f} M: prompt - full {gap}" for cell, gap in gaps.items()]
    families = _by(gaps, lambda cell: (cell[0], cell[1], cell[3], known[cell].all_settings.get("model.family")))
    ends = [sorted(cells, key=lambda cell: size[cell]) for cells in families.values() if len(cells) > 1]
    if not ends:
        return Finding(claim, lines, OPEN, "it takes prompt and full on two or more sizes of one family of models")
    change = apart([minus(gaps[cells[-1]], gaps[cells[0]]) for cells in ends])
    return Finding(claim, lines, _sign([change]), f"from the smallest to the largest the gap moves by {change}")


def lora_merge(rows: Sequence[BoardEntry], verdict: Verdict, results: Sequence[BoardRun]) -> Finding:
    """Hold the latency of merged LoRA against that of the model fully fine-tuned (Hu et al. 2022, section 4.1)."""
    claim = "Merged into its base, LoRA costs no time."
    lines, ratios = [], []
    for name, text in (("latency_ms", "beside its base"), ("merged_latency_ms", "merged")):
        found = _log_ratios(results, name)
        spread = interval(found)
        if spread is not None:
            ratios = [math.exp(fmean(found)), *map(math.exp, spread)]
            lines.append("a row takes {:.3f} times as long (95 %: {:.3f} to {:.3f}) ".format(*ratios) + text)
    if len(lines) < 2:
        return Finding(claim, lines, OPEN, "it takes lora and full on one machine, with two seeds or more")
    low, high = ratios[1:]
    told = SUPPORTED if high < SLOWER else REFUSED if low > SLOWER else OPEN
    return Finding(
        claim, lines, told, f"a tenth more time is what would count: merged it takes {low:.2f} to {high:.2f} times"
    )


def quantization(rows: Sequence[BoardEntry], verdict: Verdict, results: Sequence[BoardRun]) -> Finding:
    """Hold LoRA over a 4-bit base against LoRA over the whole one (Dettmers et al. 2023, section 4)."""
    claim = "A base in 4 bits loses little: less than one point."
    gaps = {cell: found["qlora"] for cell, found in gaps_to("lora", rows).items() if "qlora" in found}
    lines = [f"{_named(cell)}: qlora - lora {gap}" for cell, gap in gaps.items()]
    if not gaps:
        return Finding(claim, lines, OPEN, "it takes lora and qlora on one task")
    whole = apart(list(gaps.values()))
    told = SUPPORTED if whole.low > -LOSS else REFUSED if whole.high < -LOSS else OPEN
    return Finding(claim, lines, told, f"on average {whole}")


def by_task(rows: Sequence[BoardEntry], verdict: Verdict, results: Sequence[BoardRun]) -> Finding:
    """Look for two methods of which one is better on one task, and the other on another."""
    claim = "Which method is better depends on the task."
    wins = {
        (_cell(rows[c.first]), rows[c.first].method, rows[c.second].method)
        for c in verdict.comparisons
        if c.differs and _cell(rows[c.first]) == _cell(rows[c.second]) and rows[c.first].method != rows[c.second].method
    }
    turned = [
        f"{one} beats {other} on {first[1]}, {other} beats {one} on {second[1]}"
        for (first, one, other), (second, again, back) in combinations(sorted(wins), 2)
        if (one, other) == (back, again) and first[1] != second[1] and (first[0], first[2]) == (second[0], second[2])
    ]
    scored = [row for row in rows if row.score is not None]
    best = [max(cells, key=lambda row: row.score or 0.0) for cells in _by(scored, _cell).values()]
    lines = [f"{_named(_cell(row))}: highest mean {row.method}, {100 * (row.score or 0.0):.1f}" for row in best]
    if turned:
        return Finding(claim, lines, SUPPORTED, "; ".join(turned))
    return Finding(claim, lines, OPEN, "no two methods change places so that both differences stand after Holm")


CLAIMS: dict[str, Callable[[Sequence[BoardEntry], Verdict, Sequence[BoardRun]], Finding]] = {
    "small_data": small_data, "prompt_scale": prompt_scale, "lora_merge": lora_merge, "quantization": quantization,
    "by_task": by_task,
}  # fmt: skip


def judge_claim(name: str, rows: Sequence[BoardEntry], verdict: Verdict, results: Sequence[BoardRun]) -> Finding:
    """Return what becomes of a claim; several settings of one method in one place leave open which of them is meant."""
    methods = Counter((_cell(row), row.method) for row in rows if row.score is not None)
    for (cell, method), count in methods.items():
        if count > 1:
            reason = f"there are {count} settings of {method} on {_named(cell)}; show the runs of one alone"
            return Finding(CLAIMS[name]([], replace(verdict, comparisons=[]), []).claim, [], OPEN, reason)
    found = CLAIMS[name](rows, verdict, results)
    more = len(found.lines) - SHOWN
    lines = found.lines[:SHOWN] + ([f"... and {more} more"] if more > 0 else [])
    return Finding(found.claim, lines, found.verdict, found.reason)


def gaps_to(method: str, rows: Sequence[BoardEntry]) -> dict[Cell, dict[str, Gap]]:
    """Return of each cell that has `method` what lies between every other method and it."""
    found: dict[Cell, dict[str, Gap]] = {}
    for cell, members in _by([row for row in rows if row.score is not None], _cell).items():
        members = sorted(members, key=lambda row: -(row.score or 0.0))
        names = [row.method for row in members]
        if method not in names or len(names) < 2:
            continue
        (tests,) = contrast([cell_of(members)[0]])
        errors = reach(ALPHA, tests) * 2 / WIDTH
        for pair in np.flatnonzero(~np.isnan(tests.p)):
            first, second = names[tests.first[pair]], names[tests.second[pair]]
            if method in (first, second):
                sign = 1 if second == method else -1
                other = first if second == method else second
                found.setdefault(cell, {})[other] = Gap(sign * float(tests.difference[pair]), float(errors[pair]))
    return found


def pick(gaps: dict[str, Gap], methods: Iterable[str]) -> dict[str, Gap]:
    return {method: gaps[method] for method in methods if method in gaps}


def minus(one: Gap, other: Gap) -> Gap:
    """Return how much larger one gap is than another of other runs."""
    return Gap(one.value - other.value, math.hypot(one.error, other.error))


def together(gaps: Sequence[Gap]) -> Gap:
    """Return the mean of gaps that share a row and its examples: they may all err alike."""
    return Gap(fmean(gap.value for gap in gaps), fmean(gap.error for gap in gaps))


def apart(gaps: Sequence[Gap]) -> Gap:
    """Return the mean of gaps of other runs on other tasks."""
    return Gap(fmean(gap.value for gap in gaps), math.hypot(*(gap.error for gap in gaps)) / len(gaps))


def _sign(gaps: Sequence[Gap]) -> str:
    """Return what becomes of a claim that all of these are above zero."""
    if all(gap.low > 0 for gap in gaps):
        return SUPPORTED
    return REFUSED if any(gap.high < 0 for gap in gaps) else OPEN


def _log_ratios(results: Sequence[BoardRun], name: str) -> list[float]:
    """Return the logarithm of LoRA's latency over full fine-tuning's, of each task and seed on one machine."""
    there = [r for r in results if r.problem is None]
    full = {_place(r): r.costs["latency_ms"] for r in there if r.method == REFERENCE and "latency_ms" in r.costs}
    return [
        math.log(r.costs[name] / full[_place(r)])
        for r in there
        if r.method == "lora" and name in r.costs and _place(r) in full
    ]


def _place(result: BoardRun) -> tuple:
    return result.source, result.task, result.model, result.device, result.seed, result.examples.get("train")


def _cell(row: BoardEntry) -> Cell:
    return row.board, row.task, row.model, row.examples.get("train", 0)


def _train(cell: Cell) -> int:
    return cell[3]


def _named(cell: Cell) -> str:
    return f"{cell[1]}, {cell[2].split('/')[-1]}, {cell[3]:,} rows"


def _by(items: Iterable, key: Callable) -> dict:
    found: dict = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found
