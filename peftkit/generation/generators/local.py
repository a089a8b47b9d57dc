"""A model in this process as a generator: batched, each reply sampled from its own random stream."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import torch
from transformers import (
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from peftkit.config.decoding import OF_SAMPLING, upstream_values
from peftkit.generation.generators import TRUNCATED, Reply, Request
from peftkit.generation.generators.shared_prefix import expand_left_padded, prefix_cache
from peftkit.models.sampling import sampling_processors

STOP_WINDOW = 16  # last tokens, which are searched for stop strings
MIN_REPLY_TOKENS = 32  # reserved for the reply where the prompt is truncated


class LocalGenerator:
    """A causal or sequence-to-sequence model and its tokenizer; `is_chat` applies the tokenizer's chat template.

    `settings` are those of transformers.GenerationConfig, by name, that sampled replies have besides temperature and
    top_p.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch: int,
        chat: bool | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings = upstream_values(settings or {})
        self.model, self.tokenizer, self.batch = model.eval(), tokenizer, batch
        tokenizer.padding_side = "left"
        self.is_chat = getattr(tokenizer, "chat_template", None) is not None if chat is None else chat
        self.is_seq2seq = bool(model.config.is_encoder_decoder)
        self.takes_turns, self.has_likelihoods = self.is_chat, not self.is_seq2seq
        names = () if self.is_seq2seq else ("n_positions", "max_position_embeddings")
        # tokens of prompt and reply together; None with relative positions
        self.context = next((size for name in names if (size := getattr(model.config, name, None))), None)
        configured: Any = model.generation_config.eos_token_id
        ends = configured if isinstance(configured, list) else [configured]
        # a sequence that ended at a stop string continues with padding
        self._ends = {*ends, tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}

    def replies(self, requests: Sequence[Request]) -> Iterator[list[Reply]]:
        """Yield the replies of each batch together: a resumed run generates whole batches."""
        for first in range(0, len(requests), self.batch):
            yield self._batch(requests[first : first + self.batch])

    def _batch(self, requests: Sequence[Request]) -> list[Reply]:
        """Generate the replies; a prompt that is too long gets its own batch: padding would shorten the others."""
        fitted = [self._fit(request) for request in requests]
        fitting = [index for index, (*_, fits) in enumerate(fitted) if fits]
        batches = [fitting] * bool(fitting) + [[index] for index, (*_, fits) in enumerate(fitted) if not fits]
        replies: dict[int, Reply] = {}
        for batch in batches:
            replies |= zip(
                batch, self._generate([(requests[index], *fitted[index][:2]) for index in batch]), strict=True
            )
        return [replies[index] for index in range(len(requests))]

    @torch.inference_mode()
    def _generate(self, fitted: Sequence[tuple[Request, str, int]]) -> list[Reply]:
        """Return the replies to requests with these prompt texts, from which so many examples were removed."""
        requests, texts, dropped = zip(*fitted, strict=True)
        prompt, context = requests[0].prompt, self.context  # all prompts of a call have the same settings
        if prompt.choices and self.has_likelihoods:
            return self._choose(fitted)
        inputs = self.tokenizer(
            [*texts],
            return_tensors="pt",
            padding=True,
            add_special_tokens=not self.is_chat,  # a template has its own
        )
        untruncated = inputs["attention_mask"].sum(1).tolist()
        longest = inputs["input_ids"].shape[1]
        limit = longest if context is None else min(longest, context - MIN_REPLY_TOKENS)  # no example is left
        tensors = {
            name: inputs[name][:, longest - limit :].to(self.model.device) for name in ("input_ids", "attention_mask")
        }
        start = 1 if self.is_seq2seq else limit  # of the reply
        sequences = self.model.generate(
            **tensors,
            **self._shared_cache(inputs["input_ids"], untruncated, longest - limit),
            max_new_tokens=prompt.max_new_tokens if context is None else min(prompt.max_new_tokens, context - limit),
            do_sample=False,
            num_beams=1,
            pad_token_id=self.tokenizer.pad_token_id,
            **self._sampling(requests),
            stopping_criteria=StoppingCriteriaList([_StopStrings(self.tokenizer, prompt.stop, start)]),
        )
        replies = map(self._reply, requests, sequences[:, start:].tolist())
        sizes = tensors["attention_mask"].sum(1).tolist()
        return [
            replace(reply, tokens_in=int(size), dropped=count, note=TRUNCATED if size < before else None)
            for reply, size, before, count in zip(replies, sizes, untruncated, dropped, strict=True)
        ]

    def _sampling(self, requests: Sequence[Request]) -> dict[str, Any]:
        """Return the arguments of `generate` for sampled replies; none where they are greedy."""
        prompt = requests[0].prompt
        if not prompt.temperature:
            return {}
        values = {**self.settings, "temperature": prompt.temperature, "top_p": prompt.top_p}
        seeds = [request.seed for request in requests]
        others = {name: value for name, value in self.settings.items() if name not in OF_SAMPLING}
        return {**others, "logits_processor": sampling_processors(values, seeds, self.model.device)}

    def _shared_cache(self, ids: torch.Tensor, sizes: Sequence[int], truncated: int) -> dict[str, Any]:
        """Return the argument with the cache of the tokens that left-padded prompts share, if they share enough."""
        if self.is_seq2seq or truncated:
            return {}
        padding = [ids.shape[1] - size for size in sizes]
        prompts = [row[count:] for row, count in zip(ids.tolist(), padding, strict=True)]
        cache = prefix_cache(self.model, prompts)
        return {} if cache is None else {"past_key_values": expand_left_padded(cache, padding)}

    def _choose(self, fitted: Sequence[tuple[Request, str, int]]) -> list[Reply]:
        """Return the likeliest of each prompt's choices, by the sum of its tokens' log-likelihoods."""
        first = fitted[0][0]
        choices = first.prompt.choices
        ends = self.tokenizer([*choices], add_special_tokens=False)["input_ids"]
        limit = None if self.context is None else self.context - max(map(len, ends))
        texts = self.tokenizer([text for _, text, _ in fitted], add_special_tokens=not self.is_chat)["input_ids"]
        prompts = [ids[-limit:] if limit else ids for ids in texts]
        shared = prefix_cache(self.model, prompts)
        prior = [0.0] * len(ends)
        if first.prompt.neutral:  # all prompts of a call have the same examples
            neutral = replace(first.prompt, question=first.prompt.neutral, neutral="", choices=())
            text, *_ = self._fit(replace(first, prompt=neutral))
            prior = self._likelihoods(
                self.tokenizer(text, add_special_tokens=not self.is_chat)["input_ids"], ends, None
            )
        replies = []
        for (request, _, dropped), prompt, whole in zip(fitted, prompts, texts, strict=True):
            likelihoods = [x - y for x, y in zip(self._likelihoods(prompt, ends, shared), prior, strict=True)]
            best = choices[max(range(len(choices)), key=likelihoods.__getitem__)]
            note = TRUNCATED if len(prompt) < len(whole) else None
            replies.append(Reply(request.number, best, "stop", len(prompt), 1, dropped=dropped, note=note))
        return replies

    def _likelihoods(self, prompt: list[int], ends: list[list[int]], shared: DynamicCache | None) -> list[float]:
        """Return the log-likelihood of each end of a prompt, whose first tokens may be in a cache."""
        ids = torch.tensor([prompt], device=self.model.device)
        known = 0 if shared is None else shared.get_seq_length()
        outputs = self.model(ids[:, known:], past_key_values=copy.deepcopy(shared), use_cache=True, logits_to_keep=1)
        likelihoods = []
        for end in ends:
            following = torch.tensor([end], device=self.model.device)
            logits = outputs.logits[0]
            if len(end) > 1:
                rest = self.model(following[:, :-1], past_key_values=copy.deepcopy(outputs.past_key_values)).logits[0]
                logits = torch.cat([logits, rest])
            likelihoods.append(float(logits.float().log_softmax(-1).gather(1, following.T).sum()))
        return likelihoods

    def _reply(self, request: Request, tokens: list[int]) -> Reply:
        """Return the text up to the first end of sequence or stop string."""
        kept = [*takewhile(lambda token: token not in self._ends, tokens)]
        text = self.tokenizer.decode(kept, skip_special_tokens=True)
        stop = min((at for stop in request.prompt.stop if (at := text.find(stop)) >= 0), default=None)
        finish = "length" if len(kept) == len(tokens) and stop is None else "stop"
        return Reply(request.number, text[:stop], finish, 0, len(kept))

    def _fit(self, request: Request) -> tuple[str, int, bool]:
        """Return the prompt's text, how many examples were removed from its start, and whether it fits.

        A quarter of the context is reserved for the reply, or its maximal length if that is less.
        """
        prompt, context = request.prompt, self.context
        for dropped in range(len(prompt.examples or prompt.turns) + 1):
            text = prompt.text(dropped)
            if self.is_chat:
                turns: Any = prompt.messages(dropped)
                text = str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
                text += prompt.prefix
            length = len(self.tokenizer(text, add_special_tokens=not self.is_chat)["input_ids"])
            fits = context is None or length <= context - min(prompt.max_new_tokens, context // 4)
            if fits:
                break
        return text, dropped, fits


class _StopStrings(StoppingCriteria):
    """Ends a sequence when its reply contains one of the strings."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], start: int) -> None:
        self.tokenizer, self.stop, self.start = tokenizer, stop, start

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **_: Any) -> torch.Tensor:
        tails = self.tokenizer.batch_decode(input_ids[:, max(self.start, input_ids.shape[1] - STOP_WINDOW) :])
        return torch.tensor([any(stop in tail for stop in self.stop) for tail in tails], device=input_ids.device)
