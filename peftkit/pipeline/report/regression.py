"""The report of regression: predictions by label, and the largest errors."""

import numpy as np

from peftkit.pipeline.report.run_data import RunData, Section
from peftkit.results.page import element, paragraph, table
from peftkit.results.page.charts import scatter_chart

SHOWN_POINTS, SHOWN_ERRORS = 2000, 20
NARROW = 0.25  # of the labels' spread


def regression_sections(run: RunData) -> list[Section]:
    """Return the sections of a run with one number for each example."""
    labels: np.ndarray = run.array("label").astype(float)
    predictions: np.ndarray = run.array("prediction").astype(float)
    return [_predictions(run, labels, predictions), _errors(run, labels, predictions)]


def _predictions(run: RunData, labels: np.ndarray, predictions: np.ndarray) -> Section:
    errors, spread = predictions - labels, labels.std()
    absolute, root, mean = np.abs(errors).mean(), np.sqrt((errors**2).mean()), errors.mean()
    determination = 1 - (errors**2).sum() / ((labels - labels.mean()) ** 2).sum() if spread else np.nan
    rows = [
        ("mean absolute error", f"{absolute:.4g}"),
        ("root mean squared error", f"{root:.4g}"),
        ("mean error, prediction minus label", f"{mean:+.4g}"),
        ("R²: 1 is perfect, 0 always predicting the mean", f"{determination:.3f}"),
        ("standard deviation of labels", f"{spread:.4g}"),
        ("standard deviation of predictions", f"{predictions.std():.4g}"),
    ]
    chosen = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), SHOWN_POINTS)).astype(int))
    sample = f" {len(chosen):,} examples of {len(labels):,}, evenly spaced." if len(chosen) < len(labels) else ""
    chart = scatter_chart(
        "Predictions by label",
        f"Predictions by label; right ones lie on the diagonal.{sample}",
        "label",
        "prediction",
        list(zip(labels[chosen].tolist(), predictions[chosen].tolist(), strict=True)),
    )
    found = []
    if spread and determination <= 0:
        found.append(f"R² is {determination:.3f}: no better than always predicting the mean of the labels")
    if spread and predictions.std() < NARROW * spread:
        found.append(
            f"the predictions hardly vary: their standard deviation is {predictions.std():.3g}, that of the labels "
            f"{spread:.3g}"
        )
    order = ", ".join(f"{number} = {name}" for number, name in enumerate(run.config.task.label_order or [], start=1))
    content = [
        paragraph(f"On {run.splits}.", f" Labels as numbers: {order}." if order else None),
        element("div", chart, table("Errors", ["measure", "value"], rows, ["value"]), class_="plots"),
    ]
    lines = (f"mean absolute error {absolute:.4g}, mean error {mean:+.4g}, R² {determination:.3f}",)
    return Section("Predictions", content, tuple(found), lines)


def _errors(run: RunData, labels: np.ndarray, predictions: np.ndarray) -> Section:
    errors = predictions - labels
    chosen = np.argsort(-np.abs(errors), kind="stable")[:SHOWN_ERRORS].tolist()
    rows = [run.row(n, f"{labels[n]:.4g}", f"{predictions[n]:.4g}", f"{errors[n]:+.4g}") for n in chosen if errors[n]]
    headings = ["label", "prediction", "error"]
    content = [table("Examples by absolute error", run.headings(*headings), rows, headings)]
    note = paragraph("Wrong labels in the data are often among these.", run.text_note or None)
    return Section("Largest errors", [note, *content] if rows else [paragraph("Every prediction is exact.")])
