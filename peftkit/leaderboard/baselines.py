"""Baselines of each task, computed from the labels that the runs recorded: one constant answer, and chance.

The constant answer comes from the training labels: the most frequent class, tag or text, or the mean of numbers, as in
scikit-learn's DummyClassifier and DummyRegressor; of several labels those that most examples have, or else the most
frequent one. Chance is the mean score of random answers: a class or tag drawn
uniformly, each of several labels with probability 1/2, the number of another example, a random rank, or equal rewards.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np

from peftkit.config.record_schema import FREQUENT_ANSWER
from peftkit.leaderboard.paired import constant_predictions, label_indicators, reads_label_sets, resolve_metric
from peftkit.leaderboard.predictions import LabeledExamples, is_list, read_run_predictions
from peftkit.leaderboard.runs import BoardEntry, Summary, grouped
from peftkit.leaderboard.stats import differing_settings, score_metrics, task_score
from peftkit.metrics import RECORDED, Metric

Array = np.ndarray
NAMES = {
    "classes": "majority class", "tags": "majority tag", "tag_names": "majority tag", "numbers": "mean label",
    "texts": "most frequent answer", "label_sets": "majority labels",
}  # fmt: skip
CHANCE = "chance"
MAX_DRAWS, MAX_NUMBERS = 1000, 20_000_000  # random answers for each example; these x examples x classes
MAX_LIST_DRAWS = 10  # of lists of tags
OF_TRAINING, OF_VALIDATION = "training", "validation"  # labels from which the constant answer is computed
INPUTS = (*RECORDED, "texts", "tag_names")
LISTS = ("tags", "tag_names")
MAX_TEXT = 60  # characters of an answer in a name


@dataclass(frozen=True)
class Labels:
    """What is known about the labels of a task: those that are scored, and counts of those that were trained on."""

    known: LabeledExamples
    metrics: dict[str, tuple[Metric, str | None]]  # by recorded name, with the split, as `resolve_metric` returns them
    input: str  # of the metrics: classes, label_sets, numbers, tags, texts, ranks or margins
    names: list[str]  # of the classes or tags
    counts: list[Mapping[str, Any]]  # of the labels of the training splits
    examples: int  # of these training splits


def with_baselines(entries: Sequence[BoardEntry]) -> list[BoardEntry]:
    """Return the entries with the baselines of each task after it; each other entry names its constant answer."""
    scored = [entry for entry in entries if entry.score is not None]
    of_data = [(key, each) for key, members in grouped(scored, _data_of).items() for each in _baselines(members)]
    made = _named(list({_content(each): each for _, each in reversed(of_data)}.values())[::-1])
    named = {_content(each): each for each in made}
    constants = {key: named[_content(each)].name for key, each in of_data if each.method != CHANCE}
    result: list[BoardEntry] = []
    for (board, task), members in grouped(entries, lambda entry: (entry.board, entry.task)).items():
        result += [replace(entry, constant_baseline=constants.get(_data_of(entry))) for entry in members]
        result += [each for each in made if (each.board, each.task) == (board, task)]
    return result


def _data_of(entry: BoardEntry) -> tuple:
    """Return what determines the labels: equal for entries that are compared with the same baselines."""
    revision = entry.all_settings.get("sources.data.revision")
    return entry.board, entry.task, revision, tuple(sorted(entry.examples.items())), tuple(entry.scores)


def _content(entry: BoardEntry) -> tuple:
    """Return what distinguishes two baselines of a task."""
    scores = tuple((name, round(each.mean, 12)) for name, each in entry.scores.items())
    return entry.board, entry.task, entry.method, repr(entry.answer), scores


def _named(baselines: Sequence[BoardEntry]) -> list[BoardEntry]:
    """Name the baselines, with their answer or their data where a task has several of one kind."""
    families = [(each.board, each.task, each.method) for each in baselines]
    shown = differing_settings(families, [each.all_settings for each in baselines])
    named = [replace(each, settings=text) for each, text in zip(baselines, shown, strict=True)]
    return [replace(each, label=each.name) for each in named]


def _baselines(members: Sequence[BoardEntry]) -> list[BoardEntry]:
    """Return the baselines of entries with the same data; none where their labels or metrics are not known."""
    labels = _labels_of(members)
    if labels is None:
        return []
    made = []
    if (found := _constant_answer(labels)) is not None:
        answer, origin = found
        text = _answer_text(labels, answer)
        scores = _scores(labels, constant_predictions(labels.known.labels, answer)[None])
        settings = {"task.answer": text, "task.labels": origin}
        made.append(_entry(members[0], NAMES[labels.input], scores, answer, settings))
    if (drawn := _random_answers(labels)) is not None:
        made.append(_entry(members[0], CHANCE, _scores(labels, drawn), None, {}))
    return made


def _answer_text(labels: Labels, answer: Any) -> str:
    if labels.input in ("classes", *LISTS):
        return labels.names[answer]
    if labels.input == "label_sets":
        return " + ".join(labels.names[number] for number in answer)
    return f"{answer:.4g}" if labels.input == "numbers" else repr(answer[:MAX_TEXT])


def _entry(of: BoardEntry, method: str, scores: dict[str, float], answer: Any, settings: dict[str, str]) -> BoardEntry:
    """Return the entry of a baseline, with one run that has the data of a run of `of` and nothing of its model."""
    recorded = {name: {"value": value, "higher_is_better": of.higher_is_better[name]} for name, value in scores.items()}
    run = replace(
        of.scored_runs[0], model="", method=method, seed=0, device="", started="", settings={}, scores=recorded,
        costs={}, overrides=[], versions={}, search=None, cross_validation=None, gates=None, merge=None,
        forgetting=None, language=None, judged=None, domains=None,
    )  # fmt: skip
    kept = {name: of.all_settings[name] for name in of.all_settings if name.startswith(("examples.", "sources.data."))}
    return replace(
        of, model="", model_label="", method=method, settings="", runs=(run,), by_seed={0: task_score(recorded)},
        costs={}, timed={}, scores={name: Summary(value, None) for name, value in scores.items()},
        all_settings={**settings, **kept}, higher_is_better={name: of.higher_is_better[name] for name in scores},
        delta=None, is_reference=False, planned=1, is_baseline=True, answer=answer,
    )  # fmt: skip


def _labels_of(members: Sequence[BoardEntry]) -> Labels | None:
    """Return the labels of entries with the same data; None without labels, or where a metric cannot be computed."""
    runs = [run for entry in members for run in entry.scored_runs]
    known = next((found[0].examples for run in runs if (found := read_run_predictions([run.folder]))[0]), None)
    audit = runs[0].audit
    counts = [(run.audit.get("label_counts") or {}) for run in runs]
    names = list(audit.get("label_names") or [])
    known = known or _counted_labels(counts[0], names)
    if known is None:
        return None
    metrics = {
        name: each for name in members[0].scores if (each := resolve_metric(name, known.splits, INPUTS)) is not None
    }
    up = members[0].higher_is_better
    needed = score_metrics(members[0].scores)
    needed = [name for name in needed if up[name]] or needed
    inputs = {metrics[name][0].input for name in needed if name in metrics}
    if not inputs or not all(name in metrics for name in needed):
        return None
    has_lists = is_list(known.labels)
    if has_lists and all(reads_label_sets(metrics[name][0]) for name in needed):
        input, same = "label_sets", {name: each for name, each in metrics.items() if reads_label_sets(each[0])}
    elif len(inputs - {"tag_names"}) <= 1:
        input = min(inputs)
        same = {
            name: each for name, each in metrics.items() if each[0].input in (LISTS if input in LISTS else (input,))
        }
    else:
        return None
    if has_lists != (input in (*LISTS, "texts", "label_sets")):
        return None
    train = [each["train"] for each in counts if isinstance(each.get("train"), Mapping)]
    if not names and input == "classes":
        names = [str(number) for number in range(1 + int(np.max(known.labels)))]
    examples = sum(run.examples.get("train", 0) for run in runs if isinstance(run.audit.get("label_counts"), Mapping))
    return Labels(known, same, input, names, train, examples)


def _counted_labels(counts: Mapping[str, Any], names: Sequence[str]) -> LabeledExamples | None:
    """Return the classes of validation examples, in any order, from their counts; None where these are not recorded."""
    splits = {
        split: each for split, each in counts.items() if split.startswith("validation") and isinstance(each, Mapping)
    }
    numbers = {split: [each.get(name) for name in names] for split, each in splits.items()}
    numbers = {split: each for split, each in numbers.items() if each and all(isinstance(n, int) for n in each)}
    labels: list[Array] = [np.repeat(np.arange(len(names)), each) for each in numbers.values()]
    if not labels or not sum(map(len, labels)):
        return None
    of_split: Array = np.repeat(list(numbers), list(map(len, labels)))
    found = np.concatenate(labels)
    return LabeledExamples(np.arange(len(found)).astype(str), of_split, found)


def _constant_answer(labels: Labels) -> tuple[Any, str] | None:
    """Return the answer and of which labels it is the most frequent one or the mean; the first one of equal counts."""
    known, counts = labels.known.labels, labels.counts
    if labels.input == "numbers":
        means = [each["mean"] for each in counts if isinstance(each.get("mean"), (int, float))]
        return (fmean(means), OF_TRAINING) if means else (float(np.mean(known)), OF_VALIDATION)
    if labels.input == "texts":
        texts = Counter(text for each in counts if isinstance(text := each.get(FREQUENT_ANSWER), str))
        if texts:
            return texts.most_common(1)[0][0], OF_TRAINING
        first = Counter(next(iter(each), "") for each in known).most_common(1)
        return (first[0][0], OF_VALIDATION) if first and first[0][1] > 1 else None
    if labels.input not in ("classes", "label_sets", *LISTS) or not labels.names:
        return None
    totals = [sum(each[name] for each in counts if isinstance(each.get(name), int)) for name in labels.names]
    count, origin = labels.examples, OF_TRAINING
    if not any(totals):
        flat = known if labels.input == "classes" else np.concatenate([np.asarray(each, int) for each in known])
        totals = np.bincount(flat.astype(int), minlength=len(labels.names)).tolist()
        count, origin = len(known), OF_VALIDATION
    most = int(np.argmax(totals))
    if labels.input != "label_sets":
        return most, origin
    return [number for number, total in enumerate(totals) if 2 * total > count > 0] or [most], origin


def _random_answers(labels: Labels) -> Array | None:
    """Return random answers (draws, examples); None where there are no answers to draw from.

    Draws come in groups that contain each class once for each example, or each ranking with its reverse, so that their
    mean has less noise.
    """
    known, random = labels.known.labels, np.random.default_rng(0)
    count, classes = len(known), max(1, len(labels.names))
    draws = int(np.clip(MAX_NUMBERS // (count * classes), 1, MAX_DRAWS))
    if labels.input == "classes":
        groups = max(1, draws // classes)
        first = random.integers(0, classes, (groups, 1, count))
        return ((first + np.arange(min(classes, draws))[:, None]) % classes).reshape(-1, count)
    if labels.input == "label_sets":
        sets = [
            [np.flatnonzero(each).tolist() for each in random.random((count, classes)) < 0.5]
            for _ in range(MAX_LIST_DRAWS)
        ]
        return np.stack([np.fromiter(each, object, count) for each in sets])
    if labels.input in LISTS and labels.names:
        lists = [[random.integers(0, classes, len(tags)).tolist() for tags in known] for _ in range(MAX_LIST_DRAWS)]
        return np.stack([np.fromiter(each, object, count) for each in lists])
    if labels.input == "numbers":
        order = np.array([random.permutation(count) for _ in range(max(1, draws // 10))])
        return np.sort(known)[np.concatenate([order, count - 1 - order])]
    if labels.input == "margins":
        return np.zeros((1, count))
    documents = max((each.get("documents") or 0 for each in labels.counts), default=0) if labels.input == "ranks" else 0
    return random.integers(1, documents + 1, (draws, count)) if documents else None


def _scores(labels: Labels, predictions: Array) -> dict[str, float]:
    """Return the mean over predictions (draws, examples) of each metric."""
    found = {}
    for name, (metric, split) in labels.metrics.items():
        part = slice(None) if split is None else np.flatnonzero(labels.known.splits == split)
        known: Any = labels.known.labels[part]
        given: Any = predictions[:, part]
        if metric.input == "tag_names":
            known, *given = ([[labels.names[tag] for tag in tags] for tags in run] for run in (known, *given))
        elif labels.input == "label_sets":
            known, given = (label_indicators(each, len(labels.names)) for each in (known, given))
        elif metric.input == "texts":
            known = [[each] if isinstance(each, str) else list(each) for each in known]
        scorer = metric.scorer(known, given, len(labels.names) or None)
        found[name] = float(scorer(np.ones((1, len(known)))).mean())
    return found
