"""The report of token classification: scores of entity types and of tags, and the sentences with most mistakes."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain

import numpy as np

from peftkit.config.tag_schemes import SPAN_TAG
from peftkit.metrics.per_class import ClassScores, scores_of_counts
from peftkit.metrics.text import span_counts
from peftkit.pipeline.report.class_tables import lowest_first, never_found, score_lines, scores_table
from peftkit.pipeline.report.run_data import RunData, Section
from peftkit.results.page import Html, element, paragraph, table

SHOWN_LINES, SHOWN_SENTENCES, SHOWN_TAGS, SHOWN_WARNINGS = 10, 20, 100, 5
Tags = Sequence[Sequence[str | None]]


def tagging_sections(run: RunData) -> list[Section]:
    """Return the sections of a run with one tag for each word."""
    names = dict(enumerate(run.names))  # of -1, for a word without a prediction, None
    columns = (run.columns["label"], run.columns["prediction"])
    labels, predictions = ([[names.get(tag) for tag in tags] for tags in column] for column in columns)
    found = [_tags(labels, predictions), _sentences(run, labels, predictions)]
    return [_entities(run, labels, predictions), *found] if all(map(SPAN_TAG.fullmatch, run.names)) else found


def tag_scores(labels: Tags, predictions: Tags) -> dict[str, ClassScores]:
    """Return the scores of each tag over all words; a word without a prediction counts as missed."""
    pairs = list(zip(chain(*labels), chain(*predictions), strict=True))
    labeled, predicted = (Counter(name for name in column if name is not None) for column in zip(*pairs, strict=True))
    correct = Counter(label for label, tag in pairs if label == tag)
    names = sorted(labeled.keys() | predicted.keys())
    return {name: scores_of_counts(labeled[name], predicted[name], correct[name]) for name in names}


def _entities(run: RunData, labels: Tags, predictions: Tags) -> Section:
    known = [[str(tag) for tag in tags] for tags in labels]
    found = {name: scores_of_counts(*counts) for name, counts in span_counts(known, predictions).items()}
    order = lowest_first(found)
    lines = score_lines("entity type", [(name, found[name]) for name in order[:SHOWN_LINES]])
    note = (
        f"On {run.splits}. An entity is right where its type, first and last word are. Small figures are Wilson's 95 % "
        "intervals, as if entities were independent of one another, which those of one sentence are not."
    )
    content = [scores_table("Entity types, lowest F1 first", "entity type", found, order), paragraph(note)]
    return Section("Entities", content, never_found("entity type", found), tuple(lines if order else ()))


def _tags(labels: Tags, predictions: Tags) -> Section:
    found = tag_scores(labels, predictions)
    order = lowest_first(found)
    untagged = sum(tag is None for tags in predictions for tag in tags)
    verb = "has" if untagged == 1 else "have"
    note = f"Over words. {untagged:,} {verb} no prediction: behind the limit of tokens, or without a token."
    worst = [(name, found[name]) for name in order if found[name].labeled][:SHOWN_LINES]
    is_span = all(map(SPAN_TAG.fullmatch, order))
    content = [scores_table("Tags, lowest F1 first", "tag", found, order[:SHOWN_TAGS]), paragraph(note)]
    if is_span:  # the section of entities has these
        return Section("Tags", content)
    return Section("Tags", content, never_found("tag", found), tuple(score_lines("tag", worst)))


def _sentences(run: RunData, labels: Tags, predictions: Tags) -> Section:
    pairs = [list(zip(*tags, strict=True)) for tags in zip(labels, predictions, strict=True)]
    wrong = np.array([sum(label != tag for label, tag in pair) for pair in pairs])
    chosen = [n for n in np.argsort(-wrong, kind="stable")[:SHOWN_SENTENCES].tolist() if wrong[n]]
    words = run.columns[run.text_columns[0]] if run.text_columns else [[*range(1, len(pair) + 1)] for pair in pairs]
    rows = [run.row(n, f"{wrong[n]} of {len(pairs[n])}", _differences(words[n], pairs[n])) for n in chosen]
    headings = run.headings("wrong words", "label → prediction")
    content = [table("Sentences by wrong words", headings, rows, ["wrong words"])]
    return Section("Sentences with most mistakes", content if rows else [paragraph("Every tag is right.")])


def _differences(words: Sequence[object], pairs: Sequence[tuple]) -> Html:
    parts = [f"{word}: {label} → {tag or '–'}" for word, (label, tag) in zip(words, pairs, strict=True) if label != tag]
    return element("span", "\n".join(parts), class_="text")
