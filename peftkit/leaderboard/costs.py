"""The costs of a run with their names and units, and two costs relative to full fine-tuning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from peftkit.leaderboard.runs import BoardEntry

TARGET_QUALITY = 0.95  # of the score of full fine-tuning on the held-out training examples


@dataclass(frozen=True)
class Cost:
    """A cost, with how it is named and formatted."""

    label: str  # on the page
    unit: str = ""  # B, s, ms, % (of a share), or empty for a count
    heading: str = ""  # in the terminal and in Markdown; costs without one are not shown there
    is_timed: bool = True  # comparable only on the same machine
    higher_is_better: bool = False

    def text(self, value: float) -> str:
        """Return a value in the terminal and in Markdown."""
        if self.unit == "ms":
            return f"{value:.3g} ms"
        if self.unit != "s":
            return amount(value, self.unit)
        if value < 120:
            return f"{value:.0f} s"
        return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


COSTS = {  # by the name in result.json and in the CSV file, in the order of columns; the last two are computed here
    "trainable_params": Cost("Trained parameters", heading="trained parameters", is_timed=False),
    "head_params": Cost("Head parameters", heading="head parameters", is_timed=False),
    "total_params": Cost("All parameters", is_timed=False),
    "adapter_bytes": Cost("Checkpoint size", "B", "checkpoint size", is_timed=False),
    "padding_waste": Cost("Padding", "%", is_timed=False),
    "train_seconds": Cost("Training time", "s", "training time"),
    "train_peak_bytes": Cost("Peak memory", "B", "peak memory"),
    "tokens_per_second": Cost("Tokens per second", heading="tokens/s", higher_is_better=True),
    "latency_ms": Cost("Latency per example", "ms", "latency per example"),
    "merged_latency_ms": Cost("Latency per example, merged", "ms", "merged latency"),
    "train_reserved_bytes": Cost("Reserved GPU memory", "B"),
    "eval_seconds": Cost("Evaluation time", "s"),
    "eval_peak_bytes": Cost("Peak memory, evaluation", "B"),
    "seconds_to_quality": Cost("Time to 95 % of full", "s", "time to 95 %"),
    "pscp": Cost("PSCP", higher_is_better=True),
}
TIMED = [name for name, cost in COSTS.items() if cost.is_timed]
UNTIMED = [name for name, cost in COSTS.items() if not cost.is_timed]


def amount(value: float, unit: str = "") -> str:
    """Format a count or bytes with three digits: 338 k, 22.7 MB."""
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:{'.3g' if value < 99.5 * size else '.0f'}} {prefix}{unit}"
    return f"{value:.3g} {unit}".strip()


def with_relative_costs(entries: Sequence[BoardEntry], reference: BoardEntry | None) -> list[BoardEntry]:
    """Add seconds_to_quality and pscp, on each machine; neither where a lower score is better for any entry.

    seconds_to_quality: training time until the chosen trial scored 95 % of the reference's last score. The curve is
    the trial's, scored after each epoch on held-out training examples; the seconds are those of the entry's own
    training. It is missing if that score is never reached or there is no curve. Without a reference the best entry
    replaces it.

    pscp: the score, divided by 1 + cost / constant for each of three costs (PEFT Soft Cost Penalties, Belanec et
    al. 2025). The formula is the paper's with all exponents 1. The constants are peftkit's and relative, for models of
    any size: all parameters of the model for the trained ones, and full fine-tuning's latency and peak memory on the
    same machine.
    The value of full fine-tuning is therefore an eighth of its score; without it there are no constants.

    Args:
        entries: those of one task, model and training split.
    """
    if not all(all(entry.higher_is_better.values()) for entry in entries):
        return list(entries)  # ratios of errors are meaningless
    last = [entry.curve[-1][1] for entry in (entries if reference is None else [reference]) if entry.curve]
    level = TARGET_QUALITY * max(last, default=0.0)
    full = reference.timed if reference is not None else {}
    result = []
    for entry in entries:
        share = next((share for share, score in entry.curve if score >= level > 0), None)
        timed = {d: costs | _relative_costs(entry, costs, full.get(d, {}), share) for d, costs in entry.timed.items()}
        result.append(replace(entry, timed=timed))
    return result


def _relative_costs(
    entry: BoardEntry, costs: Mapping[str, float], full: Mapping[str, float], share: float | None
) -> dict[str, float]:
    """Return the relative costs on one machine, where `full` are those of the reference."""
    if "train_seconds" not in costs:
        return {}
    pairs = [(entry.costs.get("trainable_params"), entry.costs.get("total_params"))]
    pairs += [(costs.get(name), full.get(name)) for name in ("latency_ms", "train_peak_bytes")]
    score = entry.score if full else None
    for cost, constant in pairs:
        score = None if score is None or cost is None or not constant else score / (1 + cost / constant)
    values = {"seconds_to_quality": share and share * costs["train_seconds"], "pscp": score}
    return {name: value for name, value in values.items() if value is not None}
