"""Artifacts of runs: the folder with the trained weights, written after training and loaded for inference."""

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from peft import PeftModel

from peftkit.config import RunConfig, is_prompted, kind_of
from peftkit.config.source import Source
from peftkit.data.formats import Format
from peftkit.methods import is_mergeable, load_adapter
from peftkit.models.checkpoints import write_sentence_files
from peftkit.models.embedding_rows import add_new_rows, padding_rows, read_vocabulary, save_rows
from peftkit.models.load import auto_class, copy_dequantized, load_model
from peftkit.pipeline.build import TrainingBundle, format_for, head_kind
from peftkit.pipeline.sources import PROMPT_FOLDER, find_model, run_tokenizer
from peftkit.results import run_folder
from peftkit.results.run_result import RunResult


def export_artifact(bundle: TrainingBundle, folder: Path, source: Source, vocab: str | None = None) -> Path:
    """Save in PEFT's format (adapter/) or, for methods that train weights of the base, as a checkpoint (model/).

    Args:
        source: of the base; adapter_config.json names it.
        vocab: a folder of job=extend whose tokens were trained.
    """
    is_peft = isinstance(bundle.model, PeftModel)
    artifact = folder / ("adapter" if is_peft else "model")
    if not is_peft or (vocab is None and is_mergeable(bundle.model)):  # sentence-transformers loads no other
        export_sentence_files(bundle, artifact)
    bundle.tokenizer.save_pretrained(str(artifact))
    if not is_peft:
        bundle.model.save_pretrained(str(artifact))
        return artifact
    # label names and pooling: AutoConfig.from_pretrained("adapter/base") builds exactly the base that was trained
    config = copy.deepcopy(bundle.model.get_base_model().config)
    if vocab is None:
        bundle.model.save_pretrained(str(artifact))
    else:
        # "auto" would save all embedding rows, not only the trained ones
        bundle.model.save_pretrained(str(artifact), save_embedding_layers=False)
        vocabulary = read_vocabulary(Path(vocab))
        save_rows(artifact, vocabulary, padding_rows(Path(vocab)))
        config.vocab_size = vocabulary.base_rows  # the base has no rows for new tokens
    config.save_pretrained(str(artifact / "base"))
    # the base by its Hub id, or by the name of its folder: PEFT writes the path on this machine
    base = run_folder.checkpoint_name(asdict(source)) if source.kind == "folder" else source.name
    file = artifact / "adapter_config.json"
    settings = {**json.loads(file.read_text(encoding="utf-8")), "base_model_name_or_path": base}
    file.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
    (artifact / "README.md").unlink(missing_ok=True)  # PEFT's empty card; the run folder has the model card
    return artifact


def export_sentence_files(bundle: TrainingBundle, folder: Path) -> None:
    """Write the files with which sentence-transformers loads an embedding model."""
    if bundle.format.output_kind == "embeddings":
        config = bundle.model.config
        write_sentence_files(folder, config.vector_pooling, config.hidden_size, bundle.format.task.max_length)


def save_prompt(task_format: Format, source: Source, folder: Path) -> Path:
    """Save the prompt and its few-shot examples; the model is the unchanged base."""
    artifact = folder / PROMPT_FOLDER
    prompt = getattr(task_format, "prompt", None)
    record = {
        "base": {name: value for name, value in asdict(source).items() if name != "folder"},
        "prompt": task_format.task.template if prompt is None else prompt.text,
        "verbalizer": None if prompt is None else prompt.verbalizer,
        "shots": list(task_format.shots),
    }
    run_folder.write_text(artifact / "prompt.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return artifact


def read_shots(folder: Path) -> tuple[str, ...]:
    """Return the few-shot examples of a prompted run, no examples for other runs."""
    file = folder / PROMPT_FOLDER / "prompt.json"
    return tuple(json.loads(file.read_text(encoding="utf-8"))["shots"]) if file.is_file() else ()


def artifact_bytes(bundle: TrainingBundle, artifact: Path) -> int:
    """Return the bytes of the trained weights and the head: what a user needs in addition to the base."""
    if artifact.name in ("adapter", PROMPT_FOLDER):
        return run_folder.folder_bytes(artifact, (".safetensors", ".bin") if artifact.name == "adapter" else (".json",))
    return sum(w.nbytes for w in bundle.model.parameters() if w.requires_grad)


def load_run(folder: Path) -> tuple[Any, Any]:
    """Return the model and the tokenizer of a run folder, ready to predict."""
    bundle = load_bundle(RunResult.finished(folder))
    return bundle.model, bundle.tokenizer


def base_source(run: RunResult) -> Source:
    """Return where to load a run's base from."""
    return find_model(run.config.model, "offline") if run.source.kind == "offline" else run.source


def load_bundle(run: RunResult, quantized: bool = True) -> TrainingBundle:
    """Load the model of a run on the base of its training; of a prompted run with its few-shot examples.

    With `quantized=False` the base of a 4-bit run has the dequantized weights, in full precision.
    """
    config, names = run.config, run.label_names
    tokenizer = run_tokenizer(config, run_tokenizer_source(run), base_source(run))
    if (run.folder / "model").is_dir():
        model: Any = auto_class(config.model.family, config.task.kind).from_pretrained(
            str(run.folder / "model"), trust_remote_code=False
        )
    else:
        choice = (config.model, base_source(run), tokenizer, head_kind(config), names)
        model = load_model(*choice, config.method.quantization)
        if config.method.quantization and not quantized:
            model = copy_dequantized(load_model(*choice), model)
        if config.vocab is not None:
            add_new_rows(model, run.folder / "adapter")
        if not is_prompted(config):
            model = load_adapter(model, run.folder / "adapter")
    model.eval()
    return TrainingBundle(model, tokenizer, format_for(config, names, tokenizer, read_shots(run.folder)))


def run_tokenizer_source(run: RunResult) -> Source:
    """Return where a run's tokenizer is: in its artifact if it has new tokens or a chat template, else at the base."""
    artifact = run.folder / ("model" if (run.folder / "model").is_dir() else "adapter")
    has_own = artifact.name == "model" or run.config.vocab is not None or kind_of(run.config.task).chat_template
    if is_prompted(run.config) or not has_own:
        return base_source(run)
    return Source("folder", str(artifact), folder=str(artifact))


def with_eval_batch_size(config: RunConfig, trained: RunConfig) -> RunConfig:
    """Return the config of the trained run with the evaluation batch size of this command."""
    size = "per_device_eval_batch_size"
    return replace(trained, train=trained.train | ({size: config.train[size]} if size in config.train else {}))


def describe_labels(names: Sequence[str] | None) -> str:
    return "numbers" if names is None else ", ".join(names)
