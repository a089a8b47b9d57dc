"""job=bench: the order of measurements, their summary, and a bench that is stopped and continued."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from helpers.commands import choose

from peftkit.config.bench_variants import LADDER, VARIANTS
from peftkit.pipeline.bench.measure import training_command
from peftkit.pipeline.bench.page import render_benches
from peftkit.pipeline.bench.records import BenchResults, Comparison, Measurement, Probe, read_bench, write_bench
from peftkit.pipeline.bench.summary import score_difference, summarize

COMPARISON = Comparison(
    id="0", task="sst2", data="sst2", model="<bert>", method="lora", metric="accuracy", examples=100,
    validation_examples=10, epochs=2.0, batch_size=32, precision="bf16", device="cpu", git=None, versions={},
    date="2026-01-01",
)  # fmt: skip
PROBE = Probe(1, "eager", {"eager": 1.0, "sdpa": 2.0}, flops=4e9, peaks={"fp32": 1e9, "bf16": 2e9})
SECONDS = {"trainer": (4.0, 8.0, 5.0), "peftkit": (2.0, 2.5, 5.0), f"{LADDER[0].variant.name}": (4.0, 2.5, 10.0)}
SCORES = {"trainer": (0.50, 0.60, 0.70), "peftkit": (0.52, 0.61, 0.69)}
BENCH = BenchResults(
    COMPARISON,
    PROBE,
    "trainer",
    [
        Measurement(name, seed, 10 * each, 12.0, 3.0, each, SCORES.get(name, (0.5,) * 3)[seed])
        for name, values in SECONDS.items()
        for seed, each in enumerate(values)
    ],
)


def test_speed_is_the_median_and_ratios_are_paired_by_seed() -> None:
    trainer, peftkit, switched = summarize(BENCH)
    assert (trainer.throughput.median, trainer.throughput.low, trainer.throughput.high) == (40.0, 25.0, 50.0)
    assert trainer.speedup is not None and sorted([4 / 2, 8 / 2.5, 5 / 5])[1] == trainer.speedup.median == 2.0
    assert trainer.process_ratio is not None and trainer.process_ratio.median == 0.5
    assert trainer.peak_share == 4e9 / (5.0 * 2e9)
    assert peftkit.speedup is None and switched.speedup is not None and switched.speedup.median == 2.0


def test_the_interval_of_the_scores_is_that_of_a_paired_t_test() -> None:
    found = score_difference(BENCH)
    assert found is not None and found.low is not None
    values = np.array([0.02, 0.01, -0.01])
    half = 4.302653 * values.std(ddof=1) / math.sqrt(3)  # the 0.975 quantile of t with 2 degrees of freedom
    assert found.mean == pytest.approx(values.mean()) and found.low == pytest.approx(values.mean() - half)


def test_a_bench_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_bench(tmp_path) is None
    write_bench(tmp_path, BENCH, {})
    assert read_bench(tmp_path) == BENCH


def test_the_page_escapes_names_and_has_every_variant_and_means() -> None:
    text = render_benches([BENCH])
    assert "&lt;bert&gt;" in text and "<bert>" not in text
    assert all(name in text for name in ("trainer", "peftkit", LADDER[0].name))


def test_variants_alternate_with_seeds_of_their_own() -> None:
    from peftkit.pipeline.bench.measure import schedule

    config = choose(
        ["job=bench", "task=sst2", "bench.slow_seeds=1", "bench.seeds=2", "bench.ladder_seeds=3", "seed=5"]
    )[0]
    found = [(variant.name, seed) for variant, seed in schedule(config)]
    ladder = [means.variant.name for means in LADDER]
    names = {5: [*VARIANTS, *ladder], 6: ["trainer", "loop", "peftkit", *ladder], 7: ladder}
    assert found == [(name, seed) for seed in names for name in names[seed]]


def test_peftkit_trains_the_settings_of_the_recipe(tmp_path: Path) -> None:
    for bench in choose(["recipe=bench", "source=offline"]):
        (run,) = choose(training_command(bench, VARIANTS["peftkit"], seed=4, out=tmp_path))
        assert (run.job, run.seed, run.out) == ("finetune", 4, str(tmp_path))
        assert run.task.max_train_samples == 2000
        kept = ("model", "method", "task", "train", "source")
        assert [getattr(run, name) for name in kept] == [getattr(bench, name) for name in kept]


def test_only_the_loop_has_the_attention_that_was_measured() -> None:
    attention = {name: variant.spec("bf16", "eager").get("attention") for name, variant in VARIANTS.items()}
    assert {name for name, each in attention.items() if each is not None} == {"loop"}


@pytest.mark.slow
def test_the_loop_has_the_batches_of_peftkit() -> None:
    from peftkit.data.samplers import LengthGroupedSampler
    from peftkit.pipeline.bench.plain_script import batches

    lengths = np.random.default_rng(0).integers(3, 60, 1000)
    for epoch in (0, 1):
        found = np.concatenate([*batches(lengths, 8, 3, epoch)])
        assert found.tolist() == LengthGroupedSampler(lengths, 8, 3).order(epoch).tolist()


def test_the_plain_script_predicts_in_the_order_of_the_examples(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    import torch
    from datasets import Dataset, DatasetDict

    from peftkit.pipeline.bench.plain_script import load_model, load_tokenizer, train_by_trainer

    train = {
        "learning_rate": 1e-2,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
    }
    spec = {
        "checkpoint": str(checkpoints["bert"]), "revision": "main", "num_labels": 2, "attention": None, "seed": 0, "peft": None,
        "train": train, "folder": str(tmp_path), "precision": "fp32", "sampling": "group_by_length",
    }  # fmt: skip
    tokenizer = load_tokenizer(spec)
    model = load_model(spec, tokenizer)
    ids = [[2, *[5 + number] * length, 3] for number, length in enumerate([3, 9, 1, 7, 5, 2, 8, 4, 6])]
    examples = {"input_ids": ids, "attention_mask": [[1] * len(each) for each in ids], "label": [0, 1, 0] * 3}
    rows = DatasetDict(dict.fromkeys(("train", "validation"), Dataset.from_dict(examples)))
    _, logits = train_by_trainer(spec, model, tokenizer, rows)
    with torch.no_grad():
        expected = [model.eval()(torch.tensor([each])).logits[0].tolist() for each in ids]
    assert np.array(expected).std(axis=0).min() > 1e-4  # so that another order shows
    assert np.allclose(logits, expected, atol=1e-5)


@pytest.mark.slow
def test_the_flops_are_those_of_the_matrix_products(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Each product is needed once forward and twice backward: for the gradients of its two factors."""
    from datasets import Dataset

    from peftkit.pipeline.bench.plain_script import Loop, load_model, load_tokenizer
    from peftkit.pipeline.bench.probe import flops_of_example

    train = {"learning_rate": 1e-3, "num_train_epochs": 1, "per_device_train_batch_size": 2}
    spec = {
        "checkpoint": str(checkpoints["bert"]),
        "revision": "main",
        "num_labels": 2,
        "attention": "eager",
        "seed": 0,
    }
    spec |= {"peft": None, "train": train, "folder": str(tmp_path), "precision": "fp32", "sampling": "random"}
    tokenizer = load_tokenizer(spec)
    model = load_model(spec, tokenizer)
    ids = [[5] * 7, [5] * 4]
    rows = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(each) for each in ids], "label": [0, 1]})
    config = model.config
    size, length = config.hidden_size, 7
    linear = 4 * size * size + 2 * size * config.intermediate_size  # weights of a layer
    layer = 2 * linear * length + 2 * 2 * length * length * size
    head = 2 * (size * size + size * 2)  # pooler and classifier read one token
    loop = Loop(spec, model, tokenizer, rows)
    assert flops_of_example(loop, length) == 3 * (config.num_hidden_layers * layer + head)


