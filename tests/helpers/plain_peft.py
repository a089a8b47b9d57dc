"""Train and score models with plain transformers and PEFT, and measure the difference from peftkit."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    get_linear_schedule_with_warmup,
    set_seed,
)

from helpers import commands
from peftkit.compat.dropout import fast_masks
from peftkit.methods.soft_prompt import SoftPromptConfig

STEPS, BATCH, SEED, LABELS = 20, 8, 0, ["negative", "positive"]
TEMPLATE = "sst2 sentence: {sentence}"
MODELS = ("bert", "gpt2", "t5")
RATES = {"lora": 1e-3, "ia3": 1e-2, "full": 1e-4}
IA3 = {  # Liu et al. 2022, section 3.3; on BERT PEFT's own choice also meets the attention's output
    "bert": {"target_modules": r".*\.self\.(key|value)|.*\.layer\.\d+\.output\.dense", "feedforward_modules": r".*\.layer\.\d+\.output\.dense"},
    "gpt2": {"target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": ["mlp.c_proj"]},
    "t5": {"target_modules": ["k", "v", "wo"], "feedforward_modules": ["wo"]},
}  # fmt: skip


def write_rows(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Write the rows that both train on and answer, as jsonl files, and return them."""
    from peftkit.data.miniglue import miniglue

    folder.mkdir(parents=True, exist_ok=True)
    splits = {}
    for split, count in (("train", STEPS * BATCH), ("validation", 64)):
        rows = list(miniglue("sst2")[split])[:count]
        splits[split] = [{"sentence": row["sentence"], "label": LABELS[row["label"]]} for row in rows]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in splits[split]))
    return splits


def by_peftkit(model: str, checkpoint: Path, method: str, data: Path, out: Path) -> tuple[Any, Any, Any]:
    """Return the losses (steps,), the scores (rows, labels) and the trained weights by name of peftkit's run."""
    overrides = [
        f"model={model}", f"model.checkpoint={checkpoint}", f"method={method}", "task=sst2", f"task.dataset={data}",
        "task.suite=own", "task.subset=null", f"task.template='{TEMPLATE}'", "source=offline", f"seed={SEED}",
        f"out={out}", f"train.learning_rate={RATES[method]}", f"train.max_steps={STEPS}",
        f"train.per_device_train_batch_size={BATCH}", "train.train_sampling_strategy=sequential",
        "train.logging_steps=1", "train.bf16=false", "train.disable_tqdm=true",
    ]  # fmt: skip
    (folder,) = commands.finetune(*overrides, *(["model.pooling=cls"] if model == "bert" else []))
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    scores = np.array(pq.read_table(folder / "predictions.parquet")["scores"].to_pylist())
    losses = np.array([entry["loss"] for entry in log if "loss" in entry])
    saved = "model/model" if method == "full" else "adapter/adapter_model"
    return losses, scores, load_file(folder / f"{saved}.safetensors")


def by_hand(
    model: str, checkpoint: Path, method: str, splits: dict[str, list[dict[str, Any]]]
) -> tuple[Any, Any, Any, Any]:
    """Return the same of a loop that is written out, without peftkit; and the scores before training."""
    set_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if model == "t5":
        base: Any = AutoModelForSeq2SeqLM.from_pretrained(checkpoint)
    else:
        base = AutoModelForSequenceClassification.from_pretrained(
            checkpoint, num_labels=2, pad_token_id=tokenizer.pad_token_id
        )
    task = "SEQ_2_SEQ_LM" if model == "t5" else "SEQ_CLS"
    transposed = {"fan_in_fan_out": model == "gpt2"}
    net = base
    if method == "lora":
        lora = LoraConfig(task_type=task, r=8, lora_alpha=16, target_modules="all-linear", **transposed)
        net = get_peft_model(base, lora)
    elif method == "ia3":
        net = get_peft_model(base, IA3Config(task_type=task, **IA3[model], **transposed))
    collate = DataCollatorForSeq2Seq(tokenizer) if model == "t5" else DataCollatorWithPadding(tokenizer)

    def inputs(row: dict[str, Any]) -> dict[str, Any]:
        text = TEMPLATE.format(**row) if model == "t5" else row["sentence"]
        label = tokenizer(row["label"])["input_ids"] if model == "t5" else LABELS.index(row["label"])
        return {**tokenizer(text, truncation=True, max_length=128), "labels": label}

    answered = collate([inputs(row) for row in splits["validation"]])

    @torch.no_grad()
    def scores() -> Any:
        if model != "t5":
            return net.eval()(**answered).logits.numpy()
        return torch.stack([_likelihood(net.eval(), tokenizer, answered, word) for word in LABELS], dim=1).numpy()

    fresh = scores()
    trained = {name: weight for name, weight in net.named_parameters() if weight.requires_grad}
    is_decayed = {name: not re.search(r"bias$|norm|\.ln_", name.lower()) for name in trained}
    groups = [
        {"params": [w for n, w in trained.items() if is_decayed[n]], "weight_decay": 0.01},
        {"params": [w for n, w in trained.items() if not is_decayed[n]], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATES[method])
    schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(0.06 * STEPS), STEPS)
    set_seed(SEED)
    losses = []
    with fast_masks():  # torch's own masks of the same seed are other ones
        for batch in DataLoader([inputs(row) for row in splits["train"]], batch_size=BATCH, collate_fn=collate):  # type: ignore[arg-type]
            loss = net.train()(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
    return np.array(losses), scores(), net.state_dict() if method == "full" else get_peft_model_state_dict(net), fresh


def _likelihood(net: Any, tokenizer: Any, batch: dict[str, torch.Tensor], word: str) -> torch.Tensor:
    """Return log p(word | text) (rows,), the sum over the word's tokens."""
    target = torch.tensor([tokenizer(word)["input_ids"]] * len(batch["input_ids"]))
    logits = net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=target).logits
    return logits.log_softmax(-1).gather(-1, target[..., None])[..., 0].sum(-1)


