"""Adapters on the Hub, and the errors of its client."""

from pathlib import Path

from huggingface_hub.errors import HTTPError

# of httpx2, which huggingface_hub uses, of the system, and of the two ways to upload a large file
NETWORK_ERRORS: tuple[type[Exception], ...] = (HTTPError, OSError, RuntimeError)
ADAPTER_FILES = ["adapter_config.json", "adapter_model.safetensors", "config.json"]


def download_adapter(name: str, local_files_only: bool) -> Path:
    """Return the folder of an adapter's files in the Hub's cache.

    Raises:
        OSError, ValueError: the Hub has no such repository, or does not answer and the files are not in its cache.
    """
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=ADAPTER_FILES, local_files_only=local_files_only))
