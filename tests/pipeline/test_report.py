"""Reports of runs: what a page and the terminal show, and that nothing is shown unescaped."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.report_runs import classified, write_finished_run

from peftkit.config import UserError
from peftkit.jobs.report import show_report
from peftkit.metrics import METRICS
from peftkit.pipeline.report import make_report
from peftkit.pipeline.report.overview import resampled_interval
from peftkit.results.page import VOID, joined
from peftkit.results.page.charts import ticks

NAMES = ["billing", "<script>alert(1)</script>", 'sign "in" & out']
OVERRIDES = ("task=classification", "task.dataset=tickets.csv", "task.text=[text]", "task.label=queue")


class Page(HTMLParser):
    """The elements of a page, and the text of each table cell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.tags: list[str] = []
        self.cells: list[list[str]] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [f"{name}={value}" for name, value in attrs if name in ("src", "href", "onload", "onclick")]
        if tag not in VOID:
            self.opened.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.cells and {"td", "th"} & set(self.opened):
            self.cells[-1][-1] += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with an accuracy of 0.952 that never finds a class of five examples."""
    labels = [0] * 100 + [1] * 5
    columns = classified(labels, [0] * 105, NAMES, confidence=0.9)
    columns["text"][103] = "<img src=x onerror=alert(1)> & \u202e\x1b[31m"
    counts = {"train": dict(zip(NAMES, (280, 15, 5), strict=True))}
    target = tmp_path_factory.mktemp("runs") / "seed-0"
    scores = {"accuracy": 100 / 105, "macro_f1": 0.325}
    return write_finished_run(target, columns, *OVERRIDES, names=NAMES, scores=scores, label_counts=counts)


def test_a_class_that_the_accuracy_hides_is_named_first(folder: Path) -> None:
    report = make_report(folder)
    assert report.warnings[0] == (
        "class <script>alert(1)</script>: 0 of 5 right (recall 0.000, 95 % interval 0.000 to 0.434; accuracy 0.952), "
        "and it was never predicted"
    )
    assert report.warnings[1] == 'no validation example has the class sign "in" & out: not measured'
    assert report.warnings[2] == "every example was predicted as billing"
    assert report.lines[1].split() == ["<script>alert(1)</scrip…", "5", "–", "0.000", "0.000", "0.000", "to", "0.606"]
    assert all(len(line) <= 80 for line in report.lines)


def test_the_page_is_one_file_with_all_text_escaped(folder: Path) -> None:
    text = make_report(folder).write().read_text(encoding="utf-8")
    page = Page(text)
    assert page.opened == [] and page.links == []
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert "\u202e" not in text and "\x1b" not in text and "<img src=x" not in text
    assert "default-src &#x27;none&#x27;" in text and not re.search(r"https?://|@import|url\(", text)
    assert text.index("Look here first") < text.index("0 of 5 right") < text.index(">Classes<")
    assert page.tags.count("caption") == page.tags.count("table") > 5
    row = next(row for row in page.cells if row[0] == NAMES[1])
    assert row == [NAMES[1], "15", "5", "0", "0", "–", "0.000 0.000–0.434", "0.000 0.000–0.606"]
    mistakes = next(row for row in page.cells if row[0] == "103")
    assert mistakes == ["103", NAMES[1], NAMES[0], "0.900", "<img src=x onerror=alert(1)> & \ufffd[31m"]


def test_a_loss_that_training_made_larger_comes_first(tmp_path: Path) -> None:
    run = write_finished_run(
        tmp_path / "seed-0", classified([0, 1] * 9, [0, 1] * 9, ["a", "b"]), *OVERRIDES, names=["a", "b"]
    )
    assert not any("training loss" in each for each in make_report(run).findings)
    entries = ({"step": 10 * n, "loss": 0.7 * n, "epoch": n} for n in range(1, 5))
    (run / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert make_report(run).findings[0] == "The training loss rose from 0.7 to 2.8; try train.learning_rate=0.0001."


def test_line_ends_of_a_text_are_kept() -> None:
    assert joined(["a\r\nb\x0c"]) == "a\r\nb\ufffd"


def test_a_run_of_an_earlier_version_has_a_report_too(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old"
    old.mkdir()
    (old / "result.json").write_bytes((folder / "result.json").read_bytes())
    table = pq.read_table(folder / "predictions.parquet").select(["id", "split", "label", "prediction", "scores"])
    pq.write_table(table, old / "predictions.parquet")
    report = make_report(old)
    assert report.warnings == make_report(folder).warnings and report.lines == make_report(folder).lines
    page = report.write().read_text(encoding="utf-8")
    assert "recorded before peftkit recorded the texts" in page and "too few points" in page
    show_report(old)
    assert "ECE 0.052" in capsys.readouterr().out


def test_a_report_that_fails_loses_no_result(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "result.json").write_bytes((folder / "result.json").read_bytes())
    (broken / "report.html").write_text("")
    (broken / "predictions.parquet").write_bytes(b"PAR1")
    show_report(broken)
    shown = capsys.readouterr()
    assert shown.out == "" and "!! no report: " in shown.err and f"job=report run={broken}" in shown.err


@pytest.mark.parametrize(
    "damage",
    [{"meta": {"status": "finished"}}, {"costs": {"steps": "many"}}, {"audit": {"sources": [], "label_names": [1]}}],
)
def test_a_damaged_result_is_refused_by_its_folder(tmp_path: Path, folder: Path, damage: dict) -> None:
    record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    (tmp_path / "result.json").write_text(json.dumps(record | damage))
    (tmp_path / "predictions.parquet").write_bytes((folder / "predictions.parquet").read_bytes())
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        make_report(tmp_path)


@pytest.mark.parametrize("limits", [(0.0, 1.0), (0.0, 20.0), (0.53, 0.67), (-3.0, 1e6), (1e-5, 2e-5)])
def test_ticks_are_round_and_few(limits: tuple[float, float]) -> None:
    found = ticks(limits)
    assert 3 <= len(found) <= 8 and limits[0] - 1e-9 <= found[0] < found[-1] <= limits[1] + 1e-9


@pytest.mark.slow
def test_intervals_of_scores_equal_those_of_resampled_examples() -> None:
    from sklearn.metrics import f1_score, matthews_corrcoef

    random = np.random.default_rng(0)
    labels = random.choice(3, 150, p=[0.6, 0.3, 0.1])
    predictions = np.where(random.random(150) < 0.7, labels, random.integers(0, 3, 150))
    draws = [random.integers(0, 150, 150) for _ in range(1000)]
    scores = {"matthews_correlation": matthews_corrcoef, "macro_f1": lambda *a: f1_score(*a, average="macro")}
    for name, score in scores.items():
        expected = np.percentile([score(labels[drawn], predictions[drawn]) for drawn in draws], [2.5, 97.5])
        found = resampled_interval(METRICS[name], labels.tolist(), predictions.tolist(), 3)
        np.testing.assert_allclose(found, expected, atol=0.02)
    assert np.isnan(resampled_interval(METRICS["macro_f1"], list(range(1000)), list(range(1000)), 1000)).all()
