"""A local web server for the leaderboard's page, which reloads when a run finishes."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any

from peftkit.config.console import log
from peftkit.leaderboard.reading import run_folders

HOST, PORT = "127.0.0.1", 8420  # a fixed port, so that a browser tab stays valid after a restart
CHECK_SECONDS = 2.0  # between two checks of the folders


class PageHandler(SimpleHTTPRequestHandler):
    """Serves the files of one folder, and at /version a text that changes with them."""

    def __init__(self, *args: Any, version: Callable[[], str], **kwargs: Any) -> None:
        self.version = version
        super().__init__(*args, **kwargs)

    def send_head(self) -> Any:
        """Send the headers of the answer to GET and HEAD, and return its content."""
        if self.headers.get("Host", "").rsplit(":", 1)[0] not in (HOST, "localhost"):
            self.send_error(403, "only localhost is served")  # refuses DNS rebinding by other sites
            return None
        if self.path != "/version":
            return super().send_head()
        text = self.version().encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        return BytesIO(text)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Log no requests: the terminal shows messages about runs."""


def watch(folders: Sequence[Path], target: Path, write: Callable[[], None]) -> None:
    """Serve `target` and call `write` whenever a result below the folders changes, until Ctrl-C."""
    seen = results_version(folders)
    write()
    server = serve(target, lambda: str(seen))
    log(start_message(server.server_port, folders[0], seen))
    try:
        while True:
            time.sleep(CHECK_SECONDS)
            now = results_version(folders)
            if now != seen:
                write()
                seen = now
                log(f"updated: {now[0]} results")
    except KeyboardInterrupt:
        log("stopped")
    finally:
        server.shutdown()
        server.server_close()


def start_message(port: int, out: Path, seen: tuple[int, int]) -> str:
    """Return a message with the address, and a hint if `out` has no results, since it may be mistyped."""
    hint = "" if seen[0] else f"; {out} has no results yet; set out=FOLDER if your runs are elsewhere"
    return f"http://{HOST}:{port}/ shows the runs in {out}; Ctrl-C stops it{hint}"


def serve(target: Path, version: Callable[[], str]) -> ThreadingHTTPServer:
    """Serve a folder from a new thread, at PORT if it is free, otherwise at another port."""
    handler = partial(PageHandler, directory=str(target), version=version)
    try:
        server = ThreadingHTTPServer((HOST, PORT), handler)
    except OSError:
        server = ThreadingHTTPServer((HOST, 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    return server


def results_version(folders: Sequence[Path]) -> tuple[int, int]:
    """Return the number of results below the folders and the time of the latest."""
    times = []
    for folder in run_folders(folders):
        with suppress(OSError):  # removed in the meantime, or read from an archive, which does not change
            times.append((folder / "result.json").stat().st_mtime_ns)
    return len(times), max(times, default=0)
