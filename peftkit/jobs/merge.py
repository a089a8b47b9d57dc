"""Merge an adapter into its base and write a plain checkpoint."""

from __future__ import annotations

from pathlib import Path

from peftkit.config import RunConfig, UserError, is_prompted
from peftkit.config.families import base_type
from peftkit.jobs import extend
from peftkit.methods import merge as merge_adapter
from peftkit.pipeline.export import export_sentence_files
from peftkit.pipeline.inference import load_bundle, recorded_config
from peftkit.results import run_folder
from peftkit.results.console import log
from peftkit.results.model_card import describe_merge


def merge(config: RunConfig) -> Path:
    """Fold the adapter into its base and write a plain checkpoint that transformers loads."""
    folder = Path(str(config.run))
    if extend.is_vocabulary(folder):
        extend.write_checkpoint(folder, Path(config.output) if config.output else folder / "merged")
        return folder
    trained = recorded_config(folder)
    if is_prompted(trained):
        raise UserError(f"{folder} trained nothing, so there is nothing to merge; its base is as it was")
    bundle = load_bundle(trained, folder, quantized=False)
    merged = merge_adapter(bundle.model)
    target = Path(config.output) if config.output else folder / "merged"
    if trained.method.quantization:
        measured = (run_folder.read_result(folder) or {}).get("merge") or {"rows": 0, "reason": "its run was older"}
        log(f"trained on a quantized base; {describe_merge(measured)}")
    merged.save_pretrained(str(target))
    bundle.tokenizer.save_pretrained(str(target))
    export_sentence_files(bundle, target)
    ours = base_type(merged.config.model_type) != merged.config.model_type
    log(f"merged -> {target}" + (" (import peftkit before transformers loads it: its head is ours)" if ours else ""))
    return folder
