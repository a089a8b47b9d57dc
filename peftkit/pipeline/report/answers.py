"""The report of generated and extracted answers, and of tasks that score each example by a number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from peftkit.metrics.text import best_token_f1
from peftkit.metrics.words import answer_words
from peftkit.pipeline.report.run_data import RunData, Section, text_cell
from peftkit.results.page import paragraph, table

COUNTED = ("answers", "examples", "share")
QUANTILES = ("5 %", "25 %", "median", "75 %", "95 %")
SHOWN, SCORED = 20, 2000  # examples; of more than the latter the first are compared with their references


def answer_sections(run: RunData) -> list[Section]:
    """Return the sections of a run that answers with text; without references, its examples by perplexity."""
    if not all(isinstance(answer, str) for answer in run.columns["prediction"]):
        return [extreme_section(run, PERPLEXITY)]
    references, answers = run.columns["label"][:SCORED], run.columns["prediction"][:SCORED]
    shares = np.array([best_token_f1(known, answer) for known, answer in zip(references, answers, strict=True)])
    is_exact = [_is_exact(known, answer) for known, answer in zip(references, answers, strict=True)]
    counts = {
        "equal to a reference": sum(is_exact),
        "sharing words with one": int((shares > 0).sum()) - sum(is_exact),
        "sharing none": int((shares == 0).sum()),
    }
    empty, unanswerable = sum(not answer for answer in answers), sum(not known for known in references)
    more = {"empty answers": empty, "questions without an answer": unanswerable}
    rows = [(name, f"{n:,}", f"{n / len(answers):.1%}") for name, n in (counts | more).items() if n or name in counts]
    sample = f", the first {SCORED:,}" if len(run.columns["label"]) > SCORED else ""
    found = [f"{empty} of {len(answers)} answers are empty"] if empty > unanswerable else []
    chosen = [n for n in np.argsort(shares, kind="stable")[:SHOWN].tolist() if not is_exact[n]]
    worst = [
        run.row(n, text_cell("\n".join(references[n]) or "(none)"), text_cell(answers[n]), f"{shares[n]:.3f}")
        for n in chosen
    ]
    headings = run.headings("reference", "answer", "token F1")
    lines = ", ".join(f"{name} {n}" for name, n in counts.items())
    return [
        Section(
            "Answers",
            [paragraph(f"On {run.splits}{sample}."), table("Answers", COUNTED, rows, COUNTED[1:])],
            tuple(found),
            (f"answers: {lines}",),
        ),
        Section(
            "Answers farthest from their references",
            [table("Answers by token F1, lowest first", headings, worst, ["token F1"])]
            if worst
            else [paragraph("Every answer equals a reference.")],
        ),
    ]


def _is_exact(references: list[str], answer: str) -> bool:
    """Return whether an answer is right by SQuAD's exact match; no reference: whether it is empty."""
    return any(answer_words(known) == answer_words(answer) for known in references or [""])


@dataclass(frozen=True)
class Extreme:
    """How examples are sorted by the number that their prediction is."""

    title: str
    heading: str
    note: str
    largest_first: bool


PERPLEXITY = Extreme("Texts that are hardest to predict", "nats per token", "Negative log-likelihood per token.", True)
BYTES = Extreme("Passages that are hardest to predict", "bits per byte", "Bits per byte of each passage.", True)
MARGINS = Extreme(
    "Pairs with the smallest margins",
    "margin",
    "Implicit reward of the chosen minus that of the rejected answer; below 0 the rejected answer is preferred.",
    False,
)
RANKS = Extreme("Queries whose document is found last", "rank", "Rank of the right document among all of them.", True)


def extreme_section(run: RunData, extreme: Extreme) -> Section:
    """Return the examples with the worst numbers, and quantiles of all."""
    values: np.ndarray = run.array("prediction").astype(float)
    order = np.argsort(-values if extreme.largest_first else values, kind="stable")[:SHOWN].tolist()
    rows = [run.row(n, f"{values[n]:.4g}") for n in order]
    quantiles = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95], method="nearest" if extreme is RANKS else "linear")
    spread = [tuple(f"{value:.4g}" for value in quantiles)]
    return Section(
        extreme.title,
        [
            paragraph(f"{extreme.note} On {run.splits}.", run.text_note or None),
            table("Quantiles", QUANTILES, spread, QUANTILES),
            table(f"Examples by {extreme.heading}", run.headings(extreme.heading), rows, [extreme.heading]),
        ],
        lines=(f"{extreme.heading}: median {quantiles[2]:.4g}, 5 % to 95 % {quantiles[0]:.4g} to {quantiles[4]:.4g}",),
    )
