"""A checkpoint is found where the user said, and the commit that was found is what is recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

SHA = "0123456789abcdef0123456789abcdef01234567"
ASK = """
from peftkit.cli import compose
from peftkit.models.load import locate
from peftkit.schema import Run, UserError
from omegaconf import OmegaConf
import sys
run = Run.from_config(OmegaConf.to_container(compose(sys.argv[1:]), resolve=True))
try: print(locate(run.model, run.source))
except UserError as error: print("UserError:", error)
"""


@pytest.fixture
def hub() -> Iterator[str]:
    """A hub on this machine that knows one model."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def do_GET(self) -> None:
            known = "/api/models/some/model" in self.path
            self.send_response(200 if known else 404)
            if not known:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            self.wfile.write(json.dumps({"id": "some/model", "sha": SHA} if known else {"error": "no"}).encode())

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def ask(endpoint: str, *words: str) -> str:
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", ASK, *words], capture_output=True, text=True, env=environment)
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr


def test_a_branch_of_the_hub_is_recorded_as_its_commit(hub: str) -> None:
    found = ask(hub, "model.checkpoint=some/model", "model.revision=main")
    assert "kind='hub'" in found
    assert SHA in found


def test_a_model_that_the_hub_lacks_is_a_sentence(hub: str) -> None:
    assert "has no model some/other" in ask(hub, "model.checkpoint=some/other")


def test_no_hub_and_source_hub_is_an_error_and_auto_says_what_stands_in() -> None:
    nowhere = "http://127.0.0.1:9"
    assert "UserError: the Hub does not answer" in ask(nowhere, "source=hub")
    assert "substituted_for='google-bert/bert-base-uncased'" in ask(nowhere, "source=auto")
