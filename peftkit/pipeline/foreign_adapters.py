"""Adapters that other programs trained: merged into their base once, and cached as a checkpoint."""

import json
import warnings
from pathlib import Path
from typing import Any

from peft import load_peft_weights
from transformers import PreTrainedTokenizerBase

from peftkit.config import ModelConfig, UserError
from peftkit.config.console import log
from peftkit.config.families import HEADS
from peftkit.config.kinds import DECODER, ENCODER, KINDS, SEQ2SEQ
from peftkit.config.source import ADAPTER_FILE, Source, fingerprint
from peftkit.methods import load_adapter, merge_adapter
from peftkit.models.load import load_model
from peftkit.models.tokenizer import load_tokenizer
from peftkit.paths import cache_folder, safe_name
from peftkit.pipeline.main_process import write_once
from peftkit.pipeline.merged import random_token_scores, write_checkpoint

OUTPUT_LAYERS = (".classifier.weight", ".score.weight", ".classifier.out_proj.weight")
LANGUAGE_MODELS = {ENCODER: "language_modeling", DECODER: "causal_lm", SEQ2SEQ: "seq2seq"}


def merge_foreign_adapter(folder: Path, model: ModelConfig, base: Source) -> Path:
    """Return the folder of a checkpoint with an adapter merged into its base; it is written once.

    Args:
        model: of the base.
        base: its source.

    Raises:
        UserError: the base is not available, or the adapter does not fit it or cannot be merged.
    """
    if base.kind == "offline":
        raise UserError(
            f"model.checkpoint={folder} is an adapter of {model.checkpoint}, which is not available; connect to "
            "the Hub, or set base_model_name_or_path in its adapter_config.json to the folder of the base"
        )
    name = f"{safe_name(folder.absolute().name)}-{fingerprint(folder)[:8]}-{str(base.revision)[:8]}"
    merged = cache_folder() / "merged" / name

    def merge() -> None:
        log(f"the adapter {folder} is merged into its base {base.name}, in {merged}")
        own = (folder / "tokenizer_config.json").is_file()
        source = Source("folder", str(folder), folder=str(folder)) if own else base
        tokenizer = load_tokenizer(source, base if own else None)
        tuned = _load(folder, model, base, tokenizer)
        before = random_token_scores(tuned)
        write_checkpoint(merge_adapter(tuned), before, random_token_scores, merged, lambda part: _save(tokenizer, part))

    write_once(merged, (merged / "config.json").is_file, merge)
    return merged


def load_foreign_adapter(folder: Path, model: ModelConfig, base: Source) -> tuple[Any, Any]:
    """Return a base with an adapter merged in, and the base; arguments and errors as of `merge_foreign_adapter`."""
    tokenizer = load_tokenizer(base)
    return merge_adapter(_load(folder, model, base, tokenizer)).eval(), _load_base(folder, model, base, tokenizer)


def _load(folder: Path, model: ModelConfig, base: Source, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return the base with an adapter, which is not merged."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Found missing adapter keys", UserWarning)
            return load_adapter(_load_base(folder, model, base, tokenizer), folder).eval()
    except (ValueError, RuntimeError, UserWarning) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder} does not fit its base {base.name}: {reason}") from error


def _load_base(folder: Path, model: ModelConfig, base: Source, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return the base with a new head of the kind of task that an adapter was trained for."""
    settings = json.loads((folder / ADAPTER_FILE).read_text(encoding="utf-8"))
    task_type = settings.get("task_type")
    if task_type is None and not HEADS.isdisjoint(settings.get("modules_to_save") or ()):
        raise UserError(f"{folder} has a head of an unknown task; set task_type in its {ADAPTER_FILE}")
    kinds = [name for name, kind in KINDS.items() if kind.task_types.get(model.family) == task_type]
    kind = kinds[0] if task_type and kinds else LANGUAGE_MODELS[model.family]
    names = None
    if KINDS[kind].has_label_names and model.family != SEQ2SEQ:
        names = [f"LABEL_{number}" for number in range(_outputs(folder))]
    return load_model(model, base, tokenizer, kind, names)


def _outputs(folder: Path) -> int:
    """Return the number of outputs of the head that an adapter contains."""
    weights = load_peft_weights(str(folder), device="cpu")
    heads = [len(weight) for name, weight in weights.items() if name.endswith(OUTPUT_LAYERS)]
    if not heads:
        raise UserError(f"{folder} is an adapter without the head that it was trained with")
    return heads[-1]


def _save(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    tokenizer.save_pretrained(str(folder))
