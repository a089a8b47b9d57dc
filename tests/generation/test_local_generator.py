"""A local model's reply depends on its prompt and seed, not on the rest of the batch."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.scripted import fill, written
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from peftkit.generation.generators import TRUNCATED, GenerationPrompt, Reply, Request, shared_prefix
from peftkit.generation.generators.local import LocalGenerator
from peftkit.generation.self_instruct import self_instruct
from peftkit.models.sampling import GumbelNoise

SAMPLED = GenerationPrompt(
    "A list.", ("Task 1: the actor left.",), "Task 2:", ("Task 3:",), 12, temperature=1.0, top_p=0.9
)


def local(folder: Path, batch: int = 4) -> LocalGenerator:
    auto: Any = AutoModelForSeq2SeqLM if folder.name == "t5" else AutoModelForCausalLM
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return LocalGenerator(auto.from_pretrained(str(folder)), tokenizer, batch)


def send(generator: LocalGenerator, prompts: list[GenerationPrompt]) -> list[Reply]:
    requests = [Request(number, prompt, seed=number) for number, prompt in enumerate(prompts)]
    return [reply for group in generator.replies(requests) for reply in group]


def varied(count: int) -> list[GenerationPrompt]:
    return [
        GenerationPrompt("A list." * (n % 3 + 1), SAMPLED.examples, "Task 2:", SAMPLED.stop, 12, 1.0, 0.9)
        for n in range(count)
    ]


@pytest.mark.parametrize("model", ["gpt2", "t5"])
def test_replies_do_not_depend_on_the_batch(checkpoints: dict[str, Path], model: str) -> None:
    together, alone = (send(local(checkpoints[model], batch), varied(5)) for batch in (5, 1))
    assert together == alone
    assert len({reply.text for reply in together}) > 1 and all(reply.tokens_out for reply in together)


def test_samples_follow_the_softmax() -> None:
    shares = [0.6, 0.3, 0.1]
    scores = torch.tensor([[math.log(share) for share in shares]]).repeat(4000, 1)
    drawn = Counter(GumbelNoise(range(4000))(torch.empty(0), scores).argmax(1).tolist())  # type: ignore[arg-type]
    for token, share in enumerate(shares):
        assert abs(drawn[token] / 4000 - share) < 0.03  # four standard errors


def test_greedy_replies_equal_those_of_transformers(checkpoints: dict[str, Path]) -> None:
    generator = local(checkpoints["gpt2"])
    prompt = GenerationPrompt("the critic saw", (), "the film", (), 6)
    (reply,) = send(generator, [prompt])
    inputs = generator.tokenizer(prompt.text(), return_tensors="pt")
    plain = generator.model.generate(**inputs, max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert reply.text == generator.tokenizer.decode(plain[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert (reply.finish, reply.tokens_in, reply.tokens_out) == ("length", inputs["input_ids"].shape[1], 6)


def test_a_stop_string_ends_a_reply(checkpoints: dict[str, Path]) -> None:
    generator = local(checkpoints["gpt2"])
    (whole,) = send(generator, [GenerationPrompt("the critic saw", (), "the film", (), 20)])
    stop = whole.text[6:9]
    (cut,) = send(generator, [GenerationPrompt("the critic saw", (), "the film", (stop,), 20)])
    assert (cut.text, cut.finish) == (whole.text[: whole.text.index(stop)], "stop")
    assert cut.tokens_out < 20


def test_examples_are_dropped_if_the_context_is_short(checkpoints: dict[str, Path]) -> None:
    generator = local(checkpoints["gpt2"])  # 128 tokens
    examples = tuple(f"Task {n}: the actor praised the writer." for n in range(1, 16))
    long, short = send(
        generator,
        [
            GenerationPrompt("A list.", examples, "Task 16:", (), 12),
            GenerationPrompt("A list.", examples[:2], "Task 3:", (), 12),
        ],
    )
    assert long.dropped > 0 and long.tokens_in + 12 <= 128
    assert short.dropped == 0
    (huge,) = send(generator, [GenerationPrompt("the actor " * 200, (), "Task 1:", (), 12)])
    assert huge.tokens_in <= 96


def test_a_resumed_run_writes_the_same_files(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"patience": 2, "max_new_tokens": 24, "max_answer_tokens": 16, "batch": 4}
    for name in ("one", "other"):
        fill(tmp_path / name, self_instruct, local(checkpoints["gpt2"]), **settings)
    journal = (tmp_path / "other" / "journal.jsonl").read_bytes()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "journal.jsonl").write_bytes(journal[: len(journal) * 2 // 3])
    fill(tmp_path / "cut", self_instruct, local(checkpoints["gpt2"]), **settings)
    assert written(tmp_path / "one") == written(tmp_path / "other") == written(tmp_path / "cut")
    assert (tmp_path / "cut" / "journal.jsonl").read_bytes() == journal


def test_a_truncated_prompt_is_marked(checkpoints: dict[str, Path]) -> None:
    long, short = send(
        local(checkpoints["gpt2"]),
        [GenerationPrompt("the film " * 400, (), "is", (), 4), GenerationPrompt("a", (), "b", (), 4)],
    )
    assert (long.note, short.note) == (TRUNCATED, None)


def test_a_long_prompt_shortens_no_other_reply(checkpoints: dict[str, Path]) -> None:
    generator = local(checkpoints["gpt2"])  # 128 tokens
    prompts = [GenerationPrompt("the film " * n, (), "is", (), 60, 1.0) for n in (400, 1)]
    _, short = send(generator, prompts)
    (alone,) = generator.replies([Request(1, prompts[1], seed=1)])
    assert [short] == alone


@pytest.mark.parametrize("model", ["gpt2", "smollm2"])
def test_replies_with_a_shared_prefix_equal_those_without(
    checkpoints: dict[str, Path], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = "the critic saw the actor and the writer . " * 3
    ends = ["the film", "the actor left the film and the writer praised", "a", "the film was"]
    sampled = [GenerationPrompt(opening, (), end, (), 12, 1.0, 0.9) for end in ends]
    chosen = [replace(prompt, choices=(" yes", " the actor left", ".")) for prompt in sampled]
    found = {}
    for least in (16, 1000):
        monkeypatch.setattr(shared_prefix, "MIN_SHARED", least)
        generator = local(checkpoints[model])
        lengths: list[int] = []  # of the texts that each pass reads
        generator.model.register_forward_pre_hook(
            lambda _, args, kwargs, lengths=lengths: lengths.append((*args, kwargs.get("input_ids"))[0].shape[1]),
            with_kwargs=True,
        )
        found[least] = [*send(generator, sampled), *send(generator, chosen)]
        assert (max(lengths) < 24) == (least == 16)  # without the prefix
    assert found[16] == found[1000] and len({reply.text for reply in found[16]}) > 2


@pytest.mark.parametrize("model", ["gpt2", "smollm2"])
def test_an_expanded_cache_equals_that_of_the_whole_prompts(checkpoints: dict[str, Path], model: str) -> None:
    loaded = local(checkpoints[model]).model
    prompts = [[5, 6, 7, 8] * 5 + end for end in ([9], [10, 11, 12], [13] * 24)]  # the last one: more than the prefix
    longest = max(map(len, prompts))
    padding = [longest - len(prompt) for prompt in prompts]
    ids = torch.tensor([[0] * count + prompt for count, prompt in zip(padding, prompts, strict=True)])
    mask = torch.tensor([[0] * count + [1] * len(prompt) for count, prompt in zip(padding, prompts, strict=True)])
    with torch.inference_mode():
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        whole = loaded(ids, attention_mask=mask, position_ids=positions, use_cache=True).past_key_values
        cache = shared_prefix.prefix_cache(loaded, prompts)
        assert cache is not None
        expanded = shared_prefix.expand_left_padded(cache, padding)
    assert expanded.get_seq_length() == 20
    for one, other in zip(expanded.layers, whole.layers, strict=True):
        for row, count in enumerate(padding):
            for found, right in ((one.keys, other.keys), (one.values, other.values)):
                assert torch.allclose(found[row, :, count:], right[row, :, count:20], atol=1e-5)


def test_other_caches_are_not_shared(checkpoints: dict[str, Path]) -> None:
    loaded = local(checkpoints["gpt2"]).model
    assert shared_prefix.shared_length([[1, 2, 3], [1, 2], [1, 2, 4]]) == 1
    assert shared_prefix.prefix_cache(loaded, [[5] * 40]) is None  # one prompt
    assert shared_prefix.prefix_cache(loaded, [[5] * 10 + [6], [5] * 10 + [7]]) is None  # few tokens
    loaded.config.layer_types = ["sliding_attention"] * loaded.config.n_layer
    loaded.config.sliding_window = 8
    assert shared_prefix.prefix_cache(loaded, [[5] * 40, [5] * 41]) is None


CHAT = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


def test_a_choice_is_the_likeliest_reply(checkpoints: dict[str, Path]) -> None:
    generator = local(checkpoints["smollm2"])
    generator.tokenizer.chat_template, generator.is_chat = CHAT, True
    prompt = GenerationPrompt(
        "Judge.", (), "the film", (), 4, prefix=" Verdict:", choices=(" yes", " the actor left", ".")
    )
    (reply,) = send(generator, [prompt])
    start = generator.tokenizer("<user> Judge.\nthe film\n<assistant> Verdict:")["input_ids"]
    likelihoods = {}
    for choice in prompt.choices:
        ids = generator.tokenizer(choice)["input_ids"]
        logits = generator.model(torch.tensor([start + ids])).logits[0].double().log_softmax(-1)
        likelihoods[choice] = sum(logits[len(start) + at - 1, token].item() for at, token in enumerate(ids))
    assert reply.text == max(likelihoods, key=likelihoods.__getitem__)
    assert (reply.finish, reply.tokens_in) == ("stop", len(start))
    # calibrated by the prompt itself all choices are equal: the first one
    same = replace(prompt, neutral=prompt.question, choices=tuple(sorted(likelihoods, key=likelihoods.__getitem__)))
    assert [reply.text for reply in send(generator, [same])] == [same.choices[0]] != [reply.text]


def test_turns_that_do_not_fit_are_dropped_from_the_start(checkpoints: dict[str, Path]) -> None:
    generator = local(checkpoints["smollm2"])  # 128 positions
    generator.tokenizer.chat_template, generator.is_chat = CHAT, True
    turns = tuple((f"Question {number}: who left ?", "the actor left the film .") for number in range(9))
    prompt = GenerationPrompt("Answer.", (), "Question 9: who left ?", (), 8, turns=turns, prefix=" the")
    text, dropped, fits = generator._fit(Request(0, prompt, 0))
    assert fits and 0 < dropped < 9
    assert text.startswith(f"<user> Answer.\nQuestion {dropped}:") and text.endswith("<assistant> the")


def test_settings_of_the_generator_apply_to_sampled_replies(checkpoints: dict[str, Path]) -> None:
    plain, limited = local(checkpoints["gpt2"]), local(checkpoints["gpt2"])
    limited.settings = {"top_k": 1}
    greedy = send(plain, [replace(prompt, temperature=0.0) for prompt in varied(3)])
    assert send(limited, varied(3)) == greedy != send(plain, varied(3))
    limited.settings = {"repetition_penalty": 5.0}
    assert send(limited, varied(3)) != send(plain, varied(3))
