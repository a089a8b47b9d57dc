"""The sections of scores beside those of the run itself: of its folds, and of its evaluations on other data."""

from collections.abc import Mapping, Sequence
from typing import Any

from peftkit.config.json_files import read_json
from peftkit.pipeline.report.run_data import RunData, Section
from peftkit.results.page import Html, element, paragraph, table
from peftkit.results.page.charts import line_chart


def other_scores(run: RunData) -> list[Section]:
    """Return the sections that apply to a run."""
    return [*_folds(run), *_domains(run), *_thresholds(run), *_evaluations(run), *_outside(run)]


def _folds(run: RunData) -> list[Section]:
    found = run.record.get("cross_validation")
    if not found:
        return []
    metrics = list(found["spread"])
    rows = [
        [str(number), f"{fold['examples']:,}", *(f"{fold['scores'][name]:.3f}" for name in metrics)]
        for number, fold in enumerate(found["folds"])
    ]
    spread = ["standard deviation", "", *(f"{found['spread'][name]:.3f}" for name in metrics)]
    headings = ["fold", "examples", *metrics]
    note = (
        "Each fold was scored by a model that was trained on the others. The scores at the top and the other sections "
        "are of all these predictions together. No model is kept; the learning curve of a fold is in its folder."
    )
    return [Section("Folds", [table("Scores by fold", headings, [*rows, spread], headings[1:]), paragraph(note)])]


def _domains(run: RunData) -> list[Section]:
    found: Mapping[str, Any] = run.record.get("domains") or {}
    if not found:
        return []
    metrics = list(found["average"])
    content = [_domain_table("Scores by domain", found, metrics)]
    if "others" in found:
        content.append(_domain_table("Domains that were trained on", found["others"], metrics))
    if "classifier" in found:
        each = found["classifier"]
        note = (
            f"Of {each['examples']:,} validation examples, the domain classifier is right on {each['accuracy']:.1%}, a "
            f"logistic regression on the same features on {each['probe_accuracy']:.1%}; chance is {each['chance']:.1%}."
        )
        content.append(paragraph(note))
    if "group_weights" in found:
        weights = [(name, f"{weight:.3f}") for name, weight in found["group_weights"].items()]
        content.append(table("Weights of the domains at the end", ["domain", "weight"], weights, ["weight"]))
    worst = found["worst"][metrics[0]]
    lines = (f"worst domain: {worst['domain']}, {metrics[0]} {worst['value']:.3f}",) if len(found["scores"]) > 1 else ()
    return [Section("Domains", content, lines=lines)]


def _domain_table(title: str, found: Mapping[str, Any], metrics: Sequence[str]) -> Html:
    rows = [
        [name, f"{each['examples']:,}", *(_figure(each["scores"].get(metric)) for metric in metrics)]
        for name, each in sorted(found["scores"].items())
    ]
    rows.append(["worst", "", *(f"{found['worst'][metric]['value']:.3f}" for metric in metrics)])
    rows.append(["average", "", *(f"{found['average'][metric]:.3f}" for metric in metrics)])
    headings = ["domain", "examples", *metrics]
    return table(title, headings, rows, headings[1:])


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _thresholds(run: RunData) -> list[Section]:
    found: Mapping[str, Any] = run.record.get("calibration") or {}
    if "thresholds" not in found:
        return []
    changes = [(name, f"{each['before']:.3f}", f"{each['after']:.3f}") for name, each in found["scores"].items()]
    limits = [(name, f"{threshold:.3f}") for name, threshold in found["thresholds"].items()]
    note = (
        f"The probability from which a label is predicted, fitted for the highest F1 on {found['examples']:,} training "
        "examples that were held out."
    )
    content = [
        table("Threshold of each label", ["label", "threshold"], limits, ["threshold"]),
        paragraph(note),
        table("Scores with and without thresholds", ["score", "all 0.5", "fitted"], changes, ["all 0.5", "fitted"]),
    ]
    return [Section("Thresholds", content)]


def _evaluations(run: RunData) -> list[Section]:
    rows = []
    for file in sorted(run.folder.glob("evaluation-*.json")):
        found = read_json(file, "delete it, or evaluate again")
        scores = ", ".join(f"{name} {each['value']:.3f}" for name, each in found["scores"].items())
        rows.append(
            [found["task"]["name"], str(found["source"]["name"]), scores or "hidden labels, no score", file.name]
        )
    if not rows:
        return []
    note = "Scores of this run by job=evaluate; their predictions are in predictions-*.parquet beside these files."
    return [Section("Evaluations", [table("Evaluations", ["task", "data", "scores", "file"], rows), paragraph(note)])]


def _outside(run: RunData) -> list[Section]:
    rows: list[list[str]] = []
    charts: list[Html] = []
    for file in sorted(run.folder.glob("ood-*.json")):
        found = read_json(file, "delete it, or measure again")
        other = found["outside"]
        for name, each in found["detectors"].items():
            cells = (
                f"{each[key]:.3f} ({each[f'{key}_interval'][0]:.3f} to {each[f'{key}_interval'][1]:.3f})"
                for key in ("auroc", "fpr_at_95_tpr")
            )
            rows.append([f"{other['task']}, {other['texts']:,} texts", name, *cells])
            title = f"{name}, {other['task']}: ROC"
            caption = f"AUROC {each['auroc']:.3f}. A positive is a text that is accepted."
            curve = {name: [(float(false), float(true)) for false, true in each["roc"]]}
            charts.append(
                line_chart(title, caption, f"{other['task']} accepted", f"{run.config.task.name} accepted", curve)
            )
    if not rows:
        return []
    headings = ["texts", "detector", "AUROC", "FPR at 95 % TPR"]
    note = (
        "By job=ood: how well each detector separates texts of another kind from the validation texts of this run. "
        "AUROC 0.5 is chance; FPR is the share of the other texts that are accepted if 95 % of the run's are. "
        "Intervals: 95 %, over texts."
    )
    content = [
        table("Detectors", headings, rows, headings[2:]),
        paragraph(note),
        element("div", *charts, class_="plots"),
    ]
    return [Section("Texts of another kind", content)]
