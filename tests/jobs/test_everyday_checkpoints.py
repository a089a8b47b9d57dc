"""Methods on checkpoints of other families than those of the matrix: each works, or is refused by one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.everyday_checkpoints import CHECKPOINTS, write_checkpoint

from peftkit.jobs.matrix_checks import FAILED, REFUSED, SUPPORTED, check_checkpoint
from peftkit.paths import conf_folder

METHODS = sorted(file.stem for file in (conf_folder() / "method").glob("*.yaml") if file.stem != "peft")
# Longformer's last layer and its global projections are in part unused; sinusoidal positions are constants
UNUSED_WEIGHTS = ("longformer", "roformer", "pegasus")
FEW = [
    ("mt5", "prefix", "seq2seq", SUPPORTED),
    ("bart", "zero_shot", "classification", SUPPORTED),
    ("longformer", "prompt", "classification", SUPPORTED),
    ("big_bird", "lora", "question_answering", SUPPORTED),
]


@pytest.mark.parametrize(("name", "method", "head", "status"), FEW)
def test_a_method_works_on_another_family_or_is_refused(
    name: str, method: str, head: str, status: str, tmp_path: Path
) -> None:
    folder = write_checkpoint(name, tmp_path / "checkpoint")
    (found,) = check_checkpoint(method, CHECKPOINTS[name][0], folder, tmp_path / "scratch", (head,))
    assert found.status == status, found.reason


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("method", METHODS)
def test_no_method_fails_on_any_family(name: str, method: str, tmp_path: Path) -> None:
    folder = write_checkpoint(name, tmp_path / "checkpoint")
    found = list(check_checkpoint(method, CHECKPOINTS[name][0], folder, tmp_path / "scratch"))
    failed = [each for each in found if each.status == FAILED]
    if name in UNUSED_WEIGHTS:
        failed = [each for each in failed if "trainable weights get no gradient" not in str(each.reason)]
    assert failed == []


@pytest.mark.parametrize("head", ["classification", "question_answering"])
@pytest.mark.parametrize("special", [("pad", "unk"), pytest.param(("eos", "unk"), marks=pytest.mark.slow)])
def test_a_decoder_without_some_special_tokens(special: tuple[str, ...], head: str, tmp_path: Path) -> None:
    folder = write_checkpoint("gpt2", tmp_path / "checkpoint", special=special)
    (found,) = check_checkpoint("lora", "gpt2", folder, tmp_path / "scratch", (head,))
    needs_end = head == "question_answering" and "eos" not in special
    assert found.status == (REFUSED if needs_end else SUPPORTED), found.reason
    assert not needs_end or "set eos_token in its tokenizer_config.json" in str(found.reason)
