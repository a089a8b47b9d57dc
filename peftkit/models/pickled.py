"""Checkpoints whose weights are pickled (.bin), converted to safetensors."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from peftkit.config import UserError, error_summary
from peftkit.config.json_files import read_json
from peftkit.config.source import POOLING_FOLDER
from peftkit.paths import new_folder

OTHER_FILES = (".json", ".txt", ".model", ".jinja")  # config and tokenizer


def convert(file: Path, folder: Path) -> None:
    """Write the checkpoint of a .bin file, or of the files of a .bin.index.json, with its weights in safetensors.

    Only torch's restricted unpickler reads them: it builds tensors and containers, and refuses any other class.

    Raises:
        UserError: a file is damaged, or contains anything but tensors.
    """
    weights: dict[str, torch.Tensor] = {}
    for part in _parts(file):
        try:
            loaded = torch.load(part, map_location="cpu", weights_only=True)
            weights |= {str(name): each.clone().contiguous() for name, each in loaded.items()}  # shares no memory
        except Exception as error:  # a damaged file ends the unpickler in any error
            raise UserError(
                f"model.checkpoint={part} is refused: it is damaged, or contains more than weights "
                f"({error_summary(error)}); use a checkpoint with .safetensors files"
            ) from error
    with new_folder(folder) as new:
        new.mkdir()
        for other in (*file.parent.iterdir(), *file.parent.glob(f"{POOLING_FOLDER}/config.json")):
            if other.is_file() and other.name.endswith(OTHER_FILES) and not other.name.endswith(".index.json"):
                target = new / other.relative_to(file.parent)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(other, target)
        save_file(weights, new / "model.safetensors", metadata={"format": "pt"})


def _parts(file: Path) -> list[Path]:
    """Return the files with the weights, which are in the folder of their index."""
    if file.suffix != ".json":
        return [file]
    index = read_json(file, "use another checkpoint")
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not all(Path(str(name)).name == name for name in names.values()):
        raise UserError(f"{file} cannot be read: expected the names of files in weight_map; use another checkpoint")
    return [file.with_name(name) for name in sorted({*names.values()})]
