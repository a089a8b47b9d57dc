"""Generation of answers with the model of a trainer: greedy, by beam search, or sampled."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer

from peftkit.compat.transformers import generation_values
from peftkit.config.decoding import OF_SAMPLING, derive_seed, upstream_values
from peftkit.config.progress import counted
from peftkit.models.sampling import sampling_processors


@dataclass(frozen=True)
class Decoding:
    """How texts are generated.

    Args:
        max_new_tokens: of an answer, if the settings have none.
        pad: the id of the padding token.
        end: the id of the token that ends an answer; None without one.
        settings: of transformers.GenerationConfig, by name; greedy decoding without any.
        seed: of sampling; each prompt has random numbers of its own, from this and its number.
    """

    max_new_tokens: int
    pad: int
    end: int | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0


def generate_answers(
    trainer: Trainer, prompts: Sequence[list[int]], decoding: Decoding
) -> tuple[list[list[int]], float]:
    """Return the token ids that the model generates after each prompt, and the seconds it took."""
    values = generation_values(extract_model_from_parallel(trainer.model), upstream_values(decoding.settings))
    # beams draw from torch's own random numbers, one prompt at a time
    size = 1 if values["do_sample"] and values["num_beams"] > 1 else trainer.args.eval_batch_size
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
    generated: dict[int, list[int]] = {}
    started = time.perf_counter()
    for first in counted("generating", range(0, len(order), size), "batch"):
        batch = order[first : first + size]
        answers = generate_batch(trainer, [prompts[number] for number in batch], decoding, batch)
        generated |= dict(zip(batch, answers, strict=True))
    return [generated[number] for number in range(len(prompts))], time.perf_counter() - started


def generate_batch(
    trainer: Trainer, prompts: Sequence[list[int]], decoding: Decoding, numbers: Sequence[int], **more: Any
) -> list[list[int]]:
    """Return the token ids that the model generates after each of some prompts with these numbers.

    A decoder's prompts are padded on the left, so that the new tokens follow the prompt.

    Args:
        more: arguments of `generate`, such as a streamer.
    """
    model = extract_model_from_parallel(trainer.model).eval()
    is_decoder, device = not model.config.is_encoder_decoder, trainer.args.device
    sequences = [torch.tensor(prompt, dtype=torch.long) for prompt in prompts]
    ids, mask = (
        pad_sequence(each, batch_first=True, padding_value=value, padding_side="left" if is_decoder else "right")
        for each, value in ((sequences, decoding.pad), ([torch.ones_like(each) for each in sequences], 0))
    )
    seeds = [derive_seed(decoding.seed, number) for number in numbers]
    arguments = {"max_new_tokens": decoding.max_new_tokens} | _strategy(model, decoding.settings, seeds)
    samples_beams = arguments["do_sample"]
    with torch.no_grad(), torch.random.fork_rng(enabled=samples_beams):
        if samples_beams:
            torch.manual_seed(seeds[0])
        out = model.generate(
            input_ids=ids.to(device), attention_mask=mask.to(device), pad_token_id=decoding.pad,
            eos_token_id=decoding.end, **arguments, **more,
        )  # fmt: skip
    return out[:, ids.shape[1] if is_decoder else 1 :].tolist()  # type: ignore[no-any-return]


def _strategy(model: Any, settings: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """Return the arguments of `generate` for these settings.

    Sampling without beams is greedy decoding of logits with noise: transformers would draw for a whole batch.
    """
    given = upstream_values(settings)
    values = generation_values(model, given)
    if not given.get("do_sample") or values["num_beams"] > 1:
        return {"do_sample": False, **given}
    others = {name: value for name, value in given.items() if name not in OF_SAMPLING}
    return {**others, "do_sample": False, "logits_processor": sampling_processors(values, seeds, model.device)}
