"""The sections of scores beside those of the run itself: of its folds, and of its evaluations on other data."""

from collections.abc import Mapping
from typing import Any

from peftkit.config.json_files import read_json
from peftkit.pipeline.report.run_data import RunData, Section
from peftkit.results.page import paragraph, table


def other_scores(run: RunData) -> list[Section]:
    """Return the sections that apply to a run."""
    return [*_folds(run), *_thresholds(run), *_evaluations(run)]


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
