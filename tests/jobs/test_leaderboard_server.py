"""A watched board is served only to this machine, and is updated when a run finishes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from peftkit.jobs.leaderboard_server import results_version, serve, start_message

RESULT = Path("glue/rte/bert/lora/seed-0/result.json")


def get(address: str, host: str | None = None, method: str = "GET") -> str:
    request = urllib.request.Request(address, headers={"Host": host} if host else {}, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode()


def land(root: Path, text: str = "{}") -> None:
    file = root / RESULT
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_a_result_that_lands_changes_the_fingerprint(tmp_path: Path) -> None:
    before = results_version([tmp_path])
    land(tmp_path)
    after = results_version([tmp_path])
    (tmp_path / "leaderboard").mkdir()
    (tmp_path / "leaderboard" / "index.html").write_text("x")
    assert before != after == results_version([tmp_path])


def test_the_folder_is_served_with_its_version_to_this_machine_alone(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("the page")
    server = serve(tmp_path, lambda: "7")
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        assert (get(address), get(f"{address}/version")) == ("the page", "7")
        for method in ("GET", "HEAD"):
            assert get(address, method=method) == ("the page" if method == "GET" else "")
            for path in ("", "/version"):
                with pytest.raises(urllib.error.HTTPError, match="403"):
                    get(address + path, host="elsewhere.example", method=method)
        assert server.server_address[0] == "127.0.0.1"
    finally:
        server.shutdown()
        server.server_close()


def test_a_folder_without_results_gives_a_hint(tmp_path: Path) -> None:
    assert f"; {tmp_path} has no results yet; set out=FOLDER" in start_message(1, tmp_path, results_version([tmp_path]))
    land(tmp_path)
    assert (
        start_message(1, tmp_path, results_version([tmp_path]))
        == f"http://127.0.0.1:1/ shows the runs in {tmp_path}; Ctrl-C stops it"
    )


@pytest.mark.slow
def test_watch_follows_a_run_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "peftkit", "job=leaderboard", f"out={tmp_path}", "watch=true"]
    ended = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env={**os.environ, "RANK": "0"})
    assert ended.stderr is not None
    try:
        address = ended.stderr.readline().split()[0]
        assert '"runs":0' in get(address)
        first = get(f"{address}version")
        land(tmp_path)
        deadline = time.monotonic() + 60
        while get(f"{address}version") == first and time.monotonic() < deadline:
            time.sleep(0.5)
        assert '"runs":1' in get(address)
    finally:
        ended.send_signal(signal.SIGINT)
    assert ended.wait(30) == 0