@pytest.mark.slow
def test_a_bench_measures_only_what_is_missing(tiny: Callable[..., list[str]], tmp_path: Path) -> None:
    overrides = [
        *tiny("bert", "task=sst2"),
        "bench.variants=[trainer,loop,peftkit]",
        "bench.ladder_seeds=0",
    ]

    def run(*more: str) -> str:
        command = [sys.executable, "-m", "peftkit", "job=bench", *overrides, *more]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert "[3/3] peftkit, seed 0" in run("bench.seeds=1")
    file = next(tmp_path.rglob("bench.json"))
    values = json.loads(file.read_text())
    values["measurements"] = [each for each in values["measurements"] if each["variant"] != "loop"]
    file.write_text(json.dumps(values))
    assert "2 of 3 were measured before" in (log := run("bench.seeds=1")) and "[1/1] loop, seed 0" in log
    assert (file.parents[1] / "index.html").is_file() and not list(file.parent.glob("process-*"))


@pytest.mark.slow
def test_a_bench_that_is_stopped_ends_the_process_that_it_measures(
    tiny: Callable[..., list[str]], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "peftkit", "job=bench", *tiny("bert", "task=sst2"), "bench.variants=[trainer]"]
    bench = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not list(tmp_path.rglob("process-*/log.txt")):
        assert bench.poll() is None
        time.sleep(0.05)
    children = psutil.Process(bench.pid).children(recursive=True)
    bench.terminate()
    assert bench.wait(timeout=60) == 143
    _, alive = psutil.wait_procs(children, timeout=10)
    assert children and not alive and not list(tmp_path.rglob("process-*"))
