"""The report of a run: report.html in its folder, and lines for the terminal, by the kind of its task."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from peftkit.config import UserError, error_summary
from peftkit.config.console import log
from peftkit.config.quoting import as_override
from peftkit.pipeline.report.answers import BYTES, MARGINS, RANKS, answer_sections, extreme_section
from peftkit.pipeline.report.classification import classification_sections
from peftkit.pipeline.report.forgetting import forgetting_sections
from peftkit.pipeline.report.multilabel import multilabel_sections
from peftkit.pipeline.report.other_scores import other_scores
from peftkit.pipeline.report.overview import CURVE, common_sections, headline
from peftkit.pipeline.report.regression import regression_sections
from peftkit.pipeline.report.run_data import RunData, Section, read_run
from peftkit.pipeline.report.tagging import tagging_sections
from peftkit.results.page import Html, element, list_of, page, section, write_page

__all__ = ["FILE", "Report", "make_report", "try_report"]

FILE = "report.html"
# a kind that is not listed has the sections that all kinds have
SECTIONS: dict[str, Callable[[RunData], list[Section]]] = {
    "classification": classification_sections,
    "multilabel": multilabel_sections,
    "regression": regression_sections,
    "token_classification": tagging_sections,
    **dict.fromkeys(("question_answering", "seq2seq", "causal_lm", "instructions"), answer_sections),
    "language_modeling": lambda run: [extreme_section(run, BYTES)],
    "retrieval": lambda run: [extreme_section(run, RANKS)],
    "preferences": lambda run: [extreme_section(run, MARGINS)],
}


class Report:
    """The report of a finished run."""

    def __init__(self, run: RunData) -> None:
        self.run = run
        kind = run.config.task.kind
        self.own = SECTIONS[kind](run) if kind in SECTIONS and run.columns.get("id") else []
        self.sections = [*self.own, *other_scores(run), *forgetting_sections(run), *common_sections(run)]
        self.page = self._page()

    @property
    def findings(self) -> list[str]:
        """What a reader should see first about the predictions and the training."""
        shown = [*(each for each in self.sections if each.title == CURVE), *self.own]
        return [warning for each in shown for warning in each.warnings]

    @property
    def warnings(self) -> list[str]:
        """What a reader should see first, also about the data."""
        return [warning for each in self.sections for warning in each.warnings]

    @property
    def lines(self) -> list[str]:
        """The short report of the terminal, without the warnings."""
        return [line for each in self.sections for line in each.lines]

    def write(self) -> Path:
        """Write report.html in the run folder."""
        write_page(self.page, self.run.folder / FILE)
        return self.run.folder / FILE

    def _page(self) -> str:
        config = self.run.config
        warnings = [element("h2", "Look here first"), list_of(self.warnings)]
        parts: list[Html] = [
            headline(self.run),
            *([element("div", *warnings, class_="warnings")] if self.warnings else []),
            *(section(each.title, *each.content) for each in self.sections),
        ]
        return page(f"{config.method.name} on {config.task.name}", *parts)


def make_report(folder: Path) -> Report:
    """Read a run folder and return its report.

    Raises:
        UserError: the run is not finished, or a file of it cannot be read.
    """
    run = read_run(folder)
    try:
        return Report(run)
    except (LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
        if "PEFTKIT_DEBUG" in os.environ:
            raise
        raise UserError(f"{folder} has other content than a run records: {error_summary(error)}") from error


def try_report(folder: Path, writes: bool = True) -> Report | None:
    """Return the report of a run that is recorded already, and write its page; a failure is only logged."""
    try:
        report = make_report(folder)
        if writes:
            report.write()
        return report
    except Exception as error:  # the result is complete without a report
        reason = str(error) if isinstance(error, UserError) else error_summary(error)
        log(f"!! no report: {reason}; repeat it with job=report run={as_override(folder)}")
        return None
