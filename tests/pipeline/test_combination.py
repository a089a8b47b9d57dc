"""Signed sums of the changes of runs, and what PEFT makes of LoRA adapters, compared with sums by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import commands
from helpers.merge_models import randomize
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from peftkit.config import UserError
from peftkit.config.sections import Combine
from peftkit.methods import merge_adapter
from peftkit.models.heads import head_weights
from peftkit.pipeline.artifacts import base_source, load_base, load_bundle
from peftkit.pipeline.combination import Combination, ForeignAdapter, WeightedRun, targets_of
from peftkit.results.run_result import RunResult

Train = Callable[..., RunResult]
RATES = {"lora": "0.05", "ia3": "0.3", "full": "0.003", "rslora": "0.05"}
TOKENS = torch.tensor([[5, 6, 7, 8, 9], [9, 10, 11, 12, 3]])
FAST = {("bert", "lora")}


@pytest.fixture(scope="module")
def trained(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Return a function that trains a tiny run, each once."""
    out, known = tmp_path_factory.mktemp("runs"), {}

    def train(model: str, method: str, task: str, *more: str) -> RunResult:
        key = (model, method, task, *more)
        if key not in known:
            (folder,) = commands.finetune(
                f"model={model}", f"model.checkpoint={checkpoints[model]}", f"method={method}", f"task={task}",
                "source=offline", f"out={out}", "task.max_train_samples=16", "task.max_eval_samples=8",
                "train.num_train_epochs=1", "train.per_device_train_batch_size=8", "train.disable_tqdm=true",
                f"train.learning_rate={RATES[method]}", *more,
            )  # fmt: skip
            known[key] = RunResult(folder)
        return known[key]

    return train


def combined(runs: list[Any], weights: list[float], **settings: Any) -> tuple[list[Any], list[dict[str, Any]]]:
    """Return the model of each target, and what is recorded about it."""
    chosen = Combine(**{**dict.fromkeys(Combine.__dataclass_fields__), **settings})
    pairs = [WeightedRun(run, weight) for run, weight in zip(runs, weights, strict=True)]
    combination = Combination(pairs, chosen)
    found = [combination.bundle(target) for target in targets_of(pairs)]
    return [bundle.model for bundle, _ in found], [record for _, record in found]


def outputs(model: Any) -> dict[str, torch.Tensor]:
    """Return the logits and the last hidden states of a model for fixed tokens."""
    config = model.config
    more = {"decoder_input_ids": TOKENS} if config.is_encoder_decoder else {}
    with torch.no_grad():
        found = model.eval()(
            input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS), output_hidden_states=True, **more
        )
    states = found.decoder_hidden_states if more else found.hidden_states
    return {"logits": found.logits, "states": states[-1]}


def difference(first: Any, second: Any, name: str) -> float:
    return float((outputs(first)[name] - outputs(second)[name]).abs().max())


def base_of(run: RunResult) -> Any:
    return load_base(run, load_bundle(run).tokenizer)


@pytest.mark.parametrize(
    ("model", "method"),
    [
        pytest.param(model, method, marks=() if (model, method) in FAST else pytest.mark.slow)
        for model in ("bert", "gpt2", "t5")
        for method in ("lora", "ia3", "full")
    ],
)
def test_weights_select_halve_and_remove_a_run(trained: Train, model: str, method: str) -> None:
    first, second = (trained(model, method, task) for task in ("sst2", "mrpc"))
    tuned = load_bundle(first).model
    (selected, other), records = combined([first, second], [1, 0])
    assert difference(selected, tuned, "logits") < 1e-5
    assert difference(other, tuned, "states") < 1e-5  # the first run's body
    own = dict(merge_adapter(load_bundle(second).model).named_parameters())
    assert all(torch.equal(other.get_parameter(name), own[name]) for name in head_weights(base_of(second)))
    assert records[0]["distance_to_sum"] == 0
    (halves,), _ = combined([first, first], [0.5, 0.5])
    assert difference(halves, tuned, "logits") < 1e-5
    (removed,), (record,) = combined([first, first], [1, -1])
    assert difference(removed, base_of(first), "states") < 1e-5 and record["norm"] == 0
    assert difference(tuned, base_of(first), "states") > 1e-3


@pytest.mark.slow
def test_a_sum_over_methods_and_ranks_is_that_of_the_merged_weights_by_hand(trained: Train) -> None:
    runs = [
        trained("gpt2", "lora", "sst2", "method.config.r=2"),
        trained("gpt2", "lora", "mrpc", "method.config.r=5"),
        trained("gpt2", "ia3", "rte"),
        trained("gpt2", "full", "sst2"),
    ]
    factors = (1, -1, 0.5, 0.3)
    merged = [dict(merge_adapter(load_bundle(run).model).named_parameters()) for run in runs]
    before = dict(base_of(runs[0]).named_parameters())
    models, records = combined(runs, list(factors))
    for model, own in zip(models, merged, strict=True):
        for name, weight in model.named_parameters():
            if name.startswith("transformer."):
                changes = [factor * (each[name] - before[name]) for factor, each in zip(factors, merged, strict=True)]
                torch.testing.assert_close(weight, before[name] + sum(changes), rtol=1e-5, atol=1e-6)
            else:
                assert torch.equal(weight, own[name])
    squares = [
        float((each - before[name]).detach().square().sum()) for name, each in merged[3].items() if name in before
    ]
    body = [name.startswith("transformer.") for name in merged[3] if name in before]
    norm = sum(square for square, is_body in zip(squares, body, strict=True) if is_body) ** 0.5
    assert records[0]["norms"][3] == pytest.approx(norm, rel=1e-4)


