"""Pretraining of a small GPT-2 or T5 checkpoint on a corpus, for use without a network."""

import hashlib
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Tokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)

from peftkit.config.progress import stage

Pair = tuple[list[int], list[int]]  # input ids, target ids


@dataclass(frozen=True)
class MiniModel:
    """The architecture and the training of one small model."""

    layers: int  # of T5: in the encoder and in the decoder each
    width: int  # hidden size
    heads: int
    vocab_size: int
    positions: int  # maximal input length; for T5, which has relative positions, a recommendation
    block: int  # tokens per training example
    batch_size: int  # blocks per step
    steps: int
    optimizer: str  # T5 uses Adafactor, as published: a loss of 2.4 after as many steps as give AdamW 2.6
    learning_rate: float
    warmup: float = 0.1  # share of the steps


MINI_MODELS = {
    "gpt2-mini": MiniModel(
        layers=4,
        width=256,
        heads=4,
        vocab_size=4096,
        positions=512,
        block=128,
        batch_size=8,
        steps=600,
        optimizer="adamw",
        learning_rate=2e-3,
    ),
    "t5-mini": MiniModel(
        layers=3,
        width=256,
        heads=4,
        vocab_size=4096,
        positions=512,
        block=128,
        batch_size=8,
        steps=800,
        optimizer="adafactor",
        learning_rate=1.5e-2,
    ),
}


def mini_path(kind: str, cache: Path, corpus: str) -> Path:
    """Return the folder of the model by its settings and the fingerprint of the corpus."""
    settings = json.dumps([asdict(MINI_MODELS[kind]), corpus], sort_keys=True)
    return cache / f"{kind}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"


def train_tokenizer(kind: str, documents: Sequence[str], vocab_size: int | None = None) -> PreTrainedTokenizerBase:
    """Train GPT-2's byte-level BPE, or T5's unigram model with its 100 sentinels, on the documents."""
    train = _train_bpe if kind == "gpt2-mini" else _train_unigram
    return train(documents, vocab_size or MINI_MODELS[kind].vocab_size, MINI_MODELS[kind].positions)


def sentinel_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of T5's sentinels in the order of the spans that they mark."""
    return [tokenizer.vocab[f"<extra_id_{number}>"] for number in range(SENTINELS)]


@dataclass(frozen=True)
class PretrainingData:
    """Pairs of token ids: all inputs have one length, and all targets have one length."""

    train: Sequence[Pair]
    held_out: Sequence[Pair]
    unigram_loss: float  # of the held-out targets in nats per token, recorded for comparison


SENTINELS = 100
PROGRESS_INTERVAL = 10  # steps between losses that are shown, each of which synchronizes the device


def pretrain_mini(
    kind: str,
    tokenizer: PreTrainedTokenizerBase,
    data: PretrainingData,
    out: Path,
    *,
    seed: int = 0,
    steps: int | None = None,
) -> dict[str, Any]:
    """Train a small model and write it, its tokenizer and pretraining.json to `out` atomically.

    The same seed and machine give the same weights. Losses are in nats per token.
    """
    mini = MINI_MODELS[kind] if steps is None else replace(MINI_MODELS[kind], steps=steps)
    started = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = untrained_mini(kind, tokenizer).to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]
        train_mini(model, mini, data.train, seed, label=f"pretraining {kind}")
    seconds = time.perf_counter() - started
    record = {
        "held_out_loss": mean_loss(model, data.held_out),
        "unigram_loss": data.unigram_loss,
        "parameters": model.num_parameters(),
        "steps": mini.steps,
        "tokens": mini.steps * mini.batch_size * mini.block,
        "seconds": round(seconds, 1),
        "seed": seed,
        "settings": asdict(mini),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
    }
    _write(model, tokenizer, record, out)
    return record


