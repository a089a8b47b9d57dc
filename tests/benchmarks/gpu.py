"""What one NVIDIA GPU shows, sized for ten minutes: every method trains, saves, reloads and predicts on it, in every precision.

    python tests/benchmarks/gpu.py [--out FOLDER] [CHECK ...]        # all checks by default; make check-gpu

Without a GPU, the checks that a CPU can do run there, smaller, and the others are skipped with the reason. All runs are
of one process, on tiny or randomly initialized models, and use no network. gpu.json and gpu.md in FOLDER (outputs/gpu)
have the card, the versions, and the figures of each check; the exit code is 1 where one failed.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import json
import math
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

ON_CPU = {"bert": ("lora", "prefix"), "gpt2": ("qlora", "prompt"), "t5": ("ia3",)}  # methods that a CPU tries
PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "trl", "bitsandbytes", "numpy")
TEXT = "a fine film with a slow start"
Figures = dict[str, Any]


class Skipped(Exception):
    """A check that this machine cannot do; the message has the reason."""


@dataclass(frozen=True)
class Machine:
    """The device of the checks, the folder of their runs, and tiny checkpoints by model."""

    device: str
    folder: Path
    checkpoints: dict[str, Path]

    @property
    def has_gpu(self) -> bool:
        return self.device == "cuda"

    def needs_gpu(self, what: str) -> None:
        if not self.has_gpu:
            raise Skipped(f"{what} needs a GPU")

    def train(self, model: str, method: str, out: str, checkpoint: Path | None = None, **settings: Any) -> Any:
        """Train on generated sentences and return the run; the saved model is loaded again and compared."""
        import peftkit

        run = peftkit.finetune(**self.settings(model, method, out, checkpoint, **settings))
        record = run.record
        assert record["meta"]["status"] == "finished", record["meta"]["reason"]
        assert record["meta"]["device"].startswith("cuda" if self.has_gpu else "cpu"), record["meta"]["device"]
        return run

    def settings(
        self, model: str, method: str, out: str, checkpoint: Path | None = None, train: Any = None, **settings: Any
    ) -> dict[str, Any]:
        small = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "disable_tqdm": True} | (train or {})
        sizes = {"task.max_train_samples": 24, "task.max_eval_samples": 24} | settings
        return {
            "model": model, "method": method, "task": "sst2", "source": "offline", "out": str(self.folder / out),
            "model.checkpoint": str(checkpoint or self.checkpoints[model]), "train": small, **sizes,
        }  # fmt: skip


def methods(machine: Machine) -> Figures:
    """Every method on BERT, GPT-2 and T5 trains, is verified, reloaded and predicts."""
    import peftkit
    from peftkit.config import UserError
    from peftkit.paths import conf_folder

    names = sorted(file.stem for file in (conf_folder() / "method").glob("*.yaml") if file.stem != "peft")
    finished, refused, failed = [], {}, {}
    for model in ON_CPU:
        for method in names if machine.has_gpu else ON_CPU[model]:
            try:
                run = machine.train(model, method, "methods")
                (found,) = peftkit.predict(run, [TEXT])
                assert found.prediction in ("positive", "negative"), found
                finished.append(f"{model} {method}")
            except UserError as error:
                refused[f"{model} {method}"] = str(error)
            except Exception as error:
                failed[f"{model} {method}"] = f"{type(error).__name__}: {error}".splitlines()[0]
    assert not failed, failed
    return {"finished": len(finished), "refused": len(refused), "names": finished, "reasons": refused}


def precision(machine: Machine) -> Figures:
    """fp32, TF32, bf16 and fp16 with loss scaling reach about the same loss."""
    from peftkit import training

    modes: dict[str, dict[str, Any]] = {"fp32": {"bf16": False}, "bf16": {"bf16": True}}
    if machine.has_gpu:
        modes = {
            "fp32": {"bf16": False, "tf32": False}, "tf32": {"bf16": False, "tf32": True},
            "bf16": {"bf16": True}, "fp16": {"bf16": False, "fp16": True},
        }  # fmt: skip
    scales: dict[str, float] = {}
    losses = {}
    for name, mode in modes.items():
        with _trainers() as trainers:
            machine.train(
                "bert", "lora", f"precision-{name}", train={**mode, "num_train_epochs": 2, "logging_steps": 1}
            )
        (trainer,) = trainers
        losses[name] = trainer.state.log_history[-1]["train_loss"]
        if trainer.accelerator.scaler is not None:
            scales[name] = trainer.accelerator.scaler.get_scale()
        assert training.precision_of(mode) == name.replace("tf32", "fp32")
    assert all(math.isfinite(loss) and abs(loss - losses["fp32"]) < 0.05 for loss in losses.values()), losses
    assert not machine.has_gpu or scales.get("fp16", 0) > 1, f"no loss scaling: {scales}"
    return {"losses": losses, "loss_scale": scales}


@contextmanager
def _trainers() -> Iterator[list[Any]]:
    """Collect the trainers of the runs in this block."""
    from peftkit import training

    fit, found = training.fit, []

    def collecting(trainer: Any, checkpoints: Path) -> Any:
        found.append(trainer)
        return fit(trainer, checkpoints)

    training.fit = collecting
    try:
        yield found
    finally:
        training.fit = fit


def qlora(machine: Machine) -> Figures:
    """QLoRA trains with paged optimizers."""
    machine.needs_gpu("a paged optimizer")
    found = {}
    for model in ("bert", "gpt2", "t5"):
        for optimizer in ("paged_adamw_8bit", "paged_adamw_32bit"):
            run = machine.train(model, "qlora", f"qlora-{optimizer}", train={"optim": optimizer})
            found[f"{model} {optimizer}"] = run.record["gates"]["reload_difference"]
    return {"reload_difference": found}


def attention(machine: Machine) -> Figures:
    """Each backend of SDPA that takes the mask of a method agrees with the reference backend.

    T5 has its own attention with a bias. Flash attention takes no mask on a GPU: of a batch without padding there is none,
    unless a method adds one for its prefix.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    import peftkit

    found: dict[str, Any] = {}
    for model in ("bert", "gpt2"):
        for method in ("lora", "prompt", "prefix"):
            trained, tokenizer = peftkit.load(machine.train(model, method, "attention").folder)
            trained = trained.to(machine.device, torch.bfloat16).eval()
            for batch, texts in {"equal lengths": [TEXT, TEXT], "padded": [TEXT, "a film"]}.items():
                inputs = tokenizer(texts, padding=True, return_tensors="pt").to(machine.device)
                with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
                    reference = trained(**inputs).logits.float()
                for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
                    try:
                        with torch.no_grad(), sdpa_kernel(backend):
                            difference = (trained(**inputs).logits.float() - reference).abs().max().item()
                    except RuntimeError as error:
                        difference = str(error).splitlines()[0][:60]
                    found[f"{model} {method}, {batch}, {backend.name.lower()}"] = difference
                    assert isinstance(difference, str) or difference < 0.05 * (1 + reference.abs().max().item()), found
    return found


