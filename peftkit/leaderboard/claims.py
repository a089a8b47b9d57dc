"""Claims of papers about the methods, and whether a board's runs support them."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

import numpy as np

from peftkit.leaderboard.contrast import ALPHA, contrast, half_width
from peftkit.leaderboard.paired import sample_of
from peftkit.leaderboard.runs import BoardEntry, BoardRun, grouped
from peftkit.leaderboard.stats import REFERENCE
from peftkit.leaderboard.verdict import Verdict

SUPPORTED, REJECTED, INCONCLUSIVE = "supported", "rejected", "inconclusive"
MAX_LOSS, MAX_SLOWDOWN = 0.01, 1.1  # of a score, one point; of a latency, ten percent
ADAPTERS = ("adapter", "adapter_pfeiffer", "adapter_parallel", "lora")
TAIL = ALPHA / 2  # probability outside a 95 % interval, on each side
MAX_LINES = 40
Gap = NormalDist  # a difference of task scores, with its standard error over new seeds and examples
Evidence = tuple[list[str], str, str]  # lines with measurements, the verdict, and its reason


@dataclass(frozen=True)
class Finding:
    """A claim, lines with measurements, and the verdict with its reason."""

    claim: str
    lines: list[str]
    verdict: str
    reason: str


class Setting(NamedTuple):
    """The common part of entries that differ only in their method."""

    board: str
    task: str
    model: str
    train: int  # examples

    def __str__(self) -> str:
        return f"{self.task}, {self.model.split('/')[-1]}, {self.train:,} examples"


def small_data(entries: Sequence[BoardEntry], verdict: Verdict) -> Evidence:
    """Compare adapters with full fine-tuning at every number of training examples (He et al. 2021, section 3.2)."""
    gaps = {
        setting: {method: found[method] for method in ADAPTERS if method in found}
        for setting, found in gaps_to(REFERENCE, entries).items()
    }
    lines = [
        f"{setting}: {method} - full {_points(gap)}" for setting, found in gaps.items() for method, gap in found.items()
    ]
    advantages, changes = [], []
    for sizes in grouped(gaps, lambda setting: setting[:3]).values():
        ordered = sorted(sizes, key=lambda setting: setting.train)
        least, most = gaps[ordered[0]], gaps[ordered[-1]]
        if len(sizes) > 1 and (shared := least.keys() & most.keys()):
            advantages.append(mean_of([least[method] for method in shared], share_runs=True))
            changes.append(mean_of([least[method] - most[method] for method in shared], share_runs=True))
    if not advantages:
        needs = "needs full and an adapter or lora at two or more numbers of training examples"
        return lines, INCONCLUSIVE, f"{needs}; {_sizes(entries)}"
    advantage, change = mean_of(advantages), mean_of(changes)
    reason = f"with the fewest examples the advantage is {_points(advantage)}; with the most it is smaller by "
    return lines, _sign([advantage, change]), reason + _points(change)


def _sizes(entries: Sequence[BoardEntry]) -> str:
    """Describe at which numbers of training examples there are adapters and full fine-tuning."""
    known = [entry for entry in entries if entry.is_ranked and entry.method in (REFERENCE, *ADAPTERS)]
    found = []
    for settings in grouped(grouped(known, _setting).items(), lambda item: item[0][:3]).values():
        sizes = [
            f"{' and '.join(sorted({entry.method for entry in members}))} at {setting.train:,}"
            + ("" if any(entry.method == REFERENCE for entry in members) else " without full")
            for setting, members in sorted(settings, key=lambda item: item[0].train)
        ]
        _, task, model, _ = settings[0][0]
        found.append(f"{task}, {model.split('/')[-1]} has {'; '.join(sizes)}")
    return "; ".join(found) or "the board has neither"


def prompt_scale(entries: Sequence[BoardEntry], verdict: Verdict) -> Evidence:
    """Compare prompt tuning with full fine-tuning on models of several sizes (Lester et al. 2021, figure 1)."""
    gaps = {setting: found["prompt"] for setting, found in gaps_to(REFERENCE, entries).items() if "prompt" in found}
    known = {_setting(entry): entry for entry in entries}
    size = {setting: known[setting].costs.get("total_params", 0.0) for setting in gaps}
    lines = [f"{setting}, {size[setting] / 1e6:.0f} M: prompt - full {_points(gap)}" for setting, gap in gaps.items()]
    families = grouped(gaps, lambda each: (each._replace(model=""), known[each].all_settings.get("model.family")))
    by_size = [sorted(settings, key=size.__getitem__) for settings in families.values() if len(settings) > 1]
    if not by_size:
        return lines, INCONCLUSIVE, "needs prompt and full on two or more sizes of one family of models"
    change = mean_of([gaps[settings[-1]] - gaps[settings[0]] for settings in by_size])
    return lines, _sign([change]), f"from the smallest to the largest the gap changes by {_points(change)}"


def lora_merge(entries: Sequence[BoardEntry], verdict: Verdict) -> Evidence:
    """Compare the latency of merged LoRA with that of the fully fine-tuned model (Hu et al. 2022, section 4.1)."""
    lines, ratios = [], []
    for name, text in (("latency_ms", "unmerged"), ("merged_latency_ms", "merged")):
        found = _log_ratios(entries, name)
        if spread := _interval(found):
            ratios = [math.exp(each) for each in (fmean(found), *spread)]
            lines.append("an example takes {:.3f} times as long (95 %: {:.3f} to {:.3f}) ".format(*ratios) + text)
    if len(lines) < 2:
        return lines, INCONCLUSIVE, "needs lora and full on one machine, with two seeds or more"
    low, high = ratios[1:]
    outcome = SUPPORTED if high < MAX_SLOWDOWN else REJECTED if low > MAX_SLOWDOWN else INCONCLUSIVE
    return lines, outcome, f"merged it takes {low:.2f} to {high:.2f} times as long; slower is above {MAX_SLOWDOWN:g}"


def quantization(entries: Sequence[BoardEntry], verdict: Verdict) -> Evidence:
    """Compare LoRA on a 4-bit base with LoRA on the unquantized base (Dettmers et al. 2023, section 4)."""
    gaps = {setting: found["qlora"] for setting, found in gaps_to("lora", entries).items() if "qlora" in found}
    lines = [f"{setting}: qlora - lora {_points(gap)}" for setting, gap in gaps.items()]
    if not gaps:
        return lines, INCONCLUSIVE, "needs lora and qlora on one task"
    whole = mean_of(list(gaps.values()))
    return lines, _sign([whole + MAX_LOSS]), f"on average {_points(whole)}"


def by_task(entries: Sequence[BoardEntry], verdict: Verdict) -> Evidence:
    """Search for two methods whose order is reversed between two tasks."""
    wins = {
        (_setting(better), better.method, worse.method)
        for better, worse in ((entries[c.first], entries[c.second]) for c in verdict.comparisons if c.differs)
        if _setting(better) == _setting(worse) and better.method != worse.method
    }
    reversals = [
        f"{one} beats {other} on {first.task}, {other} beats {one} on {second.task}"
        for (first, one, other), (second, again, back) in combinations(sorted(wins), 2)
        if (one, other) == (back, again)
        and first.task != second.task
        and (first.board, first.model) == (second.board, second.model)
    ]
    scored = [entry for entry in entries if entry.is_ranked]
    best = {
        setting: max(members, key=lambda entry: entry.score or 0.0)
        for setting, members in grouped(scored, _setting).items()
    }
    lines = [
        f"{setting}: highest mean {entry.method}, {100 * (entry.score or 0.0):.1f}" for setting, entry in best.items()
    ]
    no_reversal = "no two methods change their order with both differences significant after Holm"
    return lines, SUPPORTED if reversals else INCONCLUSIVE, "; ".join(reversals) or no_reversal


CLAIMS: dict[str, tuple[str, Callable[[Sequence[BoardEntry], Verdict], Evidence]]] = {
    "small_data": (
        "With few training examples adapters and LoRA beat full fine-tuning, and with more the advantage shrinks.",
        small_data,
    ),
    "prompt_scale": ("Prompt tuning comes closer to full fine-tuning the larger the model is.", prompt_scale),
    "lora_merge": ("LoRA merged into its base adds no latency.", lora_merge),
    "quantization": ("A base in 4 bits loses little: less than one point.", quantization),
    "by_task": ("Which method is better depends on the task.", by_task),
}


def judge_claim(name: str, entries: Sequence[BoardEntry], verdict: Verdict) -> Finding:
    """Return the verdict on a claim; inconclusive where one method has several settings for the same task and model."""
    claim, measure = CLAIMS[name]
    methods = Counter((_setting(entry), entry.method) for entry in entries if entry.is_ranked)
    if several := [each for each in methods.items() if each[1] > 1]:
        (setting, method), count = several[0]
        reason = f"there are {count} settings of {method} on {setting}; show the runs of only one"
        return Finding(claim, [], INCONCLUSIVE, reason)
    lines, outcome, reason = measure(entries, verdict)
    more = [f"... and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
    return Finding(claim, lines[:MAX_LINES] + more, outcome, reason)


def gaps_to(method: str, entries: Sequence[BoardEntry]) -> dict[Setting, dict[str, Gap]]:
    """Return the gap of every other method to `method`, for each setting that has it."""
    found: dict[Setting, dict[str, Gap]] = {}
    for setting, members in grouped([entry for entry in entries if entry.is_ranked], _setting).items():
        members.sort(key=lambda entry: -(entry.score or 0.0))
        names = [entry.method for entry in members]
        if method not in names or len(names) < 2:
            continue
        (tests,) = contrast([sample_of(members)])
        errors = half_width(ALPHA, tests) / NormalDist().inv_cdf(1 - TAIL)
        for pair in np.flatnonzero(~np.isnan(tests.p)):
            first, second = names[tests.sample.first[pair]], names[tests.sample.second[pair]]
            sign, other = (1, first) if second == method else (-1, second)
            if method in (first, second):
                found.setdefault(setting, {})[other] = Gap(sign * float(tests.difference[pair]), float(errors[pair]))
    return found


def mean_of(gaps: Sequence[Gap], share_runs: bool = False) -> Gap:
    """Return the mean of gaps on different tasks, or of gaps that share runs: then their errors may be correlated."""
    if share_runs:
        return Gap(fmean(gap.mean for gap in gaps), fmean(gap.stdev for gap in gaps))
    return sum(gaps, Gap(0, 0)) / len(gaps)


def _points(gap: Gap) -> str:
    low, high = 100 * gap.inv_cdf(TAIL), 100 * gap.inv_cdf(1 - TAIL)
    return f"{100 * gap.mean:+.1f} points (95 %: {low:+.1f} to {high:+.1f})"


def _sign(gaps: Sequence[Gap]) -> str:
    """Return the verdict on the claim that all gaps are above zero."""
    if all(gap.cdf(0) < TAIL for gap in gaps):
        return SUPPORTED
    return REJECTED if any(gap.cdf(0) > 1 - TAIL for gap in gaps) else INCONCLUSIVE


def _log_ratios(entries: Sequence[BoardEntry], name: str) -> list[float]:
    """Return the logarithm of LoRA's latency over full fine-tuning's, of each task and seed on one machine."""
    finished = [run for entry in entries for run in entry.scored_runs]
    full = {_run_key(r): r.costs["latency_ms"] for r in finished if r.method == REFERENCE and "latency_ms" in r.costs}
    return [
        math.log(r.costs[name] / full[_run_key(r)])
        for r in finished
        if r.method == "lora" and name in r.costs and _run_key(r) in full
    ]


def _run_key(run: BoardRun) -> tuple:
    return run.source, run.task, run.model, run.device, run.seed, run.examples.get("train")


def _setting(entry: BoardEntry) -> Setting:
    return Setting(entry.board, entry.task, entry.model, entry.examples.get("train", 0))


def _interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean (Student's t), None for a single value."""
    from scipy.special import stdtrit

    if len(values) < 2:
        return None
    half = float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half
