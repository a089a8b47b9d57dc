"""format=gguf: one file for llama.cpp, with the tokenizer and the chat template, of GPT-2 and Llama decoders."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GgufConfig, PretrainedConfig

from peftkit.config import UserError
from peftkit.methods import merge_adapter
from peftkit.pipeline.comparison import TOLERANCE
from peftkit.pipeline.exports.base import AGREEMENT, Exported, ExportSource, reading, write_export_card
from peftkit.pipeline.exports.transformers import check_tokenizer
from peftkit.results.loading_code import Artifact

FILE = "model.gguf"
# f16 and q8_0 round the weights; the scores are log-likelihoods of texts, relative to their magnitude
TOLERANCES = {"f32": TOLERANCE["fp32"], "f16": 1e-2, "q8_0": 1e-1}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # types of tokens
OTHERS = "use format=transformers, from which llama.cpp's convert_hf_to_gguf.py converts more models"
# what a file of these architectures cannot store, or transformers does not read from it
DEFAULTS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "activation_function": "gelu_new", "n_inner": None, "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
    },
    "llama": {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
}  # fmt: skip
# the ways in which byte-level BPE splits texts before merging, by llama.cpp's names
SPLITS = {"ByteLevel": "gpt-2", "Digits ByteLevel": "smollm"}


def write_gguf(source: ExportSource, folder: Path) -> Exported:
    """Merge the adapter of a run into its base, and write a GGUF file with weights of `export.gguf_type`.

    Raises:
        UserError: the method's weights cannot be merged, or GGUF has no such model or tokenizer.
        ExportError: the tokenizer, read from the file, gives other tokens.
    """
    from gguf import GGUFWriter

    tokenizer = source.bundle.tokenizer
    _check_model(source.bundle.model.config)
    split = _split_name(tokenizer)
    model = merge_adapter(source.bundle.model)
    number_type = str(source.settings.gguf_type or "f16")
    out = GGUFWriter(folder / FILE, model.config.model_type)
    out.add_name(f"{source.config.method.name} of {source.config.model.name} on {source.config.task.name}")
    _add_settings(out, model.config)
    _add_tokenizer(out, tokenizer, split, model.get_input_embeddings().num_embeddings)
    _add_weights(out, model, number_type)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    check_tokenizer(source, folder, gguf_file=FILE)
    # transformers reads GPT-2's context length, and none for its positions
    arguments = {"n_positions": model.config.n_positions} if model.config.model_type == "gpt2" else {}
    settings = {"quantization_config": GgufConfig(dequantize=True), "dtype": torch.float32, **arguments}
    with reading():
        read = AutoModelForCausalLM.from_pretrained(str(folder), gguf_file=FILE, **settings)
    tokens = {"gguf_file": FILE}
    if tokenizer.model_max_length < source.config.task.max_length:
        tokens["model_max_length"] = tokenizer.model_max_length
    artifact = Artifact("gguf", ".", arguments={"gguf_file": FILE, **arguments}, tokenizer_arguments=tokens)
    write_export_card(source, folder, artifact, f"Its matrices are stored in {number_type}. {AGREEMENT}")
    details = {"file": FILE, "gguf_type": number_type, "architecture": model.config.model_type, "arguments": arguments}
    return Exported(read.eval(), details, tolerance=TOLERANCES[number_type])


def _check_model(config: PretrainedConfig) -> None:
    """Raise an error for a model that a GGUF file cannot store.

    Raises:
        UserError: it is no GPT-2 or Llama, or not with the usual settings.
    """
    if config.model_type not in DEFAULTS:
        raise UserError(f"format=gguf writes {' and '.join(DEFAULTS)} models, not {config.model_type}; {OTHERS}")
    for name, expected in DEFAULTS[config.model_type].items():
        if (found := getattr(config, name, expected)) != expected:
            raise UserError(f"GGUF cannot store {name}={found} of the model; {OTHERS}")
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope != "default":
        raise UserError(f"transformers cannot read rope_type={rope} of the model from a GGUF file; {OTHERS}")


def _split_name(tokenizer: Any) -> str:
    """Return llama.cpp's name of how a tokenizer splits texts.

    Raises:
        UserError: it is no byte-level BPE that splits texts as GPT-2 or SmolLM do.
    """
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    before = parts["pre_tokenizer"] or {}
    splits = before.get("pretokenizers", [before])
    name = " ".join(str(each.get("type")) for each in splits)
    is_plain = parts["model"]["type"] == "BPE" and parts["normalizer"] is None and name in SPLITS
    if not is_plain or splits[-1].get("add_prefix_space") or not splits[-1].get("use_regex", True):
        raise UserError(f"format=gguf writes byte-level BPE tokenizers that split as GPT-2's or SmolLM's; {OTHERS}")
    return SPLITS[name]


def _add_settings(out: Any, config: Any) -> None:
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_head_count(config.num_attention_heads)
    if config.model_type == "gpt2":
        out.add_feed_forward_length(4 * config.hidden_size)
        out.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_rope_dimension_count(config.head_dim)
    out.add_rope_freq_base(config.rope_parameters["rope_theta"])
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_vocab_size(config.vocab_size)


def _add_tokenizer(out: Any, tokenizer: Any, split: str, rows: int) -> None:
    """Add a byte-level BPE tokenizer, with unused tokens for the embedding rows that it has none for."""
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    names = {number: token for token, number in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    types = {number: CONTROL if token.special else USER_DEFINED for number, token in added.items()}
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre(split)
    out.add_token_list([names.get(number, f"[PAD{number}]") for number in range(rows)])
    out.add_token_types([types.get(number, NORMAL if number in names else UNUSED) for number in range(rows)])
    out.add_token_merges([each if isinstance(each, str) else " ".join(each) for each in bpe["merges"]])
    for add, number in (
        (out.add_bos_token_id, tokenizer.bos_token_id),
        (out.add_eos_token_id, tokenizer.eos_token_id),
        (out.add_unk_token_id, tokenizer.unk_token_id),
        (out.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if number is not None:
            add(number)
    has_bos = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    out.add_add_bos_token(has_bos)
    if tokenizer.chat_template is not None:
        out.add_chat_template(tokenizer.chat_template)


def _add_weights(out: Any, model: Any, number_type: str) -> None:
    """Add the weights by llama.cpp's names, in its layout; vectors and positions are not rounded."""
    from gguf import GGML_QUANT_VERSION, MODEL_ARCH, GGMLQuantizationType, LlamaFileType, get_tensor_name_map, quants

    file_types = {
        "f32": LlamaFileType.ALL_F32, "f16": LlamaFileType.MOSTLY_F16, "q8_0": LlamaFileType.MOSTLY_Q8_0,
    }  # fmt: skip
    out.add_file_type(file_types[number_type])
    out.add_quantization_version(GGML_QUANT_VERSION)
    names = get_tensor_name_map(MODEL_ARCH[model.config.model_type.upper()], model.config.num_hidden_layers)
    output, inputs = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    for name, weight in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        if module == "lm_head" and output is inputs:
            continue
        ours = f"{names.get_name(module)}.{kind}"
        values = _in_layout(weight, ours, model.config).float().contiguous().cpu().numpy()
        chosen = GGMLQuantizationType.F32
        if values.ndim == 2 and not ours.startswith("position_embd"):
            is_whole = values.shape[-1] % 32 == 0  # q8_0 has blocks of 32
            chosen = GGMLQuantizationType[(number_type if is_whole or number_type != "q8_0" else "f16").upper()]
        out.add_tensor(ours, quants.quantize(values, chosen), raw_dtype=chosen)


def _in_layout(weight: torch.Tensor, name: str, config: Any) -> torch.Tensor:
    """Return a weight in llama.cpp's layout: GPT-2's as of linear layers, the rotary dimensions of Llama's in pairs."""
    if config.model_type == "gpt2":
        is_linear = name.startswith("blk.") and weight.dim() == 2
        return weight.T if is_linear else weight
    if ".attn_q." in name or ".attn_k." in name:
        heads = config.num_attention_heads if ".attn_q." in name else config.num_key_value_heads
        return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
    return weight
