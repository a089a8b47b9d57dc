"""Artifacts of runs: the folder with the trained weights, written after training."""

import copy
import json
import shutil
from dataclasses import asdict
from pathlib import Path

from peft import PeftModel

from peftkit.config.source import Source
from peftkit.methods import is_mergeable
from peftkit.models.checkpoints import write_sentence_files
from peftkit.models.custom_code import write_code
from peftkit.models.embedding_rows import padding_rows, read_vocabulary, save_rows
from peftkit.pipeline.build import TrainingBundle
from peftkit.pipeline.sources import PROMPT_FOLDER
from peftkit.pipeline.steering import save_steering
from peftkit.results import run_folder
from peftkit.results.loading_code import BASE, Artifact

WHOLE_BASE = ("model.safetensors", "model.safetensors.index.json")  # in one file, or in several, with their list


def export_artifact(bundle: TrainingBundle, folder: Path, source: Source, vocab: str | None = None) -> Path:
    """Save in PEFT's format (adapter/) or, for methods that train weights of the base, as a checkpoint (model/).

    Args:
        source: of the base; adapter_config.json names it.
        vocab: a folder of job=extend whose tokens were trained.
    """
    is_peft = isinstance(bundle.model, PeftModel)
    artifact = folder / ("adapter" if is_peft else "model")
    shutil.rmtree(artifact, ignore_errors=True)  # files of an earlier attempt, which may have other names
    if not is_peft or (vocab is None and is_mergeable(bundle.model)):  # sentence-transformers loads no other
        export_sentence_files(bundle, artifact)
    bundle.tokenizer.save_pretrained(str(artifact))
    if not is_peft:
        bundle.model.save_pretrained(str(artifact))
        write_code(bundle.model, artifact)
        return artifact
    # label names and pooling: AutoConfig.from_pretrained("adapter", subfolder="base") has those of the trained base
    model = bundle.model.get_base_model()
    config = copy.deepcopy(model.config)
    if vocab is None:
        bundle.model.save_pretrained(str(artifact))
    else:
        # "auto" would save all embedding rows, not only the trained ones
        bundle.model.save_pretrained(str(artifact), save_embedding_layers=False)
        vocabulary = read_vocabulary(Path(vocab))
        save_rows(artifact, vocabulary, padding_rows(Path(vocab)))
        config.vocab_size = vocabulary.base_rows  # the base has no rows for new tokens
    config.save_pretrained(str(artifact / BASE))
    write_code(model, artifact / BASE)
    # the base by its Hub id, or by the name of its folder: PEFT writes the path on this machine
    base = run_folder.checkpoint_name(asdict(source)) if source.kind == "folder" else source.name
    file = artifact / "adapter_config.json"
    settings = {**json.loads(file.read_text(encoding="utf-8")), "base_model_name_or_path": base}
    for name, value in vars(bundle.model.active_peft_config).items():
        if isinstance(value, set):  # PEFT writes it in an order that differs from process to process
            settings[name] = sorted(value)
    file.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
    (artifact / "README.md").unlink(missing_ok=True)  # PEFT's empty card; the run folder has the model card
    return artifact


def has_base(artifact: Path) -> bool:
    """Return whether an adapter's folder has the weights of its base."""
    return any((artifact / BASE / name).is_file() for name in WHOLE_BASE)


def describe_artifact(folder: Path, name: str, path: str, base: Source | None) -> Artifact:
    """Return what a model card describes, of the folder of an artifact.

    Args:
        name: adapter, model, merged or prompt.
        path: what `from_pretrained` gets: the folder relative to that of the card, or a Hub id.
        base: of a prompt, and of an adapter that is not stored beside it.
    """
    file = folder / BASE / "config.json" if name == "adapter" else folder / "config.json"
    config = {} if name == PROMPT_FOLDER else json.loads(file.read_text(encoding="utf-8"))
    return Artifact(name, path, config, base, folder.parent)


def export_sentence_files(bundle: TrainingBundle, folder: Path) -> None:
    """Write the files with which sentence-transformers loads an embedding model."""
    if bundle.format.output_kind == "embeddings":
        config = bundle.model.config
        write_sentence_files(folder, config.vector_pooling, config.hidden_size, bundle.format.task.max_length)


def save_prompt(bundle: TrainingBundle, source: Source, folder: Path) -> Path:
    """Save the prompt, its few-shot examples and the vector of steering; the model is the unchanged base."""
    artifact, task_format = folder / PROMPT_FOLDER, bundle.format
    prompt = getattr(task_format, "prompt", None)
    record = {
        "base": {name: value for name, value in asdict(source).items() if name != "folder"},
        "prompt": task_format.task.template if prompt is None else prompt.text,
        "verbalizer": None if prompt is None else prompt.verbalizer,
        "shots": list(task_format.shots),
    }
    run_folder.write_text(artifact / "prompt.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    if bundle.steering is not None:
        save_steering(bundle.steering, artifact)
    return artifact


def artifact_bytes(bundle: TrainingBundle, artifact: Path) -> int:
    """Return the bytes of the trained weights and the head: what a user needs in addition to the base."""
    if artifact.name in ("adapter", PROMPT_FOLDER):
        endings = (".safetensors", ".bin") if artifact.name == "adapter" else (".safetensors", ".json")
        return run_folder.folder_bytes(artifact, endings)
    return sum(w.nbytes for w in bundle.model.parameters() if w.requires_grad)