def compilation(machine: Machine) -> Figures:
    """train.torch_compile trains."""
    machine.needs_gpu("a compiled step in seconds")
    started = time.perf_counter()
    run = machine.train("bert", "lora", "compiled", train={"torch_compile": True, "max_steps": 6})
    return {"seconds": time.perf_counter() - started, "reload_difference": run.record["gates"]["reload_difference"]}


def resume(machine: Machine) -> Figures:
    """A run that was interrupted ends as the unbroken one."""
    import pyarrow.parquet as pq
    from helpers.interruption import broken_off

    train = {"num_train_epochs": 2, "bf16": False}
    scores = []
    for out in ("broken", "unbroken"):
        if out == "broken":
            with broken_off(4):
                machine.train("bert", "lora", out, train=train)
        run = machine.train("bert", "lora", out, train=train)
        scores.append(torch.tensor(pq.read_table(run.folder / "predictions.parquet")["scores"].to_pylist()))
    difference = (scores[0] - scores[1]).abs().max().item()
    assert difference <= (1e-4 if machine.has_gpu else 0), f"scores differ by {difference:.2g}"
    return {"difference": difference}


def memory(machine: Machine) -> Figures:
    """Runs of a sweep give their memory back."""
    machine.needs_gpu("the memory of an allocator")
    used = []
    for seed in range(4):
        machine.train("bert", "full", "memory", seed=seed)
        gc.collect()
        torch.cuda.empty_cache()
        used.append(torch.cuda.memory_allocated())
    assert used[-1] - used[1] < 1 << 20, used  # the first run leaves what the libraries keep
    return {"allocated": used}


