"""The memory that job=plan predicts, and what a run takes; prints the table of docs/how-to/launch.md.

python tests/benchmarks/plan_memory.py [PART_OF_A_NAME ...]            # all by default; Linux, CPU

Each figure is of a fresh process: the peak of its resident memory in training and evaluation, less that after the imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

BATCHES = 2  # of a run, so that the optimizer's states exist in the last one
OPTIMIZERS = ("adafactor", "adamw_8bit", "sgd")
RUNS: dict[str, dict[str, Any]] = {
    **{
        f"MiniLM (22 M), {method}, classification": {
            "model": "minilm", "method": method, "task": "classification", "sizes": (16,),
        }
        for method in ("full", "lora", "qlora")
    },
    **{
        f"GPT-2 (124 M), {method}, language modeling": {
            "model": "gpt2", "method": method, "task": "language_modeling", "sizes": (2,), "task.max_length": 256,
        }
        for method in ("full", "lora", "qlora")
    },
    **{
        f"T5-small (60 M), {method}, text to text": {
            "model": "t5", "method": method, "task": "seq2seq", "sizes": (4,), "task.max_length": 256,
        }
        for method in ("full", "lora", "qlora")
    },
    **{
        f"T5-small (60 M), full, {optimizer}, text to text": {
            "model": "t5", "method": "full", "task": "seq2seq", "sizes": (4,), "task.max_length": 256,
            "train.optim": optimizer,
        }
        for optimizer in OPTIMIZERS
    },
    "SmolLM2 (135 M), lora, instructions": {
        "model": "smollm2", "method": "lora", "task": "instructions", "sizes": (4,),
    },
    "SmolLM2 (135 M), lora on lm_head too, instructions": {
        "model": "smollm2", "method": "lora", "task": "instructions", "sizes": (2,),
        "method.config.target_modules": r".*\.(q_proj|v_proj|lm_head)",
    },
    "SmolLM2 (135 M), lora, preferences": {
        "model": "smollm2", "method": "lora", "task": "preferences", "sizes": (2,),
    },
}  # fmt: skip


def main(*parts: str) -> None:
    print("| run | batch size | predicted, MB | measured, MB | difference |\n|---|---|---|---|---|", flush=True)
    names = [name for name in RUNS if not parts or any(part in name for part in parts)]
    with tempfile.TemporaryDirectory() as folder:
        runs = [(name, size, settings_of(name, size, Path(folder))) for name in names for size in RUNS[name]["sizes"]]
        for name, size, settings in runs:
            predicted, measured = child("plan", settings), child("finetune", settings)
            share = f"{predicted / measured - 1:+.0%}"
            print(f"| {name} | {size} | {predicted / 1e6:,.0f} | {measured / 1e6:,.0f} | {share} |", flush=True)


def settings_of(name: str, size: int, folder: Path) -> dict[str, Any]:
    """Write the data and the model of a run, and return the settings for `peftkit.finetune`."""
    settings = {key: value for key, value in RUNS[name].items() if key != "sizes"}
    count = BATCHES * size
    settings |= write_data(folder / f"data-{size}", count)[settings["task"]]
    if settings["model"] in ("gpt2", "t5"):
        settings["model.checkpoint"] = str(write_model(settings["model"], folder))
    train = {"per_device_train_batch_size": size, "max_steps": BATCHES, "disable_tqdm": True}
    train |= {"optim": optimizer} if (optimizer := settings.pop("train.optim", None)) else {}
    return settings | {"source": "offline", "task.max_train_samples": count, "out": str(folder), "train": train}


def write_data(folder: Path, count: int) -> dict[str, dict[str, Any]]:
    """Write long texts; return the settings of each task that reads them."""
    from peftkit.data.offline_corpus import offline_documents

    text = " ".join(document for part in offline_documents() for document in part)
    pieces = [text[3000 * number :][:3000] for number in range(count + 8)]
    rows = [
        {"prompt": each[:1000], "chosen": each[1000:2000], "rejected": each[2000:], "label": "ab"[number % 2]}
        for number, each in enumerate(pieces)
    ]
    folder.mkdir(exist_ok=True)
    for name, found in (("train", rows[: count + 4]), ("validation", rows[count + 4 :])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
        (folder / "texts").mkdir(exist_ok=True)
        lines = [" ".join(f"{row['prompt']} {row['chosen']} {row['rejected']}".split()) for row in found]
        (folder / "texts" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    own: dict[str, Any] = {"task.dataset": str(folder), "task.text": ["prompt"]}
    return {
        "classification": own | {"task.label": "label"},
        "instructions": own | {"task.label": "chosen"},
        "seq2seq": own | {"task.label": "chosen"},
        "preferences": {"task.dataset": str(folder)},
        "language_modeling": {"task.dataset": str(folder / "texts")},
    }


def write_model(name: str, folder: Path) -> Path:
    """Write GPT-2 or T5-small of its published size with random weights, and a tokenizer; return its folder."""
    from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

    from peftkit.data.miniglue import sentences
    from peftkit.models.offline import train_tokenizer

    if (folder / name / "config.json").is_file():
        return folder / name
    tokenizer = train_tokenizer(f"{name}-mini", list(sentences(300)), 600)
    if name == "gpt2":
        GPT2LMHeadModel(GPT2Config(eos_token_id=tokenizer.eos_token_id)).save_pretrained(folder / name)
    else:
        start = tokenizer.pad_token_id
        T5ForConditionalGeneration(T5Config(decoder_start_token_id=start)).save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / name)
    return folder / name


CHILD = """
import json, sys
import peftkit, torch
from peftkit.jobs import finetune, plan
run = json.loads(sys.argv[2])
if run["task"] in ("instructions", "preferences"):
    import trl.trainer.sft_trainer, trl.trainer.dpo_trainer
status = open("/proc/self/status").read()
before = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) * 1024
if sys.argv[1] == "plan":
    print(peftkit.plan(**run).memory.total)
else:
    costs = peftkit.finetune(force=True, **run).costs
    print(max(costs["train_peak_bytes"], costs["eval_peak_bytes"]) - before)
"""


def child(verb: str, run: dict[str, Any]) -> int:
    """Return the predicted or the measured bytes of a run, in a process of its own."""
    command = [sys.executable, "-c", CHILD, verb, json.dumps(run)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return int(done.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
