"""The report of tasks with several labels for an example: scores of labels, and the examples with most mistakes."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain

from peftkit.metrics.per_class import ClassScores, scores_of_counts
from peftkit.pipeline.report.class_tables import lowest_first, never_found, score_lines, scores_table
from peftkit.pipeline.report.run_data import RunData, Section
from peftkit.results.page import paragraph, table

SHOWN_LINES, SHOWN_EXAMPLES = 10, 20
LabelSets = Sequence[Sequence[int]]


def multilabel_sections(run: RunData) -> list[Section]:
    """Return the sections of a run whose labels and predictions are lists of class ids."""
    labels, predictions = run.columns["label"], run.columns["prediction"]
    return [_labels(run, labels, predictions), _examples(run, labels, predictions)]


def label_scores(labels: LabelSets, predictions: LabelSets, names: Sequence[str]) -> dict[str, ClassScores]:
    """Return the scores of each label, which the others do not influence."""
    labeled, predicted = Counter(chain(*labels)), Counter(chain(*predictions))
    correct = Counter(chain(*({*a} & {*b} for a, b in zip(labels, predictions, strict=True))))
    return {name: scores_of_counts(labeled[n], predicted[n], correct[n]) for n, name in enumerate(names)}


def _labels(run: RunData, labels: LabelSets, predictions: LabelSets) -> Section:
    found = label_scores(labels, predictions, run.names)
    known = {name: each for name, each in found.items() if each.labeled or each.predicted}
    order = lowest_first(known)
    exact = sum({*a} == {*b} for a, b in zip(labels, predictions, strict=True))
    empty = sum(not each for each in predictions)
    note = (
        f"On {run.splits}. All labels of an example are right in {exact:,}; {empty:,} got no label. Small figures are "
        "Wilson's 95 % intervals."
    )
    if len(found) > len(known):
        note += f" {len(found) - len(known)} labels neither occur nor were predicted."
    lines = score_lines("label", [(name, known[name]) for name in order[:SHOWN_LINES]])
    content = [scores_table("Labels, lowest F1 first", "label", known, order), paragraph(note)]
    return Section("Labels", content, never_found("label", known), tuple(lines if order else ()))


def _examples(run: RunData, labels: LabelSets, predictions: LabelSets) -> Section:
    wrong = [len({*a} ^ {*b}) for a, b in zip(labels, predictions, strict=True)]
    chosen = [n for n in sorted(range(len(wrong)), key=lambda n: -wrong[n])[:SHOWN_EXAMPLES] if wrong[n]]
    rows = [
        run.row(
            n,
            ", ".join(run.names[label] for label in sorted({*labels[n]} - {*predictions[n]})),
            ", ".join(run.names[label] for label in sorted({*predictions[n]} - {*labels[n]})),
        )
        for n in chosen
    ]
    headings = run.headings("missed labels", "wrong labels")
    content = [table("Examples by missed and wrong labels", headings, rows)]
    return Section("Examples with most mistakes", content if rows else [paragraph("Every label is right.")])
