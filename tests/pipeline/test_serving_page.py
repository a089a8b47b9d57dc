"""The page of a server in a real browser: by keyboard alone, on a wide screen and on a phone, without other hosts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import commands

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium: apt-get install chromium"),
]
SHOTS = os.environ.get("SCREENSHOTS")  # a folder for pictures of the page
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"
REFUSED = "Failed to load resource"  # by the status of an answer that the page shows
WIDTHS = (1400, 420)


@pytest.fixture(scope="module")
def address(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a server of two runs, a label of which is markup."""
    pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    root = tmp_path_factory.mktemp("page")
    rows = "".join(f'"the film {n}","{["fine", HOSTILE][n % 2]}"\n' for n in range(24))
    (root / "data.csv").write_text(f"text,label\n{rows}")
    trained = commands.trained_once(checkpoints, root / "runs")
    own = ("task=classification", f"task.dataset={root}/data.csv", "task.text=[text]", "task.label=label")
    folders = [trained("bert", "lora", *own), trained("bert", "lora", "task=stsb")]
    command = ["job=serve", f"runs=[{','.join(map(str, folders))}]", "source=offline", "serve.port=0"]
    server = subprocess.Popen([sys.executable, "-m", "peftkit", *command], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    line = next(each for each in server.stderr if each.startswith("http://"))
    threading.Thread(target=server.stderr.read, daemon=True).start()
    yield line.split(" ")[0]
    server.terminate()
    server.wait(60)


@pytest.fixture(scope="module")
def browser(address: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        running = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(params=WIDTHS)
def page(request: pytest.FixtureRequest, browser: Any, address: str) -> Iterator[Any]:
    """Return the open page; what it complains about, and requests to other hosts, fail the test at its end."""
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": request.param, "height": 900})
    found = context.new_page()
    found.on("console", lambda message: REFUSED in message.text or complaints.append(message.text))
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.on("dialog", lambda dialog: complaints.append("a dialog opened"))
    context.on("request", lambda sent: sent.url.startswith((address, "data:")) or complaints.append(sent.url))
    found.goto(address)
    found.wait_for_selector("textarea")
    yield found
    if SHOTS:
        found.screenshot(path=f"{SHOTS}/{request.node.name}.png")
    assert found.evaluate("document.documentElement.scrollWidth") <= request.param
    context.close()
    assert complaints == []


def focused(page: Any) -> str:
    return str(page.evaluate("document.activeElement.id"))


def answered(page: Any) -> str:
    """Return the shown answer once it is there."""
    page.wait_for_selector("#answer[aria-busy=false]:not([hidden])")
    return str(page.inner_text("#answer"))


def test_a_text_is_typed_and_sent_by_keyboard_alone_and_markup_stays_text(page: Any) -> None:
    page.keyboard.press("Tab")
    assert focused(page) == "run"
    page.keyboard.press("Tab")
    assert focused(page) == "field-0"
    page.keyboard.type(f"the film {HOSTILE} " + "longword" * 40)
    page.keyboard.press("Tab")
    assert focused(page) == "send"
    page.keyboard.press("Enter")
    assert "Confidence" in answered(page) and focused(page) == "send"
    labels = page.locator("#answer .bars .name").all_inner_texts()
    assert sorted(labels) == sorted(["fine", HOSTILE]) and page.inner_text("#answer h2") == labels[0]
    assert page.locator("#answer script, #answer img").count() == 0
    assert page.locator("#answer").get_attribute("aria-live") == "polite"


def test_another_run_is_chosen_by_keyboard_and_predicts_by_a_shortcut(page: Any) -> None:
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    assert page.locator("textarea").count() == 2
    for text in ("A man plays a guitar.", "A man is playing music."):
        page.keyboard.press("Tab")
        page.keyboard.type(text)
    page.keyboard.press("Control+Enter")
    float(answered(page))
    assert focused(page) == "field-1"


def test_what_the_server_refuses_is_shown_as_its_sentence(page: Any) -> None:
    page.evaluate("document.getElementById('field-0').maxLength = 50000")
    page.fill("#field-0", "x" * 30_000)
    page.get_by_role("button", name="Predict").press("Enter")
    page.wait_for_selector("#answer [role=alert]")
    assert answered(page) == "examples[0] has more than 20000 characters, serve.max_characters"


def test_a_server_that_ended_is_named(page: Any) -> None:
    page.context.set_offline(True)
    page.fill("#field-0", "the film")
    page.get_by_role("button", name="Predict").press("Enter")
    page.wait_for_selector("#answer [role=alert]")
    assert answered(page) == "The server does not answer; is it still running?"
