"""The page shows what the runs recorded, keeps offline substitutes separate, and escapes every text of a run."""

from __future__ import annotations

import html.parser
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers.recorded_runs import write_run
from helpers.synthetic_board import HOSTILE, MACHINES, make_board

from peftkit.leaderboard.board import Board
from peftkit.leaderboard.page import page_data, render_page
from peftkit.leaderboard.page.data import POINTS
from peftkit.leaderboard.reading import collect
from peftkit.leaderboard.runs import BoardRun
from peftkit.leaderboard.sentences import headlines
from peftkit.leaderboard.stats import board_entries
from peftkit.metrics import score


def shown(root: Path) -> dict[str, Any]:
    return page_data(Board.read([root]))


class Elements(html.parser.HTMLParser):
    """Keeps the page's elements and the text of its scripts, as a browser would find them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action")]
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script":
            self.scripts[-1] += data


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    make_board(root, seeds=2, predictions=False)
    return root


def test_what_is_made_up_is_scored_as_it_predicts(tmp_path: Path) -> None:
    make_board(tmp_path, seeds=1, extras=False)
    results = [result for result in collect([tmp_path]) if isinstance(result, BoardRun) and result.method == "lora"]
    assert len(results) == 5
    for result in results:
        predictions = pq.read_table(result.folder / "predictions.parquet").to_pydict()
        told = score(list(result.scores), predictions["prediction"], predictions["label"])
        assert {name: entry["value"] for name, entry in result.scores.items()} == pytest.approx(
            {name: entry["value"] for name, entry in told.items()}, abs=1e-9
        )


def test_text_of_a_run_stays_data(made_up: Path) -> None:
    page = Elements(render_page(shown(made_up)))
    assert page.tags.count("script") == 4  # data, two libraries, the page's own
    assert "img" not in page.tags
    offline = json.loads(page.scripts[0])
    assert HOSTILE in {row["method"] for row in offline["entries"]}


def test_the_page_loads_nothing_else(made_up: Path) -> None:
    page = render_page(shown(made_up))
    assert not [address for address in Elements(page).addresses if re.match("(https?:)?//", address)]
    assert "default-src 'none'" in page


def test_only_the_scripts_of_the_page_may_run(made_up: Path) -> None:
    import base64
    import hashlib

    page = render_page(shown(made_up))
    _, *scripts = Elements(page).scripts
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert re.findall(r"'sha256-(.+?)'", page[:2000]) == hashes


def test_a_substitute_has_a_board_of_its_own(made_up: Path) -> None:
    found = shown(made_up)
    assert [each["offline"] for each in found["boards"]] == [False, True]
    substitutes = {row["board"] for row in found["entries"] if row["sources"]["data"].get("substituted_for")}
    assert substitutes == {found["boards"][1]["title"]}


def test_an_entry_has_its_seeds_with_the_command_that_repeats_each(tmp_path: Path) -> None:
    make_board(tmp_path, seeds=3, predictions=False, extras=False)
    row = next(row for row in shown(tmp_path)["entries"] if (row["method"], row["task"]) == ("ia3", "rte"))
    assert [run["seed"] for run in row["runs"]] == [0, 1, 2]
    words = shlex.split(row["runs"][1]["command"])
    assert words[:3] == ["python", "-m", "peftkit"]
    assert {"method=ia3", "task=rte", "seed=1"} <= set(words)
    assert row["low"] < row["score"] < row["high"]


def test_times_keep_their_machine(made_up: Path) -> None:
    rows = shown(made_up)["entries"]
    row = next(row for row in rows if len(row["timed"]) == 2)
    seconds = [row["timed"][machine]["train_seconds"] for machine in MACHINES]
    assert seconds[0] > 10 * seconds[1]


def test_a_failed_run_is_listed_with_its_reason(made_up: Path) -> None:
    reasons = {run["problem"] for run in shown(made_up)["failed"]}
    assert "failed: vera needs equal shapes; try method=lora" in reasons


def test_unfinished_runs_are_listed_after_failed_ones(tmp_path: Path) -> None:
    write_run(tmp_path, "a", method="ia3", status="running")
    write_run(tmp_path, "b", status="failed", reason="out of memory")
    found = shown(tmp_path)
    assert [(run["method"], run["unfinished"]) for run in found["failed"]] == [("lora", False), ("ia3", True)]
    assert {row["method"]: row["without"] for row in found["entries"]} == {"lora": "failed", "ia3": "unfinished"}


def test_an_entry_without_anything_optional_is_shown(tmp_path: Path) -> None:
    write_run(tmp_path, "a")  # no log, no overrides, no search, one seed
    (row,) = shown(tmp_path)["entries"]
    assert (row["low"], row["curves"], row["search"], row["runs"][0]["command"]) == (None, [], None, None)


def test_nothing_but_a_broken_result_makes_a_page(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{")
    assert json.loads(Elements(render_page(shown(tmp_path))).scripts[0])["failed"][0]["folder"] == str(tmp_path)


def test_a_number_that_json_lacks_becomes_null() -> None:
    page = render_page({"rows": [float("nan"), float("inf"), 1.5, "\ud800"]})
    assert json.loads(Elements(page).scripts[0]) == {"rows": [None, None, 1.5, "?"]}


def test_a_long_log_is_sampled_from_its_first_to_its_last_step(tmp_path: Path) -> None:
    write_run(tmp_path, "a")
    lines = [json.dumps({"step": step, "loss": 1 / step}) for step in range(1, 1001)]
    (tmp_path / "a" / "log.jsonl").write_text("\n".join([*lines, '{"step": 1001, "train_runtime": 3', "[]"]))
    (row,) = shown(tmp_path)["entries"]
    ((seed, steps, losses),) = row["curves"]
    assert (seed, len(steps), steps[0], steps[-1]) == (0, POINTS, 1, 1000)
    assert losses[-1] == 0.001


def test_the_headline_names_the_tied_and_the_lightest_of_them(tmp_path: Path) -> None:
    for method, value in {"full": 0.9, "lora": 0.89, "ia3": 0.7}.items():
        write_run(tmp_path, method, method=method, value=value)
    rows = board_entries(collect([tmp_path]))
    ((_, text),) = headlines(rows, ["a", "a", "b"], {(rows[0].board, "rte"): 0.021})[rows[0].board]
    assert text.startswith(
        "full has the best mean, 90.0. No significant difference from the best: lora; significantly worse: ia3."
    )
    assert "Minimum detectable difference (80 % power): 2.1 points." in text
    ((_, alone),) = headlines(rows, ["a", "b", "c"], {})[rows[0].board]
    assert alone == "full is best with 90.0, significantly better than each of the other 2."
    ((_, all_tied),) = headlines(rows, ["a", "a", "a"], {})[rows[0].board]
    assert all_tied == "no significant differences among 3 entries; full has 90.0."


def test_without_a_test_no_method_is_called_best(tmp_path: Path) -> None:
    write_run(tmp_path, "a", method="full", value=0.9)
    write_run(tmp_path, "b", value=0.8)
    rows = board_entries(collect([tmp_path]))
    ((_, text),) = headlines(rows, ["", ""], {})[rows[0].board]
    assert text == "full has the highest mean, 90.0; differences were not tested."
