"""Turn results into what the lectures claim of the methods: what was measured, and how far it bears the claim out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

from peftkit.leaderboard import Result
from peftkit.leaderboard.stats import REFERENCE, Row, interval
from peftkit.leaderboard.verdict import Verdict

HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"
LOSS, SLOWER = 0.01, 1.1  # one point, ten percent: less than that is little
WIDTH = 2 * NormalDist().inv_cdf(0.975)  # of a 95 % interval, in standard errors


@dataclass(frozen=True)
class Finding:
    """A claim, the lines of what was measured, and the verdict with its reason."""

    claim: str
    lines: list[str]
    verdict: str
    reason: str


@dataclass(frozen=True)
class Gap:
    """A difference of two rows' task scores, with its 95 % interval over new seeds and examples."""

    value: float
    low: float
    high: float

    @property
    def error(self) -> float:
        return (self.high - self.low) / WIDTH

    def __str__(self) -> str:
        return f"{100 * self.value:+.1f} points (95 %: {100 * self.low:+.1f} to {100 * self.high:+.1f})"


def small_data(rows: Sequence[Row], verdict: Verdict, results: Sequence[Result]) -> Finding:
    """Hold each method against full fine-tuning at every number of training rows (He et al. 2021, section 3.2)."""
    gaps = gaps_to(REFERENCE, rows, verdict)
    sizes = sorted({row.rows["train"] for row, _, _ in gaps})
    lines = [f"{row.task}, {row.rows['train']} rows: {row.method} - full {gap}" for row, _, gap in _by_size(gaps)]
    claim = "With few training rows adapters beat full fine-tuning; with many they do not."
    if len(sizes) < 2:
        return Finding(claim, lines, OPEN, "it takes full and another method at two or more numbers of training rows")
    least = {(row.task, row.method): gap for row, _, gap in gaps if row.rows["train"] == sizes[0]}
    most = {(row.task, row.method): gap for row, _, gap in gaps if row.rows["train"] == sizes[-1]}
    shrinks = [difference(least[key], most[key]) for key in least.keys() & most.keys()]
    return _told(
        claim, lines, shrinks, f"the lead over full, {sizes[0]} rows against {sizes[-1]}", list(least.values())
    )


def prompt_scale(rows: Sequence[Row], verdict: Verdict, results: Sequence[Result]) -> Finding:
    """Hold prompt tuning against full fine-tuning on models of several sizes (Lester et al. 2021, figure 1)."""
    gaps = [each for each in gaps_to(REFERENCE, rows, verdict) if each[0].method == "prompt"]
    gaps = sorted(gaps, key=lambda each: (each[0].task, each[0].costs.get("total_params", 0)))
    lines = [f"{row.task}, {row.costs.get('total_params', 0) / 1e6:.0f} M: prompt - full {gap}" for row, _, gap in gaps]
    claim = "Prompt tuning comes closer to full fine-tuning the larger the model is."
    if len({row.model for row, _, _ in gaps}) < 2:
        return Finding(claim, lines, OPEN, "it takes prompt and full on two or more sizes of one family of models")
    tasks = {row.task for row, _, _ in gaps}
    ends = [[gap for row, _, gap in gaps if row.task == task] for task in sorted(tasks)]
    return _told(
        claim, lines, [difference(each[-1], each[0]) for each in ends], "what the largest gains on the smallest"
    )


def lora_merge(rows: Sequence[Row], verdict: Verdict, results: Sequence[Result]) -> Finding:
    """Hold the latency of merged LoRA against that of the model fully fine-tuned (Hu et al. 2022, section 4.1)."""
    claim = "Merged into its base, LoRA costs no time."
    lines, ratios = [], []
    for name, text in (("latency_ms", "beside its base"), ("merged_latency_ms", "merged")):
        found = _log_ratios(results, name)
        spread = interval(found)
        if spread is not None:
            ratios = [math.exp(sum(found) / len(found)), *map(math.exp, spread)]
            lines.append("a row takes {:.3f} times as long (95 %: {:.3f} to {:.3f}) ".format(*ratios) + text)
    if len(lines) < 2:
        return Finding(claim, lines, OPEN, "it takes lora and full on one machine, with two seeds or more")
    low, high = ratios[1:]
    if high < SLOWER:
        return Finding(claim, lines, HOLDS, f"merged, it takes at most {100 * (high - 1):+.1f} % longer")
    return Finding(
        claim,
        lines,
        FAILS if low > SLOWER else OPEN,
        f"ten percent more lie {'below' if low > SLOWER else 'in'} the interval",
    )


