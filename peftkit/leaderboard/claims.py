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
LOSS, SLOWER = 0.01, 1.1  # one point, ten percent: smaller differences do not matter
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


Setting = tuple[str, str, str, int]  # board, task, model, training examples: entries of one differ by their method


def small_data(entries: Sequence[BoardEntry], verdict: Verdict, results: Sequence[BoardRun]) -> Finding:
    """Compare adapters with full fine-tuning at every number of training examples (He et al. 2021, section 3.2)."""
    claim = "With few training examples adapters and LoRA beat full fine-tuning, and with more the lead shrinks."
    gaps = {setting: pick(found, ADAPTERS) for setting, found in gaps_to(REFERENCE, entries).items()}
    lines = [
        f"{_named(setting)}: {method} - full {gap}" for setting, found in gaps.items() for method, gap in found.items()
    ]
    leads, changes = [], []
    for sizes in _by(gaps, lambda setting: setting[:3]).values():
        least, most = gaps[min(sizes, key=_train)], gaps[max(sizes, key=_train)]
        if len(sizes) > 1 and (shared := least.keys() & most.keys()):
            leads.append(correlated_mean([least[method] for method in shared]))
            changes.append(correlated_mean([difference_of(least[method], most[method]) for method in shared]))
    if not leads:
        needs = "needs full and an adapter or lora at two or more numbers of training examples"
        return Finding(claim, lines, OPEN, f"{needs}; {_sizes(entries)}")
    lead, change = independent_mean(leads), independent_mean(changes)
    reason = f"with the fewest examples the lead is {lead}; with the most it is smaller by {change}"
    return Finding(claim, lines, _sign([lead, change]), reason)


def _sizes(entries: Sequence[BoardEntry]) -> str:
    """Describe at which numbers of training examples there are adapters and full fine-tuning."""
    known = [entry for entry in entries if entry.score is not None and entry.method in (REFERENCE, *ADAPTERS)]
    found = []
    for settings in _by(_by(known, _setting).items(), lambda item: item[0][:3]).values():
        sizes = []
        for setting, members in sorted(settings, key=lambda item: _train(item[0])):
            methods = sorted({entry.method for entry in members})
            alone = "" if REFERENCE in methods else " without full"
            sizes.append(f"{' and '.join(methods)} at {_train(setting):,}{alone}")
        found.append(f"{setting[1]}, {setting[2].split('/')[-1]} has {'; '.join(sizes)}")
    return "; ".join(found) or "the board has neither"


def prompt_scale(entries: Sequence[BoardEntry], verdict: Verdict, results: Sequence[BoardRun]) -> Finding:
    """Compare prompt tuning with full fine-tuning on models of several sizes (Lester et al. 2021, figure 1)."""
    claim = "Prompt tuning comes closer to full fine-tuning the larger the model is."
    gaps = {c: found["prompt"] for c, found in gaps_to(REFERENCE, entries).items() if "prompt" in found}
    known = {_setting(entry): entry for entry in entries}
    size = {setting: known[setting].costs.get("total_params", 0.0) for setting in gaps}
    lines = [f"{_named(setting)}, {size[setting] / 1e6:.0f} M: prompt - full {gap}" for setting, gap in gaps.items()]
    families = _by(
        gaps, lambda setting: (setting[0], setting[1], setting[3], known[setting].all_settings.get("model.family"))
    )
    ends = [sorted(settings, key=lambda setting: size[setting]) for settings in families.values() if len(settings) > 1]
    if not ends:
        return Finding(claim, lines, OPEN, "needs prompt and full on two or more sizes of one family of models")
    change = independent_mean([difference_of(gaps[settings[-1]], gaps[settings[0]]) for settings in ends])
    return Finding(claim, lines, _sign([change]), f"from the smallest to the largest the gap changes by {change}")


def lora_merge(entries: Sequence[BoardEntry], verdict: Verdict, results: Sequence[BoardRun]) -> Finding:
    """Compare the latency of merged LoRA with that of the fully fine-tuned model (Hu et al. 2022, section 4.1)."""
    claim = "LoRA merged into its base adds no latency."
    lines, ratios = [], []
    for name, text in (("latency_ms", "unmerged"), ("merged_latency_ms", "merged")):
        found = _log_ratios(results, name)
        spread = interval(found)
        if spread is not None:
            ratios = [math.exp(fmean(found)), *map(math.exp, spread)]
            lines.append("an example takes {:.3f} times as long (95 %: {:.3f} to {:.3f}) ".format(*ratios) + text)
    if len(lines) < 2:
        return Finding(claim, lines, OPEN, "needs lora and full on one machine, with two seeds or more")
    low, high = ratios[1:]
    outcome = SUPPORTED if high < SLOWER else REFUSED if low > SLOWER else OPEN
    return Finding(
        claim,
        lines,
        outcome,
        f"merged it takes {low:.2f} to {high:.2f} times as long; slower is above {SLOWER:g}",
    )


def quantization(entries: Sequence[BoardEntry], verdict: Verdict, results: Sequence[BoardRun]) -> Finding:
    """Compare LoRA on a 4-bit base with LoRA on the unquantized base (Dettmers et al. 2023, section 4)."""
    claim = "A base in 4 bits loses little: less than one point."
    gaps = {setting: found["qlora"] for setting, found in gaps_to("lora", entries).items() if "qlora" in found}
    lines = [f"{_named(setting)}: qlora - lora {gap}" for setting, gap in gaps.items()]
    if not gaps:
        return Finding(claim, lines, OPEN, "needs lora and qlora on one task")
    whole = independent_mean(list(gaps.values()))
    outcome = SUPPORTED if whole.low > -LOSS else REFUSED if whole.high < -LOSS else OPEN
    return Finding(claim, lines, outcome, f"on average {whole}")


