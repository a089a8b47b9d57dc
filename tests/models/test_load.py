"""A checkpoint is found where the user said, and the commit that was found is what is recorded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from helpers.commands import compose_config
from omegaconf import OmegaConf

from peftkit.config import RunConfig, UserError
from peftkit.config.source import Source
from peftkit.models.tokenizer import load_tokenizer

SHA = "0123456789abcdef0123456789abcdef01234567"
NOWHERE = "http://127.0.0.1:9"
# a process of its own, as huggingface_hub reads where the Hub is once; `locate` asks whether it answers once
ASK = """
import json, os, sys
from huggingface_hub import constants
from omegaconf import OmegaConf
from helpers.commands import compose_config as compose
from peftkit.models.checkpoints import locate
from peftkit.config import RunConfig, UserError
from peftkit.config.source import hub_is_reachable
for endpoint, *words in json.load(sys.stdin):
    os.environ["HF_ENDPOINT"] = constants.ENDPOINT = endpoint
    hub_is_reachable.cache_clear()
    run = RunConfig.from_config(OmegaConf.to_container(compose(words), resolve=True))
    try: print(locate(run.model, run.source))
    except UserError as error: print("UserError:", error)
"""


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def answers(hub: str) -> dict[str, str]:
    """Return where a fresh process finds a checkpoint, by what it was asked."""
    questions = {
        "a branch": [hub, "model.checkpoint=some/model", "model.revision=main"],
        "another model": [hub, "model.checkpoint=some/other"],
        "no hub, source=hub": [NOWHERE, "source=hub"],
        "no hub, source=auto": [NOWHERE, "source=auto"],
    }
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", ASK], input=json.dumps([*questions.values()]), capture_output=True, text=True,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(zip(questions, done.stdout.splitlines(), strict=True))


@pytest.mark.slow
def test_a_branch_of_the_hub_is_recorded_as_its_commit(answers: dict[str, str]) -> None:
    assert "kind='hub'" in answers["a branch"] and SHA in answers["a branch"]


@pytest.mark.slow
def test_a_model_that_the_hub_lacks_is_a_sentence(answers: dict[str, str]) -> None:
    assert "has no model some/other" in answers["another model"]


def test_no_hub_and_source_hub_is_an_error_and_auto_says_what_stands_in(answers: dict[str, str]) -> None:
    assert "UserError: the Hub does not answer" in answers["no hub, source=hub"]
    assert "substituted_for='google-bert/bert-base-uncased'" in answers["no hub, source=auto"]


def test_what_a_run_made_of_a_stand_in_stands_in_for_it_too(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    from peftkit.models.checkpoints import locate

    folder = tmp_path / "seed-0" / "model"
    shutil.copytree(checkpoints["gpt2"], folder)
    run = RunConfig.from_config(
        OmegaConf.to_container(compose_config(["model=gpt2", f"model.checkpoint={folder}"]), resolve=True)
    )
    assert locate(run.model, "offline").substituted_for is None
    for asked in ("openai-community/gpt2", None):
        model = {"kind": "offline", "name": "gpt2-mini", "substituted_for": asked}
        (folder.parent / "result.json").write_text(json.dumps({"audit": {"sources": {"model": model}}}))
        found = locate(run.model, "offline")
        assert (found.kind, found.substituted_for) == ("folder", asked)
        assert ("derived from an offline one" in found.substitution("MODEL")) == (asked is not None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),  # transformers has a class for it
        ({"model_type": "evil"}, "its own code .* is not run"),
        ({"attn_implementation": "evil/kernel"}, "needs attention kernels from the Hub"),
    ],
)
def test_code_of_a_checkpoint_is_never_run(
    changes: dict[str, str],
    message: str | None,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from peftkit.models.checkpoints import load_pretrained_config
    from peftkit.pipeline.libraries import library_settings

    folder = shutil.copytree(checkpoints["bert"], tmp_path / "model")
    code = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoTokenizer": ["evil.Tokenizer", None]}
    for name in ("config.json", "tokenizer_config.json"):
        settings = (
            json.loads((folder / name).read_text()) | {"auto_map": code} | (changes if name == "config.json" else {})
        )
        (folder / name).write_text(json.dumps(settings))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question on stdin"))
    source = Source("folder", str(folder), folder=str(folder))
    with nullcontext() if message is None else pytest.raises(UserError, match=message), library_settings("offline"):
        assert load_pretrained_config(source).model_type == "bert"
        load_tokenizer(source)
    assert not (tmp_path / "marker").exists()


def edited_config(checkpoint: Path, folder: Path, *left_out: str, **changes: object) -> Source:
    """Copy a checkpoint without these keys of its config.json, and with changes."""
    shutil.copytree(checkpoint, folder)
    settings = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(
        json.dumps({key: value for key, value in settings.items() if key not in left_out})
    )
    return Source("folder", str(folder), folder=str(folder))


@pytest.mark.parametrize(
    ("left_out", "changes"),
    [(("model_type", "architectures"), {}), ((), {"model_type": "unheard_of"}), ((), {"hidden_size": "wide"})],
)
def test_a_config_that_transformers_rejects_is_refused_by_name(
    left_out: tuple[str, ...], changes: dict[str, object], checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    from peftkit.models.checkpoints import load_pretrained_config

    with pytest.raises(UserError, match=r"correct its config\.json"):
        load_pretrained_config(edited_config(checkpoints["bert"], tmp_path / "model", *left_out, **changes))


def test_t5_without_a_start_token_starts_with_its_padding(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    from peftkit.models.checkpoints import load_pretrained_config

    ids = ("decoder_start_token_id", "pad_token_id", "eos_token_id")
    config = load_pretrained_config(edited_config(checkpoints["t5"], tmp_path / "model", *ids))
    assert config.decoder_start_token_id == config.pad_token_id == 0
