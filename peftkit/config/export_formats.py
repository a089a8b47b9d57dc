"""The formats of job=export."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ExportFormat:
    """One value of `format=`. A new format is a record here and a module in `peftkit.pipeline.exports`.

    Args:
        entry: "module:function"; the function takes an `ExportSource` and a new folder, writes the model there, and
            returns it as `Exported`, read from what it wrote.
        keys: of the section `export` that only this format reads.
        heads: the Auto classes of the models that it has; None for all.
        unmerged: the methods that it has although they cannot be merged into the base: those whose tuner is PEFT's,
            all, or none.
        generates: whether what it writes generates text, which is compared with the run's.
        packages: that it needs, which the extra of the format's name installs.
    """

    name: str
    summary: str
    entry: str
    keys: tuple[str, ...] = ()
    heads: tuple[str, ...] | None = None
    unmerged: Literal["none", "peft", "all"] = "none"
    generates: bool = True
    packages: tuple[str, ...] = ()


_FORMATS = (
    ExportFormat(
        "transformers",
        "a checkpoint that transformers loads without peftkit",
        "peftkit.pipeline.exports.transformers:write_transformers",
        unmerged="peft",
    ),
    ExportFormat(
        "gguf",
        "a file for llama.cpp, of a decoder",
        "peftkit.pipeline.exports.gguf:write_gguf",
        keys=("gguf_type",),
        heads=("AutoModelForCausalLM",),
        packages=("gguf",),
    ),
    ExportFormat(
        "onnx",
        "a graph of the scores for onnxruntime, with a card whose code needs neither torch nor transformers",
        "peftkit.pipeline.exports.onnx:write_onnx",
        keys=("int8",),
        unmerged="all",
        generates=False,
        packages=("onnx", "onnxscript", "onnxruntime"),
    ),
)

EXPORT_FORMATS: dict[str, ExportFormat] = {each.name: each for each in _FORMATS}