def by_task(entries: Sequence[BoardEntry], verdict: Verdict, results: Sequence[BoardRun]) -> Finding:
    """Search for two methods of which each is better on another task."""
    claim = "Which method is better depends on the task."
    wins = {
        (_setting(better), better.method, worse.method)
        for better, worse in ((entries[c.first], entries[c.second]) for c in verdict.comparisons if c.differs)
        if _setting(better) == _setting(worse) and better.method != worse.method
    }
    turned = [
        f"{one} beats {other} on {first[1]}, {other} beats {one} on {second[1]}"
        for (first, one, other), (second, again, back) in combinations(sorted(wins), 2)
        if (one, other) == (back, again) and first[1] != second[1] and (first[0], first[2]) == (second[0], second[2])
    ]
    scored = [entry for entry in entries if entry.score is not None]
    best = [max(settings, key=lambda entry: entry.score or 0.0) for settings in _by(scored, _setting).values()]
    lines = [
        f"{_named(_setting(entry))}: highest mean {entry.method}, {100 * (entry.score or 0.0):.1f}" for entry in best
    ]
    if turned:
        return Finding(claim, lines, SUPPORTED, "; ".join(turned))
    return Finding(claim, lines, OPEN, "no two methods change places with both differences significant after Holm")


CLAIMS: dict[str, Callable[[Sequence[BoardEntry], Verdict, Sequence[BoardRun]], Finding]] = {
    "small_data": small_data, "prompt_scale": prompt_scale, "lora_merge": lora_merge, "quantization": quantization,
    "by_task": by_task,
}  # fmt: skip


def judge_claim(name: str, entries: Sequence[BoardEntry], verdict: Verdict, results: Sequence[BoardRun]) -> Finding:
    """Return the verdict on a claim; undecided where one method has several settings for the same task and model."""
    methods = Counter((_setting(entry), entry.method) for entry in entries if entry.score is not None)
    for (setting, method), count in methods.items():
        if count > 1:
            reason = f"there are {count} settings of {method} on {_named(setting)}; show the runs of only one"
            return Finding(CLAIMS[name]([], replace(verdict, comparisons=[]), []).claim, [], OPEN, reason)
    found = CLAIMS[name](entries, verdict, results)
    more = len(found.lines) - SHOWN
    lines = found.lines[:SHOWN] + ([f"... and {more} more"] if more > 0 else [])
    return Finding(found.claim, lines, found.verdict, found.reason)


def gaps_to(method: str, entries: Sequence[BoardEntry]) -> dict[Setting, dict[str, Gap]]:
    """Return the gap of every other method to `method`, for each setting that has it."""
    found: dict[Setting, dict[str, Gap]] = {}
    for setting, members in _by([entry for entry in entries if entry.score is not None], _setting).items():
        members = sorted(members, key=lambda entry: -(entry.score or 0.0))
        names = [entry.method for entry in members]
        if method not in names or len(names) < 2:
            continue
        (tests,) = contrast([cell_of(members)[0]])
        errors = reach(ALPHA, tests) * 2 / WIDTH
        for pair in np.flatnonzero(~np.isnan(tests.p)):
            first, second = names[tests.first[pair]], names[tests.second[pair]]
            if method in (first, second):
                sign = 1 if second == method else -1
                other = first if second == method else second
                found.setdefault(setting, {})[other] = Gap(sign * float(tests.difference[pair]), float(errors[pair]))
    return found


def pick(gaps: dict[str, Gap], methods: Iterable[str]) -> dict[str, Gap]:
    return {method: gaps[method] for method in methods if method in gaps}


def difference_of(one: Gap, other: Gap) -> Gap:
    """Return the difference of two gaps of independent runs."""
    return Gap(one.value - other.value, math.hypot(one.error, other.error))


def correlated_mean(gaps: Sequence[Gap]) -> Gap:
    """Return the mean of gaps that share an entry and its examples: their errors may be correlated."""
    return Gap(fmean(gap.value for gap in gaps), fmean(gap.error for gap in gaps))


def independent_mean(gaps: Sequence[Gap]) -> Gap:
    """Return the mean of gaps of independent runs on different tasks."""
    return Gap(fmean(gap.value for gap in gaps), math.hypot(*(gap.error for gap in gaps)) / len(gaps))


def _sign(gaps: Sequence[Gap]) -> str:
    """Return the verdict on the claim that all gaps are above zero."""
    if all(gap.low > 0 for gap in gaps):
        return SUPPORTED
    return REFUSED if any(gap.high < 0 for gap in gaps) else OPEN


def _log_ratios(results: Sequence[BoardRun], name: str) -> list[float]:
    """Return the logarithm of LoRA's latency over full fine-tuning's, of each task and seed on one machine."""
    finished = [r for r in results if r.problem is None]
    full = {_place(r): r.costs["latency_ms"] for r in finished if r.method == REFERENCE and "latency_ms" in r.costs}
    return [
        math.log(r.costs[name] / full[_place(r)])
        for r in finished
        if r.method == "lora" and name in r.costs and _place(r) in full
    ]


def _place(result: BoardRun) -> tuple:
    return result.source, result.task, result.model, result.device, result.seed, result.examples.get("train")


def _setting(entry: BoardEntry) -> Setting:
    return entry.board, entry.task, entry.model, entry.examples.get("train", 0)


def _train(setting: Setting) -> int:
    return setting[3]


def _named(setting: Setting) -> str:
    return f"{setting[1]}, {setting[2].split('/')[-1]}, {setting[3]:,} examples"


def _by(items: Iterable, key: Callable) -> dict:
    found: dict = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found
