"""Turn a trained model into the folder that is shipped, and into its bytes."""

from __future__ import annotations

import copy
from pathlib import Path

from peftkit.methods import is_mergeable
from peftkit.models.embedding_rows import read_vocabulary, rest_of, save_rows
from peftkit.models.sentence import write_sentence_files
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.prompting import FOLDER
from peftkit.results import run_folder


def export_artifact(bundle: TrainingBundle, folder: Path, vocab: str | None = None) -> Path:
    """Save in PEFT's format (adapter/) or, for methods that train the base's own weights, as a checkpoint (model/)."""
    from peft import PeftModel

    is_peft = isinstance(bundle.model, PeftModel)
    artefact = folder / ("adapter" if is_peft else "model")
    if not is_peft or (vocab is None and is_mergeable(bundle.model)):  # else sentence-transformers cannot load it
        export_sentence_files(bundle, artefact)
    if is_peft and vocab is not None:
        # "auto" would add every row of the grown embeddings to those that trained
        bundle.model.save_pretrained(str(artefact), save_embedding_layers=False)
        save_rows(artefact, read_vocabulary(Path(vocab)), rest_of(Path(vocab)))
    else:
        bundle.model.save_pretrained(str(artefact))
    bundle.tokenizer.save_pretrained(str(artefact))
    if is_peft:
        # label names and pooling: AutoConfig.from_pretrained("adapter/base") builds the very base that was trained
        config = copy.deepcopy(bundle.model.get_base_model().config)
        if vocab is not None:
            config.vocab_size = read_vocabulary(Path(vocab)).base_rows  # the base's file has no new rows
        config.save_pretrained(str(artefact / "base"))
        (artefact / "README.md").unlink(missing_ok=True)  # PEFT's blank card; ours lies beside the folder
    return artefact


def export_sentence_files(bundle: TrainingBundle, folder: Path) -> None:
    """Let sentence-transformers load a folder where a model of vectors is saved."""
    if bundle.format.output_kind == "vectors":
        config = bundle.model.config
        write_sentence_files(folder, config.vector_pooling, config.hidden_size, bundle.format.task.max_length)


def artifact_bytes(bundle: TrainingBundle, artefact: Path) -> int:
    """Return the bytes to send to somebody who has the base: the trained weights, head included."""
    if artefact.name == "adapter":
        return run_folder.folder_bytes(artefact)
    if artefact.name == FOLDER:
        return run_folder.folder_bytes(artefact, (".json",))
    return sum(w.numel() * w.element_size() for w in bundle.model.parameters() if w.requires_grad)
