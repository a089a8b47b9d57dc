"""The files that sentence-transformers keeps beside a checkpoint: pooling and maximal length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from peftkit.config import ModelConfig
from peftkit.config.source import Source

LENGTH_FILE, POOLING_FILE = "sentence_bert_config.json", "1_Pooling/config.json"
# peftkit's name of a pooling, sentence-transformers' name, and its key before release 5.4
POOLINGS = (
    ("mean", "mean", "pooling_mode_mean_tokens"),
    ("cls", "cls", "pooling_mode_cls_token"),
    ("last", "lasttoken", "pooling_mode_lasttoken"),
)
LONGEST = 512  # tokens, where a checkpoint has no limit


def vector_pooling(model: ModelConfig, source: Source) -> str:
    """Return the pooling of a text's vector, cls, mean or last: of the checkpoint's file, else of its architecture.

    Only a decoder's last token attends to the whole text; T5 pools the mean (Ni et al. 2022, Sentence-T5).
    """
    if model.family == "encoder" and model.pooling in ("cls", "mean"):
        return model.pooling
    return pooled_as(source) or {"encoder": "cls", "decoder": "last", "seq2seq": "mean"}[model.family]


def pooled_as(source: Source) -> str | None:
    """Return the pooling in a sentence encoder's own file: mean, cls or last; None without one."""
    settings = _read_beside(source, POOLING_FILE)
    for pooling, mode, old_key in POOLINGS:
        if settings.get("pooling_mode") == mode or settings.get(old_key):
            return pooling
    return None


def longest_text(source: Source, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> int:
    """Return the maximal number of tokens of a text: of a sentence encoder's own file, else of its tokenizer."""
    limit = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or LONGEST)
    return int(min(_read_beside(source, LENGTH_FILE).get("max_seq_length") or limit, limit))


def write_sentence_files(folder: Path, pooling: str, width: int, max_length: int) -> None:
    """Write the files with which SentenceTransformer(folder) loads a checkpoint or adapter, with normalized vectors."""
    modules = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")
    old_key = next(key for name, _, key in POOLINGS if name == pooling)
    files: dict[str, Any] = {
        "modules.json": [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (kind, path) in enumerate(modules)
        ],
        LENGTH_FILE: {"max_seq_length": max_length, "do_lower_case": False},
        POOLING_FILE: {
            "word_embedding_dimension": width,
            **{key: key == old_key for _, _, key in POOLINGS},
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    }
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _read_beside(source: Source, name: str) -> dict[str, Any]:
    """Read a JSON file beside a checkpoint's weights; empty where there is none."""
    file = Path(source.folder or source.name) / name
    if source.kind in ("hub", "cache"):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            file = Path(
                hf_hub_download(source.name, name, revision=source.revision, local_files_only=source.kind == "cache")
            )
        except (EntryNotFoundError, LocalEntryNotFoundError):
            return {}
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