def throughput(machine: Machine) -> Figures:
    """The speed of training beside HF's Trainer on the same examples, in tokens without padding per second."""
    checkpoint = _base_model(machine)
    count, epochs = (640, 10) if machine.has_gpu else (64, 2)
    found: dict[str, Any] = {"model": "BERT-base" if machine.has_gpu else "tiny", "examples": count, "epochs": epochs}
    train = {"per_device_train_batch_size": 32, "num_train_epochs": epochs, "save_strategy": "no"}
    for method in ("lora", "full"):
        _plain_trainer(machine, checkpoint, method, 32, 1)  # loads the kernels
        plain = _plain_trainer(machine, checkpoint, method, count, epochs)
        sizes = {"task.max_train_samples": count, "task.max_eval_samples": 32}
        run = machine.train("bert", method, "throughput", checkpoint, train=train, **sizes)
        own = run.costs["tokens_per_second"]
        found[method] = {"peftkit": own, "trainer": plain, "ratio": own / plain}
    return found


def _plain_trainer(machine: Machine, checkpoint: Path, method: str, count: int, epochs: int) -> float:
    """Return the tokens per second of HF's Trainer with batches of similar length, in bf16 on a GPU."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from peftkit.data.miniglue import miniglue

    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(str(checkpoint))
    examples = miniglue("sst2")["train"][:count]
    encoded = tokenizer([each["sentence"] for each in examples], truncation=True, max_length=128)
    rows = Dataset.from_dict({**encoded, "labels": [each["label"] for each in examples]})
    model = AutoModelForSequenceClassification.from_pretrained(str(checkpoint), num_labels=2)
    if method == "lora":
        model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=8, target_modules="all-linear"))
    arguments = TrainingArguments(
        str(machine.folder / "plain"), num_train_epochs=epochs, per_device_train_batch_size=32, save_strategy="no",
        bf16=machine.has_gpu, train_sampling_strategy="group_by_length", report_to="none", disable_tqdm=True,
        use_cpu=not machine.has_gpu,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=DataCollatorWithPadding(tokenizer))
    _wait(machine)
    started = time.perf_counter()
    trainer.train()
    _wait(machine)
    return epochs * sum(map(len, rows["input_ids"])) / (time.perf_counter() - started)


def _wait(machine: Machine) -> None:
    if machine.has_gpu:
        torch.cuda.synchronize()


def plan(machine: Machine) -> Figures:
    """The memory that job=plan predicts beside the measured peak."""
    import peftkit

    checkpoint, found = _base_model(machine), {}
    for method in ("lora", "qlora", "full"):
        train = {"per_device_train_batch_size": 32, "max_steps": 4}
        sizes = {"task.max_train_samples": 128, "task.max_eval_samples": 64}
        settings = machine.settings("bert", method, "plan", checkpoint, train=train, **sizes)
        predicted = peftkit.plan(**settings).memory.total
        costs = machine.train("bert", method, "plan", checkpoint, train=train, **sizes).costs
        peak = max(costs["train_peak_bytes"] or 0, costs["eval_peak_bytes"] or 0)
        found[method] = {"predicted": predicted, "measured": peak}
        # on a CPU the peak is that of the process, with all that it imported
        assert not machine.has_gpu or 0.8 < predicted / peak < 1.25, found
    return found


def _base_model(machine: Machine) -> Path:
    """Return the folder of a BERT-base with random weights, on a CPU of the tiny BERT."""
    if not machine.has_gpu:
        return machine.checkpoints["bert"]
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = machine.folder / "bert-base"
    if not folder.is_dir():
        tokenizer = AutoTokenizer.from_pretrained(str(machine.checkpoints["bert"]))
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=30522)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


CHECKS: dict[str, Callable[[Machine], Figures]] = {
    each.__name__: each
    for each in (methods, precision, qlora, attention, compilation, resume, memory, throughput, plan)
}


def run_check(name: str, machine: Machine) -> dict[str, Any]:
    """Return the outcome of a check (passed, failed or skipped), its reason, seconds and figures."""
    started = time.perf_counter()
    outcome, reason, figures = "passed", None, {}
    try:
        figures = CHECKS[name](machine)
    except Skipped as skipped:
        outcome, reason = "skipped", str(skipped)
    except Exception as error:
        traceback.print_exc()
        outcome, reason = "failed", f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - started
    return {"check": name, "outcome": outcome, "reason": reason, "seconds": seconds, "figures": figures}


def describe_machine(device: str) -> dict[str, Any]:
    import peftkit

    versions = {"peftkit": peftkit.__version__, **{name: version(name) for name in PACKAGES}}
    found: dict[str, Any] = {"device": device, "python": platform.python_version(), "versions": versions}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        capability = f"{properties.major}.{properties.minor}"
        found |= {"card": properties.name, "bytes": properties.total_memory, "capability": capability}
        found["cuda"] = torch.version.cuda
    return found


def page_of(machine: dict[str, Any], found: list[dict[str, Any]]) -> str:
    """Return the outcomes as Markdown."""
    is_gpu = machine["device"] == "cuda"
    card = machine["card"] if is_gpu else "none: these are the checks that a CPU can do, on smaller models"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    memory = f" ({machine['bytes'] / 1e9:.0f} GB, compute capability {machine['capability']})" if is_gpu else ""
    lines = [
        f"# GPU checks\n\nGPU: {card}{memory}. Python {machine['python']}, {versions}.\n",
        "| check | outcome | s |",
    ]
    lines.append("|---|---|---|")
    for each in found:
        reason = f": {each['reason']}" if each["reason"] else ""
        lines.append(f"| {each['check']} | {each['outcome']}{reason} | {each['seconds']:.0f} |".replace("\n", " "))
    for each in found:
        if each["figures"]:
            lines.append(f"\n## {each['check']}\n\n{inspect.getdoc(CHECKS[each['check']])}\n\n| | |\n|---|---|")
            lines += [f"| {name} | {_text(value)} |" for name, value in each["figures"].items()]
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_text(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=", ".join(CHECKS))
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"))
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.checks if name not in CHECKS]:
        parser.error(f"unknown check {unknown[0]}; use {', '.join(CHECKS)}")
    from peftkit.data.miniglue import sentences
    from peftkit.models.tiny import tiny_checkpoints

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        machine = Machine(device, folder, tiny_checkpoints(folder / "checkpoints", list(sentences(300))))
        found = []
        for name in arguments.checks or CHECKS:
            found.append(run_check(name, machine))
            print(f"{found[-1]['check']}: {found[-1]['outcome']} in {found[-1]['seconds']:.0f} s", flush=True)
    described = describe_machine(device)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "gpu.json").write_text(json.dumps({"machine": described, "checks": found}, indent=1) + "\n")
    (arguments.out / "gpu.md").write_text(page_of(described, found))
    print(f"-> {arguments.out / 'gpu.md'}")
    sys.exit(any(each["outcome"] == "failed" for each in found))


if __name__ == "__main__":
    main()
