"""Loading a tokenizer that fits its model: its tokens have embedding rows, and its limit is that of the positions."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from peftkit.config import UserError, error_summary, refusal
from peftkit.config.families import base_type
from peftkit.config.kinds import ENCODER
from peftkit.config.source import Source
from peftkit.models.checkpoints import checkpoint_path, hub_arguments, load_pretrained_config
from peftkit.models.heads import config_arguments
from peftkit.models.load import architecture_of

PADDING = ("pad_token", "eos_token", "sep_token", "bos_token", "cls_token", "unk_token")  # padding is masked


def load_tokenizer(source: Source, base: Source | None = None, virtual_tokens: int = 0) -> PreTrainedTokenizerBase:
    """Load a tokenizer; `model_max_length` becomes the number of tokens that its model reads.

    One without a pad token (GPT-2), or whose pad token has no embedding row, pads with another special token. An
    end-of-text token that only the model's config names is set. `adjustments` are sentences about what is unusual.

    Args:
        base: the checkpoint that reads the tokens, where the tokenizer is not its own.
        virtual_tokens: of a soft prompt that takes positions of the model.

    Raises:
        UserError: there is no tokenizer, or tokens other than the pad token have no embedding row.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint_path(source), **hub_arguments(source))
    except Exception as error:  # any error of any tokenizer library
        raise UserError(
            f"{source.name} has no tokenizer that can be read ({error_summary(error)}); {_hint(source)}"
        ) from error
    known = tokenizer.get_vocab()
    if len(known.keys() - {token.content for token in tokenizer.added_tokens_decoder.values()}) < 2:
        # transformers builds a tokenizer of special tokens only where the files are missing
        raise UserError(f"{source.name} has no tokenizer: no file of it contains a vocabulary; {_hint(source)}")
    config = read_config(base or source)
    rows = None if config is None or base is not None else getattr(config.get_text_config(), "vocab_size", None)
    tokenizer.adjustments = _set_special_tokens(tokenizer, source, config, rows)
    tokenizer.padding_side = "right"
    positions = None if config is None else usable_positions(config)
    if positions is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions - virtual_tokens)
    if tokenizer.model_max_length < 1:
        wrong = f"{virtual_tokens} virtual tokens leave no position for a text, {source.name} has {positions}"
        raise UserError(refusal(wrong, f"method.config.num_virtual_tokens={max(1, (positions or 2) // 4)}", verb="set"))
    return tokenizer  # type: ignore[no-any-return]


def read_config(source: Source) -> PretrainedConfig | None:
    """Return the config of a checkpoint, None for a folder with only a tokenizer."""
    if source.folder is not None and not Path(source.folder, "config.json").is_file():
        return None
    return load_pretrained_config(source)


def decoder_positions(source: Source) -> int | None:
    """Return the number of tokens that a decoder can generate after an encoder, None with relative positions."""
    config = read_config(source)
    names = ("max_decoder_position_embeddings", "max_position_embeddings")
    return next((size for name in names if (size := getattr(config, name, None))), None)


def usable_positions(config: PretrainedConfig) -> int | None:
    """Return the number of tokens that a model's positions allow, None with relative positions of any distance.

    RoBERTa and its relatives count positions from their pad token's id on: of 514 they use 512.
    """
    names = ("max_position_embeddings", "max_encoder_position_embeddings")
    positions = next((size for name in names if (size := getattr(config, name, None))), None)
    if positions is None or architecture_of(config) != ENCODER:
        return positions
    if (plain := base_type(config.model_type)) != config.model_type:
        config = AutoConfig.for_model(plain, **config_arguments(config))
    try:
        with torch.device("meta"):
            model = AutoModel.from_config(config, trust_remote_code=False)
    except (TypeError, ValueError, RuntimeError, NotImplementedError):  # it computes with values in its constructor
        return positions
    reserved = (
        module.padding_idx + 1
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None
    )
    return int(positions - max(reserved, default=0))


def _set_special_tokens(tokenizer: Any, source: Source, config: PretrainedConfig | None, rows: int | None) -> list[str]:
    """Set the pad and the end-of-text token where they are missing or have no row; return what was assumed."""
    assumed = []
    is_generative = config is not None and architecture_of(config) != ENCODER
    special = {number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    end = getattr(config, "eos_token_id", None)
    end = end[0] if isinstance(end, list) else end
    others = {getattr(tokenizer, name) for name in ("pad_token", "unk_token", "cls_token", "mask_token")}
    # the default id of a config class may be that of any token
    if tokenizer.eos_token is None and special.get(end) not in {None, *others} and is_generative:
        tokenizer.eos_token = special[end]
        assumed.append(f"the tokenizer names no end-of-text token; {special[end]} of the model's config is used")
    without_row = sorted(
        (number, token) for token, number in tokenizer.get_vocab().items() if rows is not None and number >= rows
    )
    unusable = [token for _, token in without_row if token != tokenizer.pad_token]
    if unusable:
        raise UserError(
            f"{unusable[0]} and {len(unusable) - 1} more tokens of the tokenizer of {source.name} have no row in the "
            f"model's {rows} embeddings; call model.resize_token_embeddings(len(tokenizer)) and save the model"
        )
    names = [name for name in PADDING if getattr(tokenizer, name) is not None]
    if without_row:
        names = [name for name in names if getattr(tokenizer, name) != tokenizer.pad_token]
    if not names:
        raise UserError(
            f"the tokenizer of {source.name} has no special token to pad with; set pad_token in its "
            "tokenizer_config.json to one of its tokens"
        )
    token = getattr(tokenizer, names[0])
    if without_row:
        assumed.append(
            f"{tokenizer.pad_token} has no row in the model's {rows} embeddings; {token} is used for padding"
        )
    tokenizer.pad_token = token
    return assumed


def _hint(source: Source) -> str:
    is_folder = source.folder is not None
    return (
        f"save one into it: AutoTokenizer.from_pretrained(ORIGINAL).save_pretrained({source.folder!r})"
        if is_folder
        else "set model.checkpoint to one that has"
    )
