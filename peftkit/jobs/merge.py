"""Merge an adapter into its base and write a plain checkpoint."""

from pathlib import Path

from peftkit.config import RunConfig, UserError, is_prompted
from peftkit.config.families import base_type
from peftkit.jobs import extend
from peftkit.methods import merge as merge_adapter
from peftkit.pipeline.artifacts import export_sentence_files, load_bundle
from peftkit.results.console import log
from peftkit.results.model_card import describe_merge
from peftkit.results.run_result import RunResult


def merge(config: RunConfig) -> Path:
    """Fold the adapter, or the rows of a vocabulary, into its base and write a checkpoint that transformers loads."""
    folder = Path(str(config.run))
    target = Path(config.output or folder / "merged")
    if extend.is_vocabulary(folder):
        model, tokenizer = extend.load_extended(folder)
    else:
        run = RunResult.finished(folder)
        if is_prompted(run.config):
            raise UserError(f"{folder} trained nothing, so there is nothing to merge; its base is as it was")
        bundle = load_bundle(run, quantized=False)
        model, tokenizer = merge_adapter(bundle.model), bundle.tokenizer
        if run.config.method.quantization:
            measured = run.record.get("merge") or {"rows": 0, "reason": "its run was older"}
            log(f"trained on a quantized base; {describe_merge(measured)}")
        export_sentence_files(bundle, target)
    model.save_pretrained(str(target))
    tokenizer.save_pretrained(str(target))
    ours = base_type(model.config.model_type) != model.config.model_type
    log(f"merged -> {target}" + (" (import peftkit before transformers loads it: its head is ours)" if ours else ""))
    return folder
