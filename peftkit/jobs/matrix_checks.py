"""The checks of job=matrix for a method on a tiny model with a head, and its capabilities."""

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import AdaLoraConfig, PeftModel

from peftkit.config import RunConfig, TaskConfig, UserError, is_prompted, run_errors
from peftkit.config.kinds import kind_of
from peftkit.config.source import Source
from peftkit.data.columns import text_columns
from peftkit.data.datasets import example_reader
from peftkit.data.formats import Encoded
from peftkit.data.miniglue import sentences
from peftkit.jobs.matrix_tasks import trains_two_tasks
from peftkit.methods import is_mergeable, load_adapter, merge_adapter
from peftkit.models.load import auto_class, load_model
from peftkit.models.tiny import tiny_checkpoints
from peftkit.paths import conf_folder
from peftkit.pipeline import comparison, verify
from peftkit.pipeline.artifacts import read_shots, restore_steering
from peftkit.pipeline.build import TrainingBundle, build, format_for, head_kind
from peftkit.pipeline.export import export_artifact, save_prompt
from peftkit.pipeline.sources import PROMPT_FOLDER
from peftkit.pipeline.verify import VerificationError
from peftkit.training.callbacks import allocate_ranks
from peftkit.training.trainer import is_adalora

PAIRS_APART = "pairs_apart"  # classification with model.pairs=apart
HEAD_TASKS = (
    "classification", "regression", PAIRS_APART, "token_classification", "question_answering", "causal_lm", "seq2seq",
)  # fmt: skip
TASKS_HEAD = "classification"  # of both tasks, where several train together
SUPPORTED, REFUSED, FAILED = "supported", "refused", "failed"
STEPS, EXACT = 8, 1e-5  # training steps; relative tolerance of scores in fp32
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"}
NOUNS, VERBS = ("actor", "director", "critic"), ("praised", "saw", "left")
LABEL_NAMES = {"classification": ["no", "yes"], "token_classification": ["NOUN", "VERB", "X"]}


@dataclass(frozen=True)
class Combination:
    """A method on a model with a head, whether it is supported, and the reason if not.

    `extras` are the capabilities of a supported combination: merges, several (adapters at once), mixed (an adapter per
    example), 4-bit; with the head TASKS_HEAD also tasks (several over one body) and tags (of tasks).
    """

    method: str
    model: str
    head: str
    status: str
    reason: str | None = None
    extras: dict[str, bool] = field(default_factory=dict)


def check_method(method: str, model: str, tiny: str, heads: Sequence[str] = HEAD_TASKS) -> Iterator[Combination]:
    """Check a method with each head that the model supports.

    Args:
        method, model: names in conf/method and conf/model.
        tiny: the name of the tiny checkpoint that is used for the model.
    """
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = tiny_checkpoints(Path(scratch), list(sentences(300)))[tiny]
        yield from check_checkpoint(method, model, checkpoint, Path(scratch), heads)


def check_checkpoint(
    method: str, model: str, checkpoint: Path, scratch: Path, heads: Sequence[str] = HEAD_TASKS
) -> Iterator[Combination]:
    """Check a method on a checkpoint with each head that its architecture supports; `scratch` is an empty folder."""
    for head in heads:
        config = compose(method, model, head, checkpoint)
        if config.model.family not in kind_of(config.task).heads:
            continue
        try:
            if reasons := run_errors(config):
                raise UserError("; ".join(reasons))
            yield Combination(method, model, head, SUPPORTED, None, _check(config, checkpoint, scratch / head))
        except UserError as error:
            yield Combination(method, model, head, REFUSED, str(error))
        except Exception as error:  # any error of any library is a result
            yield Combination(method, model, head, FAILED, f"{type(error).__name__}: {error}".splitlines()[0])