def untrained_mini(kind: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Return an untrained model for the tokenizer; its weights are sampled from torch's global generator."""
    mini = MINI_MODELS[kind]
    vocab_size = -(-len(tokenizer) // 64) * 64
    if kind == "gpt2-mini":
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=vocab_size,
                n_positions=mini.positions,
                n_embd=mini.width,
                n_layer=mini.layers,
                n_head=mini.heads,
                bos_token_id=tokenizer.eos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
    config = T5Config(
        vocab_size=vocab_size,
        d_model=mini.width,
        d_kv=mini.width // mini.heads,
        d_ff=4 * mini.width,
        num_layers=mini.layers,
        num_heads=mini.heads,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    return T5ForConditionalGeneration(config)


def train_mini(model: PreTrainedModel, mini: MiniModel, train: Sequence[Pair], seed: int, label: str) -> None:
    """Train in place; the learning rate warms up, then decays linearly to zero."""
    model.eval()  # no dropout: few blocks are seen twice, and the model is too small to memorize them
    optimizers: dict[str, Any] = {"adamw": torch.optim.AdamW, "adafactor": torch.optim.Adafactor}
    optimizer = optimizers[mini.optimizer](model.parameters(), lr=mini.learning_rate)
    warmup = max(1, round(mini.warmup * mini.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (mini.steps - step) / max(1, mini.steps - warmup))
    )
    with stage(label, mini.steps, "step") as progress:
        for step, batch in zip(range(mini.steps), _shuffled_batches(train, mini.batch_size, seed), strict=False):
            loss = _loss(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            progress.done = step + 1
            if step % PROGRESS_INTERVAL == 0:
                progress.note = f"loss {loss.item():.3f}"


@torch.no_grad()
def mean_loss(model: PreTrainedModel, pairs: Sequence[Pair], batch_size: int = 32, in_fp32: bool = False) -> float:
    """Return the mean loss on the pairs in nats per token, in bf16 if the hardware supports it, else in fp32."""
    model.eval()
    batches = [pairs[start : start + batch_size] for start in range(0, len(pairs), batch_size)]
    return sum(_loss(model, batch, in_fp32).item() * len(batch) for batch in batches) / len(pairs)


def _loss(model: PreTrainedModel, batch: Sequence[Pair], in_fp32: bool = False) -> torch.Tensor:
    inputs, targets = (torch.tensor(ids, device=model.device) for ids in zip(*batch, strict=True))
    with torch.autocast(model.device.type, torch.bfloat16, enabled=not in_fp32 and _has_bf16(model.device)):
        return model(input_ids=inputs, labels=targets).loss


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _shuffled_batches(pairs: Sequence[Pair], batch_size: int, seed: int) -> Iterator[list[Pair]]:
    """Yield batches endlessly, each epoch in a new order; an incomplete last batch is dropped."""
    if len(pairs) < batch_size:
        raise ValueError(f"{len(pairs)} blocks do not fill a batch of {batch_size}; use more text")
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(pairs), generator=generator).tolist()
        for start in range(0, len(order) - batch_size + 1, batch_size):
            yield [pairs[index] for index in order[start : start + batch_size]]


def _write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, record: dict[str, Any], out: Path) -> None:
    """Write to a temporary folder, then rename: a folder that exists is complete."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
        new = Path(folder) / "new"
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)
        (new / "pretraining.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if out.exists():
            shutil.move(out, Path(folder) / "old")
        new.replace(out)


def _train_bpe(documents: Sequence[str], vocab_size: int, max_length: int) -> GPT2Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learned = _learn(models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False), trainer, documents)
    merges: Any = [tuple(merge) for merge in learned["merges"]]
    # no pad token, as in the real GPT-2: `load_tokenizer` sets one
    return GPT2Tokenizer(vocab=learned["vocab"], merges=merges, model_max_length=max_length)


def _train_unigram(documents: Sequence[str], vocab_size: int, max_length: int) -> T5Tokenizer:
    splitters = [
        pre_tokenizers.WhitespaceSplit(),
        pre_tokenizers.Metaspace(),
        pre_tokenizers.Digits(individual_digits=True),  # digit by digit, as STS-B's scores need
    ]
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size - SENTINELS,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        initial_alphabet=[chr(code) for code in range(33, 127)],
        show_progress=False,
    )
    learned = _learn(models.Unigram(), pre_tokenizers.Sequence(splitters), trainer, documents)
    sentinels = [(f"<extra_id_{number}>", 0.0) for number in reversed(range(SENTINELS))]
    vocab = [*_in_fixed_order(learned["vocab"]), *sentinels]
    return T5Tokenizer(vocab=vocab, extra_ids=SENTINELS, model_max_length=max_length)


def _learn(model: Any, splitter: Any, trainer: Any, documents: Sequence[str]) -> dict[str, Any]:
    """Return the trained model of a tokenizer, as in tokenizer.json."""
    learner = tokenizers.Tokenizer(model)
    learner.pre_tokenizer = splitter
    learner.train_from_iterator(documents, trainer)
    return json.loads(learner.to_str())["model"]  # type: ignore[no-any-return]


def _in_fixed_order(vocab: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Remove differences between two trainings on the same text: ties, last digits, scores of rare characters.

    The trainer keeps characters too rare to be pieces at the lowest score, plus 0.0001 for each in a random order.
    """
    special, pieces = vocab[:3], vocab[3:]
    lowest = min(score for _, score in pieces)
    rare = lowest + 0.0001 * sum(len(piece) == 1 for piece, _ in pieces)
    scores = {p: round(lowest if len(p) == 1 and score <= rare else score, 6) for p, score in pieces}
    return [*((p, score) for p, score in special), *sorted(scores.items(), key=lambda item: (-item[1], item[0]))]
