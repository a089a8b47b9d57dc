"""Checkpoints in GGUF files, the format of llama.cpp."""

from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from peftkit.config import UserError, error_summary
from peftkit.paths import new_folder


def dequantize(file: Path, folder: Path) -> None:
    """Write a GGUF file's decoder in fp32 and its tokenizer, with the chat template, as a checkpoint folder.

    Raises:
        UserError: the gguf package is missing, or the file is damaged or of an architecture that transformers does
            not read from GGUF.
    """
    if find_spec("gguf") is None:
        raise UserError(f"reading {file} needs the gguf package; run: pip install gguf")
    arguments = {"gguf_file": file.name, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), **arguments)
        model = AutoModelForCausalLM.from_pretrained(
            str(file.parent), quantization_config=GgufConfig(dequantize=True), dtype=torch.float32, **arguments
        )
    except Exception as error:  # a damaged file ends the reader in any error, such as struct.error
        summary = error_summary(error)  # some errors have no message
        raise UserError(f"model.checkpoint={file} cannot be read as a GGUF checkpoint: {summary}") from error
    with new_folder(folder) as new:
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)