@pytest.mark.slow
def test_heads_of_one_task_are_averaged_where_their_weights_add_up_to_one(trained: Train) -> None:
    runs = [trained("bert", "full", "sst2", f"seed={seed}") for seed in (0, 1)]
    (mean,), _ = combined(runs, [0.75, 0.25])
    heads = [load_file(run.folder / "model" / "model.safetensors")["classifier.weight"] for run in runs]
    torch.testing.assert_close(mean.get_parameter("classifier.weight"), 0.75 * heads[0] + 0.25 * heads[1])
    models, _ = combined(runs, [1, 1])
    for model, head in zip(models, heads, strict=True):
        assert torch.equal(model.get_parameter("classifier.weight"), head)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bert", "gpt2", "t5"])
def test_cat_and_svd_of_full_rank_are_the_exact_sum_also_with_negative_weights(trained: Train, model: str) -> None:
    runs = [trained(model, "lora", "sst2", "method.config.r=2"), trained(model, "rslora", "mrpc", "method.config.r=3")]
    exact, _ = combined(runs, [1, -0.5])
    for settings in ({"method": "cat"}, {"method": "svd", "svd_rank": 5}):
        found, records = combined(runs, [1, -0.5], **settings)
        for each, expected, record in zip(found, exact, records, strict=True):
            assert difference(each, expected, "logits") < 1e-5, settings
            assert record["distance_to_sum"] < 1e-5
    _, (record, _) = combined(runs, [1, -0.5], method="svd")  # rank 3 of 5
    assert 0.01 < record["distance_to_sum"] < 1


@pytest.mark.slow
def test_linear_is_the_sum_of_one_adapter_only(trained: Train) -> None:
    runs = [trained("bert", "lora", task) for task in ("sst2", "mrpc")]
    exact, _ = combined(runs, [-1, 0])
    found, (record, _) = combined(runs, [-1, 0], method="linear")
    assert difference(found[0], exact[0], "logits") < 1e-5 and record["distance_to_sum"] < 1e-5
    _, (record, _) = combined(runs, [1, 1], method="linear")
    assert record["distance_to_sum"] > 0.05  # the products of one run's A and the other's B are in it, too
    with pytest.raises(UserError, match=r"the same r value.*combine\.method=exact"):
        combined([runs[0], trained("bert", "lora", "mrpc", "method.config.r=3")], [1, 1], method="linear")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("name", ["ties", "dare_linear", "dare_ties", "magnitude_prune"])
def test_pruned_combinations_are_repeatable_and_keep_all_at_density_one(trained: Train, name: str, method: str) -> None:
    runs = [trained("t5", method, task) for task in ("sst2", "mrpc")]
    first, (record, _) = combined(runs, [1, 1], method=name, density=0.5)
    again, _ = combined(runs, [1, 1], method=name, density=0.5)
    assert difference(first[0], again[0], "logits") == 0 and record["distance_to_sum"] > 0.05
    if method == "full" and not name.endswith("ties"):
        _, (record, _) = combined(runs, [1, -1], method=name, density=1)
        assert record["distance_to_sum"] < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bert", "gpt2", "t5"])
def test_a_lora_of_full_rank_has_the_whole_change_of_the_linear_layers(trained: Train, model: str) -> None:
    run = trained(model, "full", "sst2")
    (found,), (record,) = combined([run], [1], extract_rank=512)
    extraction, tuned = record["extraction"], load_bundle(run).model
    assert extraction["kept"] == pytest.approx(extraction["linear"])
    assert extraction["kept"] + sum(extraction["dropped"].values()) == pytest.approx(1)
    merged, names = merge_adapter(found), extraction["layers"]
    for name in names:
        torch.testing.assert_close(
            merged.get_parameter(f"{name}.weight"), tuned.get_parameter(f"{name}.weight"), rtol=1e-4, atol=1e-5
        )
    for name in head_weights(base_of(run)):
        assert torch.equal(merged.get_parameter(name), tuned.get_parameter(name))


@pytest.mark.slow
def test_the_rank_of_a_lora_is_found_again_and_a_lower_one_keeps_the_largest_singular_values(trained: Train) -> None:
    run = trained("gpt2", "lora", "sst2", "method.config.r=2")
    (found,), (record,) = combined([run], [1], extract_rank=2)
    assert record["extraction"]["kept"] == pytest.approx(1) and record["extraction"]["dropped"] == {}
    assert difference(found, load_bundle(run).model, "logits") < 1e-5
    _, (record,) = combined([run], [1], extract_rank=1)
    tuned, before = merge_adapter(load_bundle(run).model), base_of(run)
    for name, share in record["extraction"]["layers"].items():
        change = tuned.get_parameter(f"{name}.weight") - before.get_parameter(f"{name}.weight")
        values = torch.linalg.svdvals(change.detach().double())
        assert share == pytest.approx(float(values[0] ** 2 / (values**2).sum()), rel=1e-4)


@pytest.mark.slow
def test_an_adapter_of_plain_peft_combines(trained: Train, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    run = trained("bert", "full", "sst2")
    plain = AutoModelForSequenceClassification.from_pretrained(checkpoints["bert"], num_labels=3)
    foreign = get_peft_model(plain, LoraConfig(task_type="SEQ_CLS", r=3, target_modules=["query", "dense"]))
    randomize(foreign).save_pretrained(tmp_path)
    (found,), _ = combined([run, ForeignAdapter(tmp_path, tmp_path.name, run.config.model, base_source(run))], [1, -1])
    merged = dict(foreign.merge_and_unload().named_parameters())
    before, own = dict(base_of(run).named_parameters()), dict(load_bundle(run).model.named_parameters())
    for name, weight in found.named_parameters():
        is_head = name.startswith("classifier")
        expected = own[name] if is_head else before[name] + (own[name] - before[name]) - (merged[name] - before[name])
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6)
