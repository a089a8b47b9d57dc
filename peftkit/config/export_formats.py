"""The formats of job=export."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ExportFormat:
    """One value of `format=`. A new format is a record here and a module in `peftkit.pipeline.exports`.

    Args:
        entry: "module:function"; the function takes an `ExportSource` and a new folder, writes the model there, and
            returns it as `Exported`, read from what it wrote.
        keys: of the section `export` that only this format reads.
        generates: whether what it writes generates text, which is compared with the run's.
        package: a package that it needs, and the extra that installs it.
    """

    name: str
    summary: str
    entry: str
    keys: tuple[str, ...] = ()
    generates: bool = True
    package: tuple[str, str] | None = None


_FORMATS = (
    ExportFormat(
        "transformers",
        "a checkpoint that transformers loads without peftkit",
        "peftkit.pipeline.exports.transformers:write_transformers",
    ),
    ExportFormat(
        "onnx",
        "a graph of the scores for onnxruntime, with a card whose code needs neither torch nor transformers",
        "peftkit.pipeline.exports.onnx:write_onnx",
        keys=("int8",),
        generates=False,
        package=("onnxruntime", "onnx"),
    ),
)

EXPORT_FORMATS: dict[str, ExportFormat] = {each.name: each for each in _FORMATS}