def quantization(rows: Sequence[Row], verdict: Verdict, results: Sequence[Result]) -> Finding:
    """Hold LoRA over a 4-bit base against LoRA over the whole one (Dettmers et al. 2023, section 4)."""
    gaps = [each for each in gaps_to("lora", rows, verdict) if each[0].method == "qlora"]
    lines = [f"{row.task}: qlora - lora {gap}" for row, _, gap in gaps]
    claim = "A base in 4 bits loses little: less than one point."
    if not gaps:
        return Finding(claim, lines, OPEN, "it takes lora and qlora on one task")
    whole = _mean([gap for _, _, gap in gaps])
    reason = f"over {len(gaps)} tasks: {whole}"
    return Finding(claim, lines, HOLDS if whole.low > -LOSS else FAILS if whole.high < -LOSS else OPEN, reason)


def by_task(rows: Sequence[Row], verdict: Verdict, results: Sequence[Result]) -> Finding:
    """Look for two methods of which one is better on one task, and the other on another."""
    wins = {(rows[c.first].task, rows[c.first].method, rows[c.second].method) for c in verdict.comparisons if c.differs}
    tasks = sorted({row.task for row in rows})
    turned = [
        f"{one} beats {other} on {first}, {other} beats {one} on {second}"
        for first, second in combinations(tasks, 2)
        for task, one, other in sorted(wins)
        if task == first and (second, other, one) in wins
    ]
    best = [
        max((row for row in rows if row.task == task and row.score is not None), key=_score, default=None)
        for task in tasks
    ]
    lines = [f"{row.task}: highest mean {row.method}, {100 * (row.score or 0):.1f}" for row in best if row is not None]
    claim = "Which method is better depends on the task."
    if turned:
        return Finding(claim, lines, HOLDS, "; ".join(turned))
    return Finding(claim, lines, OPEN, "no two methods change places so that both differences stand after Holm")


CLAIMS: dict[str, Callable[[Sequence[Row], Verdict, Sequence[Result]], Finding]] = {
    "small_data": small_data, "prompt_scale": prompt_scale, "lora_merge": lora_merge, "quantization": quantization,
    "by_task": by_task,
}  # fmt: skip


def gaps_to(method: str, rows: Sequence[Row], verdict: Verdict) -> list[tuple[Row, Row, Gap]]:
    """Return each row, the row of `method` on the same task, model and training rows, and what lies between them."""
    found = []
    for c in verdict.comparisons:
        gap = Gap(c.difference, c.low, c.high)
        for one, other, each in (
            (rows[c.first], rows[c.second], gap),
            (rows[c.second], rows[c.first], Gap(-gap.value, -gap.high, -gap.low)),
        ):
            if other.method == method != one.method and _cell(one) == _cell(other):
                found.append((one, other, each))
    return sorted(found, key=lambda each: (each[0].task, each[0].method))


def difference(one: Gap, other: Gap) -> Gap:
    """Return how much larger one gap is than another, as if they were independent."""
    return _gap(one.value - other.value, math.hypot(one.error, other.error))


def _gap(value: float, error: float) -> Gap:
    return Gap(value, value - WIDTH / 2 * error, value + WIDTH / 2 * error)


def _mean(gaps: Sequence[Gap]) -> Gap:
    return _gap(sum(gap.value for gap in gaps) / len(gaps), math.hypot(*(gap.error for gap in gaps)) / len(gaps))


def _told(claim: str, lines: list[str], changes: list[Gap], what: str, leads: Sequence[Gap] | None = None) -> Finding:
    """Return the verdict on a change that is claimed to be positive, and on a lead that is claimed as well."""
    if not changes:
        return Finding(claim, lines, OPEN, "no method is there at both ends")
    change = _mean(changes)
    gaps = [change] if leads is None else [change, _mean(leads)]
    holds, fails = all(gap.low > 0 for gap in gaps), any(gap.high < 0 for gap in gaps)
    reason = f"{what}: {change}" + (f"; the lead itself: {gaps[1]}" if len(gaps) > 1 else "")
    return Finding(claim, lines, HOLDS if holds else FAILS if fails else OPEN, reason)


def _log_ratios(results: Sequence[Result], name: str) -> list[float]:
    """Return the logarithm of LoRA's cost over full fine-tuning's latency, of each task and seed on one machine."""
    full = {_place(r): r.costs["latency_ms"] for r in results if r.method == REFERENCE and "latency_ms" in r.costs}
    return [
        math.log(r.costs[name] / full[_place(r)])
        for r in results
        if r.method == "lora" and name in r.costs and _place(r) in full
    ]


def _place(result: Result) -> tuple:
    return result.task, result.model, result.device, result.seed, result.rows.get("train")


def _cell(row: Row) -> tuple:
    return row.board, row.task, row.model, row.rows.get("train")


def _by_size(gaps: list[tuple[Row, Row, Gap]]) -> list[tuple[Row, Row, Gap]]:
    return sorted(gaps, key=lambda each: (each[0].task, each[0].rows["train"], each[0].method))


def _score(row: Row) -> float:
    return row.score or 0.0