def compose(method: str, model: str, head: str, checkpoint: Path) -> RunConfig:
    """Compose the config of a short run from conf/, as the command line does."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    task = "classification" if head == PAIRS_APART else head
    overrides = [
        f"method={method}", f"model={model}", f"task={task}", f"model.checkpoint='{checkpoint}'", "source=offline",
        f"task.dataset='{checkpoint}/config.json'", "task.text=[text]", "task.max_length=32",
        f"train.num_train_epochs={STEPS}", "train.per_device_train_batch_size=8", "+train.bf16=false",
        "train.learning_rate=1e-2",
    ]  # fmt: skip
    overrides += {
        "token_classification": ["task.metrics=[token_accuracy]"],
        "question_answering": ["task.stride=4", "task.text=[question,text]"],
        "seq2seq": ["task.label=label"],
        PAIRS_APART: ["model.pairs=apart", "task.text=[question,text]"],
    }.get(head, [])
    is_composing = GlobalHydra.instance().is_initialized()  # below the command line
    with nullcontext() if is_composing else hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        values: Any = OmegaConf.to_container(hydra.compose("config", overrides), resolve=True)
    config = RunConfig.from_config(values)
    if is_prompted(config) and head == "regression":  # there is no default verbalizer for numbers
        config.task.verbalizer = {"0": "no", "2.5": "yes"}
    return config


def examples_of(task: TaskConfig) -> Dataset:
    """Return six examples of different lengths."""
    examples = []
    for number in range(6):
        words = [*(["the", NOUNS[number % 3], VERBS[number // 2], "the", "film"] * (1 + number % 3)), "."]
        labels: dict[str, Any] = {
            "classification": number % 2, "regression": number / 2,
            "token_classification": [1 if word in VERBS else 0 if word in (*NOUNS, "film") else 2 for word in words],
            "question_answering": {"text": [words[1]], "answer_start": [4]}, "seq2seq": words[1],
        }  # fmt: skip
        text = words if task.kind == "token_classification" else " ".join(words)
        examples.append({"id": number, "text": text, "question": "who saw it ?", "label": labels.get(task.kind)})
    columns = ["id", *text_columns(task), "label"]
    return Dataset.from_list(examples).select_columns(columns).cast_column("label", example_reader(task).label_feature)


def _check(config: RunConfig, checkpoint: Path, scratch: Path) -> dict[str, bool]:
    """Check one combination and return its capabilities.

    Raises:
        VerificationError: a check failed.
        UserError: the combination is refused.
    """
    source, is_trained = Source("folder", str(checkpoint), folder=str(checkpoint)), not is_prompted(config)
    names, examples = LABEL_NAMES.get(config.task.kind), examples_of(config.task)
    bundle, encoded = build(config, source, names, examples)

    def load_base() -> Any:
        torch.manual_seed(1)  # so that the head differs from the trained one
        return load_model(config.model, source, bundle.tokenizer, config.task.kind, names, config.method.quantization)

    if is_trained:
        _train(bundle, encoded)
    elif any(weight.requires_grad for weight in bundle.model.parameters()):
        raise VerificationError("weights of a prompted run are trainable")
    if not (difference := _padding_difference(bundle, examples)) <= EXACT:
        raise VerificationError(f"scores change by {difference:.2g} with the padding of a batch")
    encoded = bundle.format.encode(examples)
    trained = _scores(bundle, encoded)
    if is_trained:
        artifact, auto = export_artifact(bundle, scratch, source), auto_class(config.model.family, config.task.kind)
        is_whole = artifact.name == "model"
        model = auto.from_pretrained(str(artifact)) if is_whole else load_adapter(load_base(), artifact)
        loaded = replace(bundle, model=model)
    else:
        save_prompt(bundle, source, scratch)
        loaded_format = format_for(config, names, bundle.tokenizer, read_shots(scratch))
        model = load_model(config.model, source, bundle.tokenizer, head_kind(config), names).eval()
        loaded = TrainingBundle(model, bundle.tokenizer, loaded_format)
        restore_steering(loaded, config, scratch / PROMPT_FOLDER)
    _expect("saving and loading", trained, _scores(loaded, loaded.format.encode(examples)))
    together = {}
    if config.task.kind == TASKS_HEAD and config.model.pairs is None:
        for name, has_tags in (("tasks", False), ("tags", True)):
            together[name] = trains_two_tasks(config, source, names, examples, scratch / name, has_tags)
    if not isinstance(loaded.model, PeftModel):
        return {"merges": is_trained, "several": False, "mixed": False, "4-bit": False, **together}
    base = replace(bundle, model=load_base())
    with loaded.model.disable_adapter():
        _expect("a disabled adapter", _scores(base, encoded), _scores(loaded, encoded))
    extras = {
        "several": _has_several(loaded, encoded, trained),
        "mixed": _has_mixed(loaded, encoded),
        "4-bit": _trains_in_4_bits(config, source, names, examples),
        "merges": is_mergeable(loaded.model),
        **together,
    }
    if extras["merges"] and not config.method.quantization:
        _expect("merging", trained, _scores(replace(bundle, model=merge_adapter(loaded.model)), encoded), 1e-4)
    return extras


def _train(bundle: TrainingBundle, encoded: Encoded, steps: int = STEPS) -> None:
    """Train a few steps; check that all trainable weights get gradients and frozen ones stay bitwise identical."""
    model = bundle.model.train()
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    frozen = {name: weight.detach().clone() for name, weight in model.named_parameters() if name not in trained}
    # a 4-bit model is on a GPU if there is one
    batch = {name: value.to(model.device) for name, value in bundle.format.collator()(list(encoded.inputs)).items()}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2, weight_decay=0.01)
    with_gradient: set[str] = set()
    if bundle.schedule is not None:
        bundle.schedule.begin(0, steps, 1)
    for step in range(1, steps + 1):
        loss = model(**batch).loss
        if not math.isfinite(loss.item()):
            raise VerificationError("the loss is NaN or inf")
        loss.backward()
        with_gradient |= {name for name, weight in trained.items() if weight.grad is not None and weight.grad.any()}
        optimizer.step()
        if is_adalora(model):
            allocate_ranks(model.base_model, step)
        if bundle.schedule is not None:
            bundle.schedule.after(step)
        optimizer.zero_grad()
    if missing := sorted(trained.keys() - with_gradient):
        raise VerificationError(f"{len(missing)} trainable weights get no gradient, the first is {missing[0]}")
    if changed := [name for name, weight in frozen.items() if not torch.equal(weight, model.get_parameter(name))]:
        raise VerificationError(f"{len(changed)} frozen weights changed, the first is {changed[0]}")
    model.eval()


def _padding_difference(bundle: TrainingBundle, examples: Dataset) -> float:
    """Return verify.padding_difference, of an fp32 model in fp64: rounding depends on the shape of a batch."""
    if any(weight.dtype != torch.float32 for weight in bundle.model.parameters()):
        return verify.padding_difference(bundle, examples)
    bundle.model.double()
    difference = verify.padding_difference(bundle, examples)
    bundle.model.float()
    return difference


def _has_several(bundle: TrainingBundle, encoded: Encoded, trained: np.ndarray) -> bool:
    """Return whether a second adapter can be added; the scores of the first must not change."""
    model = bundle.model
    config = copy(model.peft_config["default"])
    if isinstance(config, AdaLoraConfig):
        config.rank_pattern = None  # that of the trained adapter, by the names of its weights
    try:
        model.add_adapter("other", config)
        model.set_adapter("other")
    except (ValueError, TypeError):
        return False
    other = _scores(bundle, encoded)
    model.set_adapter("default")
    _expect("a second adapter", trained, _scores(bundle, encoded))
    if comparison.max_difference(trained, other) < EXACT:
        raise VerificationError("a second, untrained adapter gives the same scores")
    return True


def _has_mixed(bundle: TrainingBundle, encoded: Encoded) -> bool:
    """Return whether each example of a batch can use its own adapter, with the scores of a batch with one adapter."""
    if bundle.format.verbalizer_ids is not None or "other" not in bundle.model.peft_config:
        return False
    inputs = list(encoded.inputs)
    names = ["default" if number % 2 else "other" for number in range(len(inputs))]
    try:
        mixed = comparison.fp32_scores(bundle, inputs, adapter_names=names)
    except (ValueError, TypeError, NotImplementedError):
        return False
    expected = np.empty_like(mixed)
    for number, name in enumerate(("other", "default")):
        bundle.model.set_adapter(name)
        expected[number::2] = comparison.fp32_scores(bundle, inputs)[number::2]
    return comparison.max_difference(expected, mixed) <= EXACT  # BOFT and OFT ignore the names


def _trains_in_4_bits(config: RunConfig, source: Source, names: list[str] | None, examples: Dataset) -> bool:
    """Return whether the method trains on a 4-bit base; False if peftkit or PEFT refuses it."""
    try:
        quantized = replace(config, method=replace(config.method, quantization=NF4))
        _train(*build(quantized, source, names, examples), steps=4)
    except (UserError, ValueError):
        return False
    return True


def _scores(bundle: TrainingBundle, encoded: Encoded) -> np.ndarray:
    return comparison.flat(bundle, comparison.fp32_scores(bundle, list(encoded.inputs)), encoded)


def _expect(cause: str, expected: np.ndarray, found: np.ndarray, limit: float = EXACT) -> None:
    if not (difference := comparison.max_difference(expected, found)) <= limit:
        raise VerificationError(f"scores change by {difference:.2g} with {cause}")
