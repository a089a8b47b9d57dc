"""The report of classification: scores and confusions of classes, calibration, and confident mistakes."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from peftkit.metrics.calibration import BINS, expected_calibration_error, probabilities, reliability_bins
from peftkit.metrics.per_class import ClassScores, Estimate, class_scores, confusion_matrix, share
from peftkit.pipeline.report.class_tables import score_lines, with_interval
from peftkit.pipeline.report.run_data import RunData, Section
from peftkit.results.page import Html, element, paragraph, table
from peftkit.results.page.charts import bar_chart

SHOWN_CLASSES = 10  # in the terminal
MATRIX_CLASSES = 25  # in a confusion matrix; of more, only the pairs are listed
SHOWN_PAIRS, SHOWN_MISTAKES, SHOWN_WARNINGS = 10, 20, 5
NOTABLE_GAP = 0.1  # between accuracy and recall
MIN_EXAMPLES = 200  # for a calibration error without a note


class Answers:
    """The labels, predictions and probabilities of the labeled examples of a run."""

    def __init__(self, run: RunData) -> None:
        self.names = run.names
        self.labels: np.ndarray = run.array("label").astype(int)
        self.predictions: np.ndarray = run.array("prediction").astype(int)
        self.correct = self.labels == self.predictions
        self.run = run

    @cached_property
    def confusion(self) -> np.ndarray:
        return confusion_matrix(self.labels, self.predictions, len(self.names))

    @cached_property
    def scores(self) -> list[ClassScores]:
        return class_scores(self.confusion)

    @cached_property
    def accuracy(self) -> Estimate:
        return share(int(self.correct.sum()), len(self.correct))

    @property
    def temperature(self) -> float:
        """That of a run with `calibration.holdout`, else 1."""
        return float((self.run.record.get("calibration") or {}).get("temperature", 1.0))

    @cached_property
    def confidences(self) -> np.ndarray:
        """The probability of each prediction (examples,)."""
        assert self.run.scores is not None
        found = probabilities(self.run.scores, self.temperature)
        return found[np.arange(len(found)), self.predictions]

    @property
    def by_f1(self) -> list[int]:
        """The classes that are labeled or predicted, lowest F1 first, and of equal ones the most frequent first."""
        known = [number for number, each in enumerate(self.scores) if each.labeled or each.predicted]
        return sorted(known, key=lambda number: (self.scores[number].f1.value, -self.scores[number].labeled))


def classification_sections(run: RunData) -> list[Section]:
    """Return the sections of a run with one class for each example."""
    answers = Answers(run)
    return [_classes(answers), _confusions(answers), _calibration(answers), _mistakes(answers)]


def _classes(answers: Answers) -> Section:
    trained = _trained_on(answers.run)
    weak = [number for number in answers.by_f1 if _is_weak(answers, number)]
    headings = ["class", "trained on", "labeled", "predicted", "right", "precision", "recall", "F1"]
    rows = [
        (
            element("span", answers.names[number], class_="weak" if number in weak else None),
            f"{trained.get(answers.names[number], 0):,}",
            *(f"{count:,}" for count in (each.labeled, each.predicted, each.correct)),
            *map(with_interval, (each.precision, each.recall, each.f1)),
        )
        for number in answers.by_f1
        for each in (answers.scores[number],)
    ]
    mean = np.mean([0.0 if math.isnan(each.f1.value) else each.f1.value for each in answers.scores])
    note = (
        f"On {answers.run.splits}. Small figures are 95 % intervals: Wilson's score interval, of F1 by way of the "
        f"Jaccard index. Highlighted: no example right, or a recall {NOTABLE_GAP} and its whole interval below the "
        f"accuracy. Macro F1, the mean over all {len(answers.names)} classes, is {mean:.3f}."
    )
    weak.sort(key=lambda number: (answers.scores[number].recall.value, -answers.scores[number].labeled))
    found = [*_weak_classes(answers, weak), *_comparisons(answers)]
    content = [table("Classes, lowest F1 first", headings, rows, headings[1:]), paragraph(note)]
    return Section("Classes", content, tuple(found), tuple(_terminal_lines(answers)))


def _trained_on(run: RunData) -> dict[str, int]:
    """Return the training examples of each class, by name."""
    return (run.audit.get("label_counts") or {}).get(run.train_split) or {}


def _is_weak(answers: Answers, number: int) -> bool:
    each, accuracy = answers.scores[number], answers.accuracy.value
    is_below = each.recall.high < accuracy and accuracy - each.recall.value >= NOTABLE_GAP
    return bool(each.labeled) and (each.correct == 0 or is_below)


def _weak_classes(answers: Answers, weak: list[int]) -> list[str]:
    """Return a warning for each class that the accuracy hides, and for those that no example shows."""
    found = []
    for number in weak[:SHOWN_WARNINGS]:
        each = answers.scores[number]
        never = ", and it was never predicted" if not each.predicted else ""
        found.append(
            f"class {answers.names[number]}: {each.correct} of {each.labeled} right "
            f"(recall {each.recall.value:.3f}, 95 % interval {each.recall.low:.3f} to {each.recall.high:.3f}; "
            f"accuracy {answers.accuracy.value:.3f}){never}"
        )
    if len(weak) > SHOWN_WARNINGS:
        found.append(f"{len(weak) - SHOWN_WARNINGS} more classes are below the accuracy, see the table of classes")
    if absent := [name for name, each in zip(answers.names, answers.scores, strict=True) if not each.labeled]:
        more = f" and {len(absent) - SHOWN_WARNINGS} more" if len(absent) > SHOWN_WARNINGS else ""
        found.append(f"no validation example has the class {', '.join(absent[:SHOWN_WARNINGS])}{more}: not measured")
    return found


def _comparisons(answers: Answers) -> list[str]:
    """Return a warning where the accuracy is not above that of always predicting the majority class of train."""
    accuracy, trained, predicted = answers.accuracy, _trained_on(answers.run), np.unique(answers.predictions)
    if len(predicted) == 1:
        return [f"every example was predicted as {answers.names[int(predicted[0])]}"]
    if not trained:
        return []
    majority = max(range(len(answers.names)), key=lambda number: trained.get(answers.names[number], 0))
    baseline = answers.scores[majority].labeled / len(answers.labels)
    if accuracy.low > baseline:
        return []
    return [
        f"the accuracy of {accuracy.value:.3f} (95 % interval {accuracy.low:.3f} to {accuracy.high:.3f}) is not "
        f"clearly above {baseline:.3f}, that of always predicting {answers.names[majority]}"
    ]


def _terminal_lines(answers: Answers) -> list[str]:
    chosen = answers.by_f1[:SHOWN_CLASSES]
    rows = [(answers.names[number], answers.scores[number]) for number in chosen]
    more = len(answers.by_f1) - len(chosen)
    return [*score_lines("class", rows), *([f"and {more} more classes with a higher F1"] if more else [])]


def _confusions(answers: Answers) -> Section:
    names, counts = answers.names, answers.confusion
    wrong, labeled = counts - np.diag(np.diag(counts)), counts.sum(axis=1)
    order = np.argsort(-wrong, axis=None, kind="stable")[:SHOWN_PAIRS].tolist()
    pairs = [divmod(place, len(names)) for place in order if wrong.flat[place]]
    rows = [(names[a], names[b], f"{wrong[a, b]:,}", f"{labeled[a]:,}") for a, b in pairs]
    headings = ["label", "predicted", "examples", "of the label"]
    caption = f"Most frequent confusions, {len(rows)} of {np.count_nonzero(wrong)}"
    tables = [_matrix(answers)] if len(names) <= MATRIX_CLASSES else []
    note = "In the matrix a row is a label, a column a prediction, and the color the share of the label's examples."
    content = [
        element("div", *tables, table(caption, headings, rows, headings[2:]) if rows else None, class_="plots"),
        *([paragraph(note)] if tables else []),
    ]
    lines = [f"most frequent mistake: {a} predicted as {b}, {count} of {total}" for a, b, count, total in rows[:1]]
    return Section("Confusions", content, lines=tuple(lines))


def _matrix(answers: Answers) -> Html:
    labeled = np.maximum(answers.confusion.sum(axis=1), 1)
    rows = [
        (
            name,
            *(
                element(
                    "span",
                    f"{count:,}",
                    class_="heat right" if column == row else "heat",
                    style=f"--share: {count / labeled[row]:.3f}",
                )
                for column, count in enumerate(answers.confusion[row])
            ),
        )
        for row, name in enumerate(answers.names)
    ]
    return table("Confusion matrix", ["label", *answers.names], rows, answers.names)


def _calibration(answers: Answers) -> Section:
    bins = reliability_bins(answers.confidences, answers.correct)
    error, mean = expected_calibration_error(answers.confidences, answers.correct), answers.confidences.mean()
    gap = mean - answers.accuracy.value
    summary = f"mean confidence {mean:.3f}, accuracy {answers.accuracy.value:.3f}, ECE {error:.3f}"
    intervals = [share(each.right, each.examples) for each in bins]
    chart = bar_chart(
        f"Reliability plot: {summary}",
        "Share of right predictions by confidence (bars, with 95 % intervals) and mean confidence (dots). "
        "Calibrated predictions lie on the diagonal.",
        "confidence",
        "share of right predictions",
        [
            ((each.low, each.high), right.value, (right.low, right.high), (each.confidence, right.value))
            for each, right in zip(bins, intervals, strict=True)
        ],
    )
    rows = [
        (f"{each.low:.2f} to {each.high:.2f}", f"{each.examples:,}", f"{each.confidence:.3f}", with_interval(right))
        for each, right in zip(bins, intervals, strict=True)
    ]
    headings = ["confidence", "examples", "mean confidence", "right"]
    scaled = f", at the temperature {answers.temperature:.3g}" if answers.temperature != 1 else ""
    text = (
        f"Confidence is the probability of the predicted class{scaled}: {summary}. On average the model is "
        f"{'over' if gap > 0 else 'under'}-confident by {abs(gap):.3f}. ECE, the expected calibration error, is the "
        f"mean distance between confidence and accuracy over {BINS} bins of equal width, weighted by their examples "
        "(Guo et al. 2017)."
    )
    few = " With so few examples ECE is too high by chance." if len(answers.labels) < MIN_EXAMPLES else None
    plot = element("div", chart, table("Bins of confidence", headings, rows, headings[1:]), class_="plots")
    return Section("Calibration", [paragraph(text, few), plot], lines=(f"calibration: {summary}",))


def _mistakes(answers: Answers) -> Section:
    run, wrong = answers.run, np.flatnonzero(~answers.correct)
    chosen = wrong[np.argsort(-answers.confidences[wrong], kind="stable")][:SHOWN_MISTAKES].tolist()
    if not chosen:
        return Section("Mistakes", [paragraph("Every validation example is right.")])
    rows = [
        run.row(
            number,
            answers.names[answers.labels[number]],
            answers.names[answers.predictions[number]],
            f"{answers.confidences[number]:.3f}",
        )
        for number in chosen
    ]
    note = (
        f"The {len(chosen)} most confident of {len(wrong):,} mistakes. Wrong labels of the data are often among them."
    )
    headings = run.headings("label", "predicted", "confidence")
    content = [paragraph(note, run.text_note), table("Mistakes by confidence", headings, rows, ["confidence"])]
    return Section("Most confident mistakes", content)
