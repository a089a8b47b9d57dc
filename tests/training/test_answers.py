"""Generated answers against plain `generate`, one prompt at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, Trainer, TrainingArguments

from peftkit.compat.transformers import generation_values
from peftkit.models.sampling import sampling_processors
from peftkit.training import Decoding, generate_answers

PROMPTS = ["the film", "it was a great film and the actors", "a", "nobody likes the long film"]
SAMPLED = {"do_sample": True, "temperature": 2, "top_k": 40}


@pytest.fixture(params=["gpt2", "smollm2", "t5"])
def model(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> Any:
    auto = AutoModelForSeq2SeqLM if request.param == "t5" else AutoModelForCausalLM
    return auto.from_pretrained(checkpoints[request.param]).eval()


@pytest.fixture
def prompts(model: Any) -> list[list[int]]:
    return [list(ids) for ids in AutoTokenizer.from_pretrained(model.name_or_path)(PROMPTS)["input_ids"]]


def answers(model: Any, prompts: list[list[int]], batch: int, **settings: Any) -> list[list[int]]:
    """Return generated tokens, without those after the end of an answer."""
    tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
    seed, end, pad = settings.pop("seed", 0), tokenizer.eos_token_id, tokenizer.pad_token_id
    arguments = TrainingArguments("unused", per_device_eval_batch_size=batch, use_cpu=True, report_to="none")
    decoding = Decoding(12, end if pad is None else pad, end, settings, seed)
    found, _ = generate_answers(Trainer(model, arguments), prompts, decoding)
    return [ids[: ids.index(end) + 1] if end in ids else ids for ids in found]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_beams": 4, "length_penalty": 2},
        {"repetition_penalty": 2, "no_repeat_ngram_size": 2},
        {"min_new_tokens": 8, "max_new_tokens": 9},
    ],
)
def test_an_answer_equals_plain_generate(model: Any, prompts: list[list[int]], settings: dict[str, Any]) -> None:
    found = answers(model, prompts, 4, **settings)
    plain = {"max_new_tokens": 12, **{name: float(x) if "penalty" in name else x for name, x in settings.items()}}
    for prompt, answer in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **plain)[0].tolist()
        assert answer == out[1 if model.config.is_encoder_decoder else len(prompt) :]


def test_sampling_depends_on_seed_and_number_and_not_on_the_batch(model: Any, prompts: list[list[int]]) -> None:
    first = answers(model, prompts, 4, **SAMPLED)
    assert answers(model, prompts, 1, **SAMPLED) == answers(model, prompts, 3, **SAMPLED) == first
    assert answers(model, prompts[:2], 4, **SAMPLED) == first[:2]
    assert answers(model, prompts, 4, **SAMPLED, seed=1) != first
    same = answers(model, [prompts[0], prompts[0]], 2, **SAMPLED)
    assert same[0] != same[1]


def test_sampled_beams_depend_on_seed_and_number_and_leave_the_caller_s_random_numbers(
    model: Any, prompts: list[list[int]]
) -> None:
    settings = {**SAMPLED, "num_beams": 3}
    before = torch.get_rng_state()
    first = answers(model, prompts, 4, **settings)
    assert torch.equal(before, torch.get_rng_state())
    assert answers(model, prompts, 1, **settings) == first
    assert answers(model, prompts, 4, **settings, seed=1) != first


def test_sampling_processes_logits_as_upstream_does() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=1))
    settings = {
        "do_sample": True, "temperature": 0.7, "top_h": 0.9, "top_k": 30, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.8,
        "epsilon_cutoff": 0.001, "eta_cutoff": 0.001,
    }  # fmt: skip
    ids, logits = torch.zeros(4, 1, dtype=torch.long), torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    for chosen in (settings, {"do_sample": True}, {"do_sample": True, "top_k": 0, "top_p": 0.5}):
        config, _ = model._prepare_generation_config(None, **chosen)
        values = generation_values(model, chosen)
        assert {name: config.to_dict()[name] for name in values if name != "max_length"} == {
            name: value for name, value in values.items() if name != "max_length"
        }
        upstream = model._get_logits_processor(config, input_ids_seq_length=1, encoder_input_ids=ids)
        *ours, _ = sampling_processors(values, [0], torch.device("cpu"))
        found = logits
        for processor in ours:
            found = processor(ids, found)
        assert [type(each) for each in ours] == [type(each) for each in upstream]
        assert torch.equal(found, upstream(ids, logits))
