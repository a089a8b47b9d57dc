"""Merge an adapter into its base and write a plain checkpoint."""

from pathlib import Path
from typing import Any

from peftkit.config import RunConfig, UserError, is_prompted
from peftkit.config.console import log
from peftkit.config.families import base_type
from peftkit.jobs import extend
from peftkit.models.custom_code import CODE
from peftkit.pipeline.artifacts import load_bundle
from peftkit.pipeline.merged import random_token_scores, write_checkpoint, write_merged
from peftkit.results.locks import locked_file
from peftkit.results.model_card import describe_merge
from peftkit.results.run_result import RunResult


def merge(config: RunConfig) -> Path:
    """Merge the adapter or new embedding rows into the base; write a checkpoint that transformers loads."""
    folder = Path(str(config.run))
    target = Path(config.output or folder / "merged")
    with locked_file(target):
        model = _write_extended(folder, target) if extend.is_vocabulary(folder) else _write_merged(folder, target)
    has_code = (target / f"{CODE}.py").is_file()
    is_own = not has_code and base_type(model.config.model_type) != model.config.model_type
    needs = "trust_remote_code=True" if has_code else "import peftkit" if is_own else ""
    log(f"merged -> {target}{f' (from_pretrained needs {needs})' if needs else ''}")
    return folder


def _write_extended(folder: Path, target: Path) -> Any:
    model, tokenizer = extend.load_extended(folder)
    before = random_token_scores(model)
    write_checkpoint(model, before, random_token_scores, target, lambda part: tokenizer.save_pretrained(str(part)))
    return model


def _write_merged(folder: Path, target: Path) -> Any:
    run = RunResult.finished(folder)
    if is_prompted(run.config):
        raise UserError(f"{folder}: no weights were trained, so there is nothing to merge; use its base")
    bundle = load_bundle(run, quantized=False)
    if run.config.method.quantization:
        measured = run.record.get("merge") or {"rows": 0, "reason": "an earlier version of peftkit trained the run"}
        log(f"trained on a quantized base; {describe_merge(measured)}")
    write_merged(run, bundle, target)
    return bundle.model