def training_differences(model: str, checkpoint: Path, method: str, scratch: Path) -> dict[str, float]:
    """Return the largest differences of losses, scores and weights; `moved` is what training did to the scores."""
    splits = write_rows(scratch / "data")
    losses, scores, weights = by_peftkit(model, checkpoint, method, scratch / "data", scratch / "outputs")
    losses_by_hand, scores_by_hand, weights_by_hand, fresh = by_hand(model, checkpoint, method, splits)
    assert weights.keys() == weights_by_hand.keys() and len(losses) == STEPS
    return {
        "losses": float(np.abs(losses - losses_by_hand).max()),
        "scores": float(np.abs(scores - scores_by_hand).max()),
        "weights": max(float((weight - weights_by_hand[name]).abs().max()) for name, weight in weights.items()),
        "moved": float(np.abs(scores_by_hand - fresh).max()),
    }


TOKENS = 5  # of a soft prompt
SOFT = {  # kind, head, PEFT's name for it, model
    "prefix, GPT-2 language model": ("prefix", AutoModelForCausalLM, "CAUSAL_LM", "gpt2"),
    "prompt, GPT-2 language model": ("prompt", AutoModelForCausalLM, "CAUSAL_LM", "gpt2"),
    "prompt, GPT-2 classification": ("prompt", AutoModelForSequenceClassification, "SEQ_CLS", "gpt2"),
    "prompt, BERT token classification": ("prompt", AutoModelForTokenClassification, "TOKEN_CLS", "bert"),
}


@torch.no_grad()
def soft_prompt_difference(case: str, checkpoint: Path) -> dict[str, float]:
    """Return how far logits of a batch without padding are from PEFT's for the same vectors; `moved`: from the base's."""
    kind, auto, task, _ = SOFT[case]

    def base() -> Any:
        set_seed(SEED)
        return auto.from_pretrained(checkpoint, pad_token_id=0).eval()

    ids = torch.arange(10, 10 + 2 * 12).view(2, 12)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    plain = base()(**inputs).logits
    theirs_config = PrefixTuningConfig if kind == "prefix" else PromptTuningConfig
    theirs = get_peft_model(base(), theirs_config(task_type=task, num_virtual_tokens=TOKENS)).eval()
    vectors = theirs.prompt_encoder["default"].embedding.weight
    vectors.copy_(torch.randn(vectors.shape, generator=torch.Generator().manual_seed(SEED)))
    ours = get_peft_model(base(), SoftPromptConfig(kind=kind, task_type=task, num_virtual_tokens=TOKENS)).eval()
    (mine,) = (weight for name, weight in ours.named_parameters() if "soft_prompt_vectors" in name)
    mine.copy_(vectors)
    # PEFT's prefix takes the first positions, ours none: given the same positions both are the same
    shifted = {"position_ids": torch.arange(TOKENS, TOKENS + 12).expand(2, -1)} if kind == "prefix" else {}
    our_logits, their_logits = ours(**inputs, **shifted).logits, theirs(**inputs).logits
    if their_logits.shape[1] == TOKENS + 12:
        their_logits = their_logits[:, TOKENS:]
    return {
        "logits": float((our_logits - their_logits).abs().max()),
        "moved": float((their_logits - plain).abs().max()),
    }
