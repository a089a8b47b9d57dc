"""The artifact of a run: the folder with its trained weights, and its size."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path

from peftkit.config.source import Source
from peftkit.methods import is_mergeable
from peftkit.models.embedding_rows import read_vocabulary, rest_of, save_rows
from peftkit.models.sentence import write_sentence_files
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.prompting import FOLDER
from peftkit.results import run_folder


def export_artifact(bundle: TrainingBundle, folder: Path, source: Source, vocab: str | None = None) -> Path:
    """Save in PEFT's format (adapter/) or, for methods that train the base's own weights, as a checkpoint (model/).

    Args:
        source: of the base; adapter_config.json names it.
        vocab: a folder of job=extend whose tokens were trained.
    """
    from peft import PeftModel

    is_peft = isinstance(bundle.model, PeftModel)
    artifact = folder / ("adapter" if is_peft else "model")
    if not is_peft or (vocab is None and is_mergeable(bundle.model)):  # else sentence-transformers cannot load it
        export_sentence_files(bundle, artifact)
    if is_peft and vocab is not None:
        # "auto" would save all embedding rows, not only the trained ones
        bundle.model.save_pretrained(str(artifact), save_embedding_layers=False)
        save_rows(artifact, read_vocabulary(Path(vocab)), rest_of(Path(vocab)))
    else:
        bundle.model.save_pretrained(str(artifact))
    bundle.tokenizer.save_pretrained(str(artifact))
    if is_peft:
        _name_base(artifact / "adapter_config.json", source)
        # label names and pooling: AutoConfig.from_pretrained("adapter/base") builds the very base that was trained
        config = copy.deepcopy(bundle.model.get_base_model().config)
        if vocab is not None:
            config.vocab_size = read_vocabulary(Path(vocab)).base_rows  # the base has no rows for new tokens
        config.save_pretrained(str(artifact / "base"))
        (artifact / "README.md").unlink(missing_ok=True)  # PEFT's blank card; ours lies beside the folder
    return artifact


def _name_base(file: Path, source: Source) -> None:
    """Name the base by its Hub id, or by the name of its folder: PEFT writes the path on this machine."""
    settings = json.loads(file.read_text(encoding="utf-8"))
    is_folder = source.kind == "folder"
    settings["base_model_name_or_path"] = run_folder.checkpoint_name(asdict(source)) if is_folder else source.name
    file.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")


def export_sentence_files(bundle: TrainingBundle, folder: Path) -> None:
    """Write the files with which sentence-transformers loads an embedding model."""
    if bundle.format.output_kind == "vectors":
        config = bundle.model.config
        write_sentence_files(folder, config.vector_pooling, config.hidden_size, bundle.format.task.max_length)


def artifact_bytes(bundle: TrainingBundle, artifact: Path) -> int:
    """Return the bytes of the trained weights, head included: what to send to somebody who has the base."""
    if artifact.name == "adapter":
        return run_folder.folder_bytes(artifact)
    if artifact.name == FOLDER:
        return run_folder.folder_bytes(artifact, (".json",))
    return sum(w.numel() * w.element_size() for w in bundle.model.parameters() if w.requires_grad)
