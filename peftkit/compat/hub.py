"""Checkpoints and adapters on the Hub, and the errors of its client."""

import re
from pathlib import Path

from huggingface_hub.errors import HTTPError

# of httpx2, which huggingface_hub uses, of the system, and of the two ways to upload a large file
NETWORK_ERRORS: tuple[type[Exception], ...] = (HTTPError, OSError, RuntimeError)
ADAPTER_FILES = ["adapter_config.json", "adapter_model.safetensors", "config.json"]


WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")  # no variants such as model.fp16.safetensors
OTHERS = re.compile(r"[^/]+\.(json|txt|model|jinja|tiktoken)|1_Pooling/.*|additional_chat_templates/.*")


def download_checkpoint(name: str, revision: str, local_files_only: bool) -> Path:
    """Return the folder in the Hub's cache of the files that transformers reads: weights, settings and tokenizer.

    Args:
        revision: a branch, which the cache records, a tag or a commit.

    Raises:
        FileNotFoundError: it has no weights in safetensors files.
        OSError, ValueError: the Hub does not answer and the files are not in its cache.
    """
    from huggingface_hub import HfApi, snapshot_download

    if local_files_only:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    files = HfApi().list_repo_files(name, revision=revision)
    weights = [file for file in files if WEIGHTS.fullmatch(file)]
    if not weights:
        raise FileNotFoundError("it has no .safetensors files, and others can contain code")
    wanted = [*weights, *filter(OTHERS.fullmatch, files)]
    return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))


def download_adapter(name: str, local_files_only: bool) -> Path:
    """Return the folder of an adapter's files in the Hub's cache.

    Raises:
        OSError, ValueError: the Hub has no such repository, or does not answer and the files are not in its cache.
    """
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=ADAPTER_FILES, local_files_only=local_files_only))
