"""Fine-tuning without peftkit: by HF's Trainer, as run_glue.py does it or better, or by a bare PyTorch loop.

It is started by its path, so that nothing of peftkit is imported: python plain_script.py SPEC.json

The spec names the parquet files, the checkpoint, PEFT's config, the training arguments, and how the examples are
batched; its `output` gets the times, and the predictions for the validation examples.
"""

import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from itertools import chain, islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import peft
import torch
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_scheduler,
    set_seed,
)

SUBSET_SEED, MEGABATCH = 0, 50  # those of peftkit, so that examples and batches are the same


class FirstStep(TrainerCallback):
    """The clock at the end of the first optimizer step."""

    time: float | None = None

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.time = self.time or time.time()


def read_examples(spec: dict[str, Any], tokenizer: Any) -> datasets.DatasetDict:
    """Return the tokenized training and validation examples."""
    rows = datasets.load_dataset("parquet", data_files=spec["files"])
    for name, limit in spec["limits"].items():
        if limit is not None and limit < len(rows[name]):
            rows[name] = rows[name].shuffle(seed=SUBSET_SEED).select(range(limit))

    def tokenize(batch: dict[str, list]) -> Any:
        return tokenizer(
            *(batch[column] for column in spec["columns"]),
            truncation=True,
            max_length=min(spec["max_length"], tokenizer.model_max_length),
            padding="max_length" if spec["padding"] == "max_length" else False,
        )

    return rows.map(tokenize, batched=True, remove_columns=spec["columns"])


def load_model(spec: dict[str, Any], tokenizer: Any) -> Any:
    """Return the model with its adapter; it is initialized from the seed."""
    set_seed(spec["seed"])
    settings = {} if spec["attention"] is None else {"attn_implementation": spec["attention"]}
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        spec["checkpoint"], revision=spec["revision"], num_labels=spec["num_labels"], **settings
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    if spec["peft"] is not None:
        config = getattr(peft, spec["peft"]["class"])
        model = peft.get_peft_model(model, config(task_type="SEQ_CLS", **spec["peft"]["config"]))
    return model


def load_tokenizer(spec: dict[str, Any]) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(spec["checkpoint"], revision=spec["revision"])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def training_arguments(spec: dict[str, Any]) -> TrainingArguments:
    known = {field.name for field in fields(TrainingArguments)}
    return TrainingArguments(
        **{name: value for name, value in spec["train"].items() if name in known},
        output_dir=str(Path(spec["folder"]) / "checkpoints"),
        seed=spec["seed"],
        bf16=spec["precision"] == "bf16",
        fp16=spec["precision"] == "fp16",
        train_sampling_strategy=spec["sampling"],
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.accelerator.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
    )


class OrderedTrainer(Trainer):
    """A Trainer that knows the order in which it predicts, which for batches of similar length is not the examples'."""

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        sampler = super()._get_eval_sampler(eval_dataset)
        self.order = list(range(len(eval_dataset)) if sampler is None else sampler)
        return self.order


def train_by_trainer(
    spec: dict[str, Any], model: Any, tokenizer: Any, rows: datasets.DatasetDict
) -> tuple[dict[str, Any], Any]:
    """Train, predict the validation examples and save the model; return the times and the logits."""
    first_step = FirstStep()
    trainer = OrderedTrainer(
        model,
        training_arguments(spec),
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[first_step],
    )
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    logits = trainer.predict(rows["validation"]).predictions[np.argsort(trainer.order)]
    trainer.save_model(str(Path(spec["folder"]) / "model"))
    return {"train_seconds": seconds, "first_step": first_step.time}, logits


