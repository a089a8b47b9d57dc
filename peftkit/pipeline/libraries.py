"""Settings of Hugging Face's libraries while a job runs: without logs, and offline if the Hub is unreachable."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import torch
import transformers
from huggingface_hub import constants

from peftkit.compat.openmp import shared_cores
from peftkit.config import UserError
from peftkit.config.source import hub_is_reachable

# it recommends a faster 4-bit kernel when it is imported, even if the run needs none
_BITSANDBYTES = logging.getLogger("bitsandbytes.backends.cpu.ops")


def configure_libraries(source: str) -> None:
    """Disable progress bars, logs and known warnings, and the network if `source` is offline or the Hub unreachable."""
    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    _BITSANDBYTES.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft|torch")
    # it concerns training checkpoints, not what export_artifact saves
    warnings.filterwarnings("ignore", "Setting `save_embedding_layers` to `True` as the embedding layer has been res")
    if source == "offline" or not hub_is_reachable():
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True


@contextmanager
def library_settings(source: str, threads: int | None = None) -> Iterator[None]:
    """Configure the libraries, share the cores and, at the end, restore every setting of the caller's process.

    Args:
        threads: of PyTorch on the CPU; None leaves their number as it is.
    """
    threads_before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    data_bars, model_bars = datasets.are_progress_bars_disabled(), transformers.logging.is_progress_bar_enabled()
    verbosity, level = transformers.logging.get_verbosity(), _BITSANDBYTES.level
    offline = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    with warnings.catch_warnings(), shared_cores():
        try:
            configure_libraries(source)
            yield
        except ValueError as error:
            if "trust_remote_code" not in str(error):
                raise
            name = next(iter(re.findall(r"repository (\S+)", str(error))), "the checkpoint")
            raise UserError(
                f"{name} has no model or tokenizer class of transformers, and its own code (auto_map) is not run; "
                "use another checkpoint, such as model.checkpoint=FacebookAI/roberta-base with model=roberta"
            ) from error
        finally:
            torch.set_num_threads(threads_before)
            if not data_bars:
                datasets.enable_progress_bars()
            if model_bars:
                transformers.logging.enable_progress_bar()
            transformers.logging.set_verbosity(verbosity)
            _BITSANDBYTES.setLevel(level)
            constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = offline
