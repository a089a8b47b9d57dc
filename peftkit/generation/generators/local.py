"""Turn prompts into replies of a model in this process, batched, each drawn from a stream of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from peftkit.generation.generators import TRUNCATED, Reply, Request

TAIL = 16  # tokens in which a stop string is looked for
LEAST = 32  # tokens that a prompt leaves free for the reply, where the context is short


class LocalGenerator:
    """A causal or sequence-to-sequence model and its tokenizer; `chat` wraps prompts in the tokenizer's template."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: int, chat: bool | None = None
    ) -> None:
        self.model, self.tokenizer, self.batch = model.eval(), tokenizer, batch
        tokenizer.padding_side = "left"
        has_template = getattr(tokenizer, "chat_template", None) is not None
        self.chat = has_template if chat is None else chat
        self.is_seq2seq = bool(model.config.is_encoder_decoder)

    def replies(self, requests: Sequence[Request]) -> Iterator[list[Reply]]:
        """Yield the replies of a batch together: a batch is made again as a whole, or not at all."""
        for first in range(0, len(requests), self.batch):
            yield self._batch(requests[first : first + self.batch])

    def _batch(self, requests: Sequence[Request]) -> list[Reply]:
        """Reply to all, to each prompt that is too long alone: it would leave those beside it no room to reply in."""
        fitted = [self._fit(request) for request in requests]
        places = [place for place, (*_, fits) in enumerate(fitted) if fits]
        parts = [places] * bool(places) + [[place] for place, (*_, fits) in enumerate(fitted) if not fits]
        made: dict[int, Reply] = {}
        for part in parts:
            replies = self._together([requests[place] for place in part], [fitted[place][:2] for place in part])
            made |= zip(part, replies, strict=True)
        return [made[place] for place in range(len(requests))]

    @torch.inference_mode()
    def _together(self, requests: Sequence[Request], fitted: Sequence[tuple[str, int]]) -> list[Reply]:
        prompt = requests[0].prompt  # those of one step are alike in how they are answered
        batch = self.tokenizer(
            [text for text, _ in fitted],
            return_tensors="pt",
            padding=True,
            add_special_tokens=not self.chat,  # a template has its own
        )
        context, whole = self._context(), batch["attention_mask"].sum(1).tolist()
        if context is not None and batch["input_ids"].shape[1] > context - LEAST:  # no example is left to drop
            batch = {name: values[:, LEAST - context :] for name, values in batch.items()}
        batch = {name: batch[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        width = batch["input_ids"].shape[1]
        room = prompt.max_new_tokens if context is None else min(prompt.max_new_tokens, context - width)
        written = self.model.generate(
            **batch,
            max_new_tokens=room,
            do_sample=False,
            num_beams=1,
            pad_token_id=self.tokenizer.pad_token_id,
            logits_processor=LogitsProcessorList(_sampling(requests)),
            stopping_criteria=StoppingCriteriaList(
                [_Stops(self.tokenizer, prompt.stop, 1 if self.is_seq2seq else width)]
            ),
        )
        new = written[:, 1:] if self.is_seq2seq else written[:, width:]
        sizes = batch["attention_mask"].sum(1).tolist()
        return [
            self._reply(request, tokens, size, dropped, TRUNCATED if size < asked else None)
            for request, tokens, size, asked, (_, dropped) in zip(
                requests, new.tolist(), sizes, whole, fitted, strict=True
            )
        ]

    def _reply(self, request: Request, tokens: list[int], read: int, dropped: int, note: str | None) -> Reply:
        ends = self._ends()
        place = next((number for number, token in enumerate(tokens) if token in ends), None)
        kept = tokens if place is None else tokens[:place]
        text = self.tokenizer.decode(kept, skip_special_tokens=True)
        cut = min((at for stop in request.prompt.stop if (at := text.find(stop)) >= 0), default=None)
        finish = "length" if place is None and cut is None else "stop"
        return Reply(request.number, text[:cut], finish, int(read), len(kept), dropped=dropped, note=note)

    def _fit(self, request: Request) -> tuple[str, int, bool]:
        """Return the prompt's text, how many of its first examples it lost for lack of room, and whether it has room.

        A reply has a quarter of the context, or as much as it may be long.
        """
        prompt, context = request.prompt, self._context()
        for dropped in range(len(prompt.examples) + 1):
            text = self._worded(prompt.text(dropped))
            fits = context is None or self._length(text) <= context - min(prompt.max_new_tokens, context // 4)
            if fits:
                break
        return text, dropped, fits

    def _length(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=not self.chat)["input_ids"])

    def _worded(self, text: str) -> str:
        if not self.chat:
            return text
        messages = [{"role": "user", "content": text}]
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def _context(self) -> int | None:
        """Return how many tokens prompt and reply have room for together; None where positions are relative."""
        if self.is_seq2seq:
            return None
        config = self.model.config
        return getattr(config, "n_positions", None) or getattr(config, "max_position_embeddings", None)

    def _ends(self) -> set[int]:
        configured: Any = self.model.generation_config.eos_token_id
        known = configured if isinstance(configured, list) else [configured]
        # a row that ended by a stop string goes on in pads
        return {
            token for token in (*known, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id) if token is not None
        }


def _sampling(requests: Sequence[Request]) -> list[LogitsProcessor]:
    prompt = requests[0].prompt
    if prompt.temperature == 0:
        return []
    warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(prompt.temperature)]
    if prompt.top_p < 1:
        warpers.append(TopPLogitsWarper(prompt.top_p))
    return [*warpers, _Draw([request.seed for request in requests])]


class _Draw(LogitsProcessor):
    """Make the greedy choice a draw: the largest of scores with Gumbel noise is distributed as their softmax is.

    The noise of a row comes from its own seed, so that a reply does not hang on what else is in the batch.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        even = torch.stack([torch.rand(scores.shape[1], generator=stream) for stream in self.streams])
        noise = -torch.log(-torch.log(even.clamp(1e-20, 1 - 1e-7)))
        return scores.float() + noise.to(scores.device)


class _Stops(StoppingCriteria):
    """End a row where one of the strings stands in what it has written."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], start: int) -> None:
        self.tokenizer, self.stop, self.start = tokenizer, stop, start

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **_: Any) -> torch.Tensor:
        tails = self.tokenizer.batch_decode(input_ids[:, max(self.start, input_ids.shape[1] - TAIL) :])
        ended = [any(stop in tail for stop in self.stop) for tail in tails]
        return torch.tensor(ended, device=input_ids.device)
