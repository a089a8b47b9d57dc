"""The section on general language modeling: its loss and the score at each scale of a run's change."""

from typing import Any

from peftkit.pipeline.report.run_data import RunData, Section
from peftkit.results.page import element, paragraph, table
from peftkit.results.page.charts import line_chart


def forgetting_sections(run: RunData) -> list[Section]:
    """Return the section where `forgetting` is recorded; with two curves where there are three scales or more."""
    found: dict[str, Any] = run.record.get("forgetting") or {}
    if not found:
        return []
    points, measure = found["curve"], found["measure"].replace("_", " ")
    headings = ["scale of the change", f"{measure} ({found['unit']})", "score"]
    rows = [[f"{each['scale']:g}", f"{each['loss']:.4f}", f"{each['score']:.4f}"] for each in points]
    note = (
        f"On {found['tokens']:,} tokens of text {found['text']}. Scale 0 is the base below the head of this run, whose "
        f"{measure} is {found['before']:.4f}, and 1 the run."
    )
    content = [table("Score and general loss", headings, rows, headings[1:]), paragraph(note)]
    if len(points) > 2:
        curves = {name: [(each["scale"], each[name]) for each in points] for name in ("score", "loss")}
        charts = [
            line_chart("Score by scale", "Mean of the task's metrics.", "scale", "score", {"score": curves["score"]}),
            line_chart("General loss by scale", f"In {found['unit']}.", "scale", measure, {"loss": curves["loss"]}),
        ]
        content.append(element("div", *charts, class_="plots"))
    return [Section("General language modeling", content)]
