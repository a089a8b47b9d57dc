"""Checkpoints and adapters on the Hub, and the errors of its client."""

import json
import re
from pathlib import Path

from huggingface_hub.errors import CachedRepoTreeNotFoundError, HTTPError

# of httpx2, which huggingface_hub uses, of the system, and of the two ways to upload a large file
NETWORK_ERRORS: tuple[type[Exception], ...] = (HTTPError, OSError, RuntimeError)
ADAPTER_FILES = ["adapter_config.json", "adapter_model.safetensors", "config.json"]
WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")  # no variants such as model.fp16.safetensors
OTHERS = re.compile(r"[^/]+\.(json|txt|model|jinja|tiktoken)|1_Pooling/.*|additional_chat_templates/.*")
VOCABULARY = re.compile(r"tokenizer\.json|vocab\.(json|txt)|[^/]+\.(model|tiktoken)")


def download_checkpoint(name: str, revision: str, local_files_only: bool) -> Path:
    """Return the folder in the Hub's cache of the files that transformers reads: weights, settings and tokenizer.

    Args:
        revision: a branch, which the cache records, a tag or a commit.

    Raises:
        ValueError: it has no weights in safetensors files.
        HTTPError, OSError, RuntimeError: the Hub does not answer, or the cache lacks a file; see NETWORK_ERRORS.
    """
    from huggingface_hub import HfApi, snapshot_download

    if local_files_only:
        return _cached_checkpoint(name, revision)
    wanted = _wanted(HfApi().list_repo_files(name, revision=revision))
    return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))


def _wanted(files: list[str]) -> list[str]:
    """Return which files of a repository transformers reads."""
    weights = [file for file in files if WEIGHTS.fullmatch(file)]
    if not weights:
        raise ValueError("it has no .safetensors files, and others can contain code")
    return [*weights, *filter(OTHERS.fullmatch, files)]


def _cached_checkpoint(name: str, revision: str) -> Path:
    """Return the folder of a checkpoint that the cache has as a whole.

    The cache lists the files of a repository where `snapshot_download` filled it, not where transformers did.
    """
    from huggingface_hub import get_cached_repo_tree, try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json", revision=revision)
    if not isinstance(config, str):
        raise FileNotFoundError("the cache of the Hub lacks config.json")
    folder = Path(config).parent
    try:
        wanted = _wanted([file.path for file in get_cached_repo_tree(name, revision=revision)])
    except CachedRepoTreeNotFoundError:
        index = folder / "model.safetensors.index.json"
        is_sharded = index.is_file() and not (folder / "model.safetensors").is_file()
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values() if is_sharded else ()
        wanted = sorted({*shards}) or ["model.safetensors"]
        if not any(VOCABULARY.fullmatch(file.name) for file in folder.iterdir()):
            wanted.append("a tokenizer")
    if missing := [file for file in wanted if not (folder / file).is_file()]:
        raise FileNotFoundError(f"the cache of the Hub lacks {', '.join(missing[:3])}")
    return folder


def download_adapter(name: str, local_files_only: bool) -> Path:
    """Return the folder of an adapter's files in the Hub's cache.

    Raises:
        OSError, ValueError: the Hub has no such repository, or does not answer and the files are not in its cache.
    """
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=ADAPTER_FILES, local_files_only=local_files_only))
