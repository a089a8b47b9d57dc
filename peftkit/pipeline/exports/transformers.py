"""format=transformers: a checkpoint that transformers loads without peftkit."""

from pathlib import Path

from peftkit.config import UserError
from peftkit.methods import merge_adapter
from peftkit.pipeline.exports.base import Exported, ExportSource


def write_transformers(source: ExportSource, folder: Path) -> Exported:
    """Merge the adapter of a run into its base, and write model and tokenizer.

    Raises:
        UserError: transformers has no such head, or the method's weights cannot be merged into the base.
    """
    model, tokenizer = merge_adapter(source.bundle.model), source.bundle.tokenizer
    if not type(model).__module__.startswith("transformers."):
        raise UserError(
            f"{source.run.folder}: transformers has no {type(model).__name__}; load the run by peftkit.load"
        )
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return Exported(type(model).from_pretrained(str(folder)).eval(), {"class": type(model).__name__})