def batches(lengths: np.ndarray, size: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """Yield the numbers of the examples of each batch, which have similar lengths: the batches of peftkit."""
    random = np.random.default_rng([seed, epoch])
    indices: np.ndarray = random.permutation(np.arange(len(lengths), dtype=np.int32))
    for start in range(0, len(indices), size * MEGABATCH):
        part = indices[start : start + size * MEGABATCH]
        indices[start : start + size * MEGABATCH] = part[np.argsort(-lengths[part], kind="stable")]
    full = len(indices) // size * size
    yield from random.permutation(indices[:full].reshape(-1, size))
    if full < len(indices):
        yield indices[full:]


class Loop:
    """A bare PyTorch loop: autocast, fused AdamW, clipping, and a learning rate by step."""

    def __init__(self, spec: dict[str, Any], model: Any, tokenizer: Any, examples: datasets.Dataset) -> None:
        self.arguments, self.tokenizer = training_arguments(spec), tokenizer
        self.model = model.to(self.arguments.device).train()
        self.names = [name for name in examples.column_names if name in (*tokenizer.model_input_names, "label")]
        self.columns = {name: examples[:][name] for name in self.names}
        self.lengths = np.array([len(ids) for ids in self.columns["input_ids"]])
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(spec["precision"])
        self.scaler = torch.amp.GradScaler(enabled=self.dtype == torch.float16)
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        decay = [
            {"params": [weight for weight in trained if weight.ndim > 1], "weight_decay": self.arguments.weight_decay},
            {"params": [weight for weight in trained if weight.ndim <= 1], "weight_decay": 0.0},
        ]
        self.trained, self.size = trained, self.arguments.train_batch_size
        self.optimizer = torch.optim.AdamW(decay, lr=self.arguments.learning_rate, fused=True)
        self.steps = math.ceil(math.ceil(len(self.lengths) / self.size) * self.arguments.num_train_epochs)
        warmup = self.arguments.get_warmup_steps(self.steps)
        self.scheduler = get_scheduler(self.arguments.lr_scheduler_type, self.optimizer, warmup, self.steps)

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        chosen = {name: [self.columns[name][index] for index in indices] for name in self.names}
        labels = torch.tensor(chosen.pop("label"))
        found = {**self.tokenizer.pad(chosen, return_tensors="pt"), "labels": labels}
        return {name: value.to(self.arguments.device, non_blocking=True) for name, value in found.items()}

    def outputs(self, batch: dict[str, torch.Tensor]) -> Any:
        with torch.autocast(self.arguments.device.type, self.dtype, enabled=self.dtype is not None):
            return self.model(**batch)

    def step(self, indices: np.ndarray) -> None:
        self.scaler.scale(self.outputs(self.batch(indices)).loss).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.trained, self.arguments.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)

    def run(self) -> dict[str, Any]:
        """Train, and return the times."""
        first_step, started = FirstStep(), time.perf_counter()
        epochs = range(math.ceil(self.arguments.num_train_epochs))
        order = chain(*(batches(self.lengths, self.size, self.arguments.seed, epoch) for epoch in epochs))
        for indices in islice(order, self.steps):
            self.step(indices)
            first_step.on_step_end()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return {"train_seconds": time.perf_counter() - started, "first_step": first_step.time}

    @torch.inference_mode()
    def predict(self, other: "Loop") -> np.ndarray:
        """Return the logits (examples, outputs) of the examples of another loop."""
        self.model.eval()
        order = np.argsort(-other.lengths, kind="stable")
        size = self.arguments.eval_batch_size
        parts = [
            self.outputs(other.batch(order[start : start + size])).logits.float().cpu().numpy()
            for start in range(0, len(order), size)
        ]
        return np.concatenate(parts)[np.argsort(order)]


def main(file: Path) -> None:
    spec = json.loads(file.read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(spec)
    rows = read_examples(spec, tokenizer)
    model = load_model(spec, tokenizer)
    if spec["loop"]:
        loop = Loop(spec, model, tokenizer, rows["train"])
        found = loop.run()
        logits = loop.predict(Loop(spec, model, tokenizer, rows["validation"]))
        model.save_pretrained(Path(spec["folder"]) / "model")
    else:
        found, logits = train_by_trainer(spec, model, tokenizer, rows)
    labels, is_number = np.array(rows["validation"]["label"]), spec["num_labels"] == 1
    predictions = logits[:, 0] if is_number else logits.argmax(-1)
    score = pearsonr(predictions, labels).statistic if is_number else accuracy_score(labels, predictions)
    found |= {"examples": len(rows["train"]), "threads": torch.get_num_threads(), "predictions": predictions.tolist()}
    Path(spec["output"]).write_text(json.dumps({**found, "score": float(score)}), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
