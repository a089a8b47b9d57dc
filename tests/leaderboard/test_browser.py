"""The page works in a real browser, from disk, on a phone and on a wide screen, in light and dark."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.synthetic_board import HOSTILE, make_board

from peftkit.jobs.leaderboard import write
from peftkit.leaderboard.board import Board

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium: apt-get install chromium"),
]
SCREENS = [(360, "light"), (360, "dark"), (1280, "light"), (1280, "dark"), (2560, "light"), (2560, "dark")]
# what holds text and shows less of it than there is, but for what scrolls
CUT_OFF = """() => [...document.querySelectorAll("td, th, dd, dt, p, summary, code, figcaption, li, h1, h2, h3, button, dialog")]
  .filter((each) => each.offsetParent && !each.closest(".hidden") && each.scrollWidth > each.clientWidth + 1 && each.clientWidth)
  .map((each) => `${each.tagName} ${each.className}: ${each.textContent.slice(0, 60)}`)"""


@pytest.fixture(scope="module")
def board_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    make_board(root, seeds=3)
    write(Board.read([root]), root / "board", "python -m peftkit job=leaderboard")
    return root / "board" / "index.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def opened(browser: Any, board_file: Path) -> Iterator[Any]:
    """Return a function that opens the board; whatever a page complained about fails the test at its end."""
    complaints: list[str] = []
    contexts = []

    def visit(width: int = 1280, scheme: str = "light", file: Path = board_file) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append("a dialog opened"))
        page.goto(file.as_uri())
        page.wait_for_selector("#heat-table td")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []


def column(page: Any, place: int) -> list[str]:
    return page.locator(f"#entries tbody tr > :nth-child({place})").all_inner_texts()


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_nothing_is_cut_off(opened: Any, width: int, scheme: str) -> None:
    page = opened(width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CUT_OFF) == []
    page.locator("#entries .name").first.click()
    page.wait_for_selector("dialog[open] svg")
    assert page.evaluate(CUT_OFF) == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(23, 23, 21)"
    assert dark == (scheme == "dark")


def test_a_column_sorts_both_ways_and_back(opened: Any) -> None:
    page = opened()
    before = column(page, 1)
    head = page.get_by_role("button", name="Trained parameters")
    head.click()
    assert page.locator("th[aria-sort=ascending]").inner_text() == "Trained parameters"
    assert column(page, 1)[0] == "linear_probe"
    head.click()
    assert page.locator("th[aria-sort=descending]").count() == 1
    assert column(page, 1)[0] == "full"
    head.press("Enter")
    assert column(page, 1) == before


def test_filters_narrow_the_entries_and_show_how_many(opened: Any) -> None:
    page = opened()
    page.get_by_role("combobox", name="Task", exact=True).select_option("mrpc")
    assert set(column(page, 2)) == {"mrpc"}
    page.get_by_role("searchbox").fill("lora")
    assert sorted(column(page, 1)) == ["lora", "rslora"]
    assert page.get_by_role("status").first.inner_text() == "2 of 62 entries"
    page.reload()
    assert sorted(column(page, 1)) == ["lora", "rslora"]
    page.get_by_role("button", name="Clear").click()
    assert len(column(page, 1)) == 62


def test_axes_are_the_readers_choice_and_times_of_one_machine(opened: Any) -> None:
    page = opened()
    assert "Score against Trained parameters" in page.locator("#trade-plots svg").first.get_attribute("aria-label")
    page.get_by_label("x axis").select_option(label="Training time")
    page.wait_for_function(
        "document.querySelector('#trade-plots svg').getAttribute('aria-label').includes('Training time')"
    )
    assert "Only runs on cpu: AMD EPYC" in page.locator("#trade-note").inner_text()
    page.get_by_label("Machine").select_option(label="cuda: NVIDIA H200")
    page.wait_for_function("document.querySelectorAll('#trade-plots svg').length === 1")
    assert "of 1 entries" in page.locator("#trade-plots svg").get_attribute("aria-label")


def test_details_open_by_keyboard_and_give_focus_back(opened: Any) -> None:
    page = opened()
    page.locator("#entries .name", has_text="ia3").first.focus()
    page.keyboard.press("Enter")
    details = page.get_by_role("dialog")
    text = details.inner_text()
    assert "python -m peftkit recipe=glue_leaderboard model=minilm method=ia3 task=cola" in text
    for part in (
        "Scores of each seed",
        "Costs",
        "Examples truncated",
        "revision bcdcba79d07b",
        "Trials",
        "Training loss",
    ):
        assert part in text
    page.keyboard.press("Escape")
    assert not details.is_visible()
    assert page.evaluate("document.activeElement.textContent") == "ia3"


def test_a_tick_draws_the_curves_of_an_entry(opened: Any) -> None:
    page = opened()
    page.get_by_label("Learning curve of prompt on mrpc").check()
    assert "prompt · mrpc" in page.locator("#curve-plot .legend").inner_text()
    assert "prompt on mrpc" in page.locator("#curve-plot svg.plot").get_attribute("aria-label")


def test_a_substitute_has_a_warning_and_its_own_board(opened: Any) -> None:
    page = opened()
    assert not page.locator("#substitute").is_visible()
    page.get_by_label("Board").select_option(index=1)
    assert page.locator("#substitute").inner_text().startswith("OFFLINE: data miniglue substitutes")
    assert len(column(page, 1)) == 3


def test_text_of_a_run_is_shown_and_not_obeyed(opened: Any) -> None:
    page = opened()
    page.locator("#entries .name", has_text="onerror").first.click()
    assert page.locator("#details-title").text_content() == HOSTILE
    assert page.locator("img").count() == 0


def test_the_theme_is_the_readers_choice(opened: Any) -> None:
    page = opened(scheme="dark")
    for name in ("light", "dark", "auto"):
        page.locator("#theme").click()
        assert page.locator("#theme").inner_text() == f"Theme: {name}"
        is_dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(23, 23, 21)"
        assert is_dark == (name != "light")


def test_ten_thousand_results_stay_usable(opened: Any, tmp_path: Path) -> None:
    make_board(tmp_path, rates=56, predictions=False)
    write(Board.read([tmp_path]), tmp_path / "board", "")
    page = opened(file=tmp_path / "board" / "index.html")
    assert page.get_by_role("status").first.inner_text() == "3362 entries"
    started = time.monotonic()
    page.get_by_role("button", name="Score", exact=True).click()
    page.get_by_role("searchbox").fill("adapter rte")
    page.wait_for_function("document.querySelectorAll('#trade-plots svg').length === 1")
    assert page.get_by_role("status").first.inner_text() == "56 of 3362 entries"
    assert time.monotonic() - started < 5  # about a second where nothing else runs
