"""Instruction tuning by TRL equals a hand-written loop, with any method, padded, accumulated and packed."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import commands
from helpers.commands import check, compose_config
from helpers.conversations import conversation_examples
from helpers.interruption import BreakOff
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from peftkit import training
from peftkit.cli.files import options_of
from peftkit.config import RunConfig, TaskConfig
from peftkit.config.source import Source
from peftkit.data.datasets import load_task_dataset
from peftkit.data.formats.instructions import InstructionFormat
from peftkit.data.samplers import LengthGroupedSampler
from peftkit.methods import apply_method
from peftkit.models.tokenizer import load_tokenizer
from peftkit.pipeline.build import instantiate_method
from peftkit.training.outputs import OutputReader

Overrides = Callable[..., list[str]]
FAST = ("full", "lora", "prompt", "prefix")
METHODS = sorted(
    options_of("method").keys()
    - {"peft", "qlora", "linear_probe", "linear_probe_mix", "untuned", "boft", "oft", "zero_shot", "few_shot"}
    - {"steering", "bag_of_words", "mean_embedding", "features"}
)
PEFT_PROMPT = {"_target_": "peft.PromptTuningConfig", "num_virtual_tokens": 4}
PEFT_PREFIX = {"_target_": "peft.PrefixTuningConfig", "num_virtual_tokens": 4}
LM_HEAD = {"_target_": "peft.LoraConfig", "target_modules": ["c_attn", "lm_head"], "init_lora_weights": False}
SAVED_HEAD = {"_target_": "peft.LoraConfig", "target_modules": ["c_attn"], "modules_to_save": ["lm_head"]}
CELLS = [pytest.param(m, marks=() if m in FAST else pytest.mark.slow) for m in METHODS]
CELLS += [
    pytest.param(PEFT_PROMPT, id="peft_prompt"),
    pytest.param(PEFT_PREFIX, id="peft_prefix", marks=pytest.mark.slow),
    pytest.param(LM_HEAD, id="lm_head"),
    pytest.param(SAVED_HEAD, id="saved_head", marks=pytest.mark.slow),
]
QUESTIONS = ["Name the actor.", "Who sang?", "Say where the film was shown, and who wrote it.", "Sing."]


def rows_of(count: int) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"{QUESTIONS[number % 4]} {number}"},
                {"role": "assistant", "content": "the actor " * (number % 3 + 1)},
            ]
        }
        for number in range(count)
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "chat.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows_of(40)))
    return file


class Setting:
    """A tiny GPT-2 with a method, without dropout, and six examples that differ in length."""

    def __init__(self, checkpoint: Path, method: Any, packing: bool = False) -> None:
        if isinstance(method, str):
            chosen = OmegaConf.to_container(compose_config([f"method={method}"]).method.config)
            if method == "adalora":
                chosen |= {"total_step": 10, "tinit": 1, "tfinal": 2}  # type: ignore[operator]
        else:
            chosen = method
        torch.manual_seed(0)
        self.tokenizer = load_tokenizer(Source("folder", str(checkpoint), folder=str(checkpoint)))
        config = instantiate_method(chosen)  # type: ignore[arg-type]
        self.model: Any = apply_method(AutoModelForCausalLM.from_pretrained(checkpoint), config, "instructions")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # the Trainer's
        self.model.to(self.device)
        for module in self.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        self.schedule = config.unfreezing(self.model) if hasattr(config, "unfreezing") else None
        with torch.no_grad():
            for weight in self.model.parameters():
                if weight.requires_grad:  # a fresh LoRA's B, an adapter's way up
                    weight += 0.02 * torch.randn_like(weight)
        task = RunConfig.from_config(
            OmegaConf.to_container(compose_config(["task=instructions", "task.dataset=x"]))
        ).task  # type: ignore[arg-type]
        self.task = TaskConfig(**{**vars(task), "max_length": 100, "max_target_length": 12, "packing": packing})
        from datasets import Dataset

        table = Dataset.from_list([{"idx": number, **row} for number, row in enumerate(rows_of(6))])
        self.rows, _ = conversation_examples(self.task, table)
        self.format = InstructionFormat(self.task, self.tokenizer, "decoder")

    def trained(self, folder: Path, **settings: Any) -> tuple[Any, dict[str, torch.Tensor]]:
        """Train with TRL, and return the trainer and the gradients of the first step, by way of plain SGD."""
        encoded = self.format.encode_training(self.rows, 0)
        known = {
            "learning_rate": 1.0, "max_grad_norm": 0.0, "optim": "sgd", "lr_scheduler_type": "constant", "bf16": False,
            "weight_decay": 0.0, "num_train_epochs": 1, "per_device_train_batch_size": 6, "logging_steps": 1,
            "train_sampling_strategy": "sequential", "disable_tqdm": True, "report_to": "none", **settings,
        }  # fmt: skip
        before = {name: weight.detach().clone() for name, weight in self.model.named_parameters()}
        trainer = training.sft_trainer(
            self.tokenizer, model=self.model, args=training.training_arguments(known, 0),
            data_collator=self.format.collator(), reader=OutputReader("likelihoods"), train_dataset=encoded.inputs,
        )  # fmt: skip
        training.fit(trainer, folder / "none")
        after = dict(self.model.named_parameters())
        moved = {name: before[name] - after[name].detach() for name in before if after[name].requires_grad}
        with torch.no_grad():
            for name, weight in after.items():
                weight.copy_(before[name])
        return trainer, moved

    def by_hand(self) -> tuple[float, dict[str, torch.Tensor]]:
        """Return the mean cross-entropy of all answers' tokens, each row alone and unpadded, and its gradients."""
        total, count = torch.zeros((), device=self.device), 0
        self.model.zero_grad()
        self.model.train()
        for row in self.format.encode(self.rows).inputs:
            ids, labels = (torch.tensor(each, device=self.device) for each in ([row["input_ids"]], row["labels"]))
            logits = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -len(labels) :]
            total = total + cross_entropy(logits[:-1], labels[1:], reduction="sum")
            count += int((labels[1:] >= 0).sum())
        (total / count).backward()
        return float(total.detach() / count), {
            name: torch.zeros_like(weight) if weight.grad is None else weight.grad
            for name, weight in self.model.named_parameters()
            if weight.requires_grad
        }


def agree(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert got.keys() == expected.keys() and any(gradient.abs().max() > 1e-6 for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-3, atol=2e-5, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("method", CELLS)
def test_loss_and_step_are_a_hand_written_loops(checkpoints: dict[str, Path], tmp_path: Path, method: Any) -> None:
    setting = Setting(checkpoints["gpt2"], method)
    loss, gradients = setting.by_hand()
    trainer, moved = setting.trained(tmp_path)
    is_ada = method == "adalora"
    is_plain = is_ada or method is LM_HEAD or method is SAVED_HEAD
    assert (type(trainer).__name__ == "ScoringTrainer") == is_plain
    # what is added to each batch's loss must be divided by how many batches add up
    assert trainer.model_accepts_loss_kwargs != is_ada
    if not is_ada:  # whose loss has a term that keeps its directions apart
        assert trainer.state.log_history[0]["loss"] == pytest.approx(loss, rel=1e-4)
        agree(moved, gradients)


@pytest.mark.parametrize(("batch", "method"), [(1, "full"), (2, "lora"), (2, LM_HEAD)])
def test_batches_that_add_up_are_one_batch(
    checkpoints: dict[str, Path], tmp_path: Path, batch: int, method: Any
) -> None:
    setting = Setting(checkpoints["gpt2"], method)
    loss, gradients = setting.by_hand()
    more = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 6 // batch}
    trainer, moved = setting.trained(tmp_path, **more)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss, rel=1e-4)
    agree(moved, gradients)


@pytest.mark.parametrize(
    "method", ["lora", *(pytest.param(name, marks=pytest.mark.slow) for name in ("full", "adapter"))]
)
def test_packed_examples_cost_what_they_cost_apart(checkpoints: dict[str, Path], tmp_path: Path, method: str) -> None:
    setting = Setting(checkpoints["gpt2"], method, packing=True)
    loss, gradients = setting.by_hand()
    trainer, moved = setting.trained(tmp_path)
    assert len(trainer.train_dataset) < 6
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss, abs=1e-5)
    agree(moved, gradients)


def result_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


SMALL = ["task.max_length=48", "task.max_target_length=8", "train.bf16=false"]


@pytest.mark.parametrize("model", ["gpt2", pytest.param("t5", marks=pytest.mark.slow)])
def test_a_run_is_scored_reloaded_and_predicts(
    tiny: Overrides, data: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder,) = commands.finetune(*tiny(model, "task=instructions", f"task.dataset={data}", *SMALL))
    result = result_of(folder)
    assert list(result["scores"]) == ["rouge_l", "exact_match", "format_rate", "perplexity"]
    assert result["scores"]["format_rate"]["higher_is_better"] and result["audit"]["rows"] == {
        "train": 24, "validation": 4,
    }  # fmt: skip
    rows = pq.read_table(folder / "predictions.parquet").to_pylist()
    assert [len(row["scores"]) for row in rows] == [3] * 4
    rate = np.mean([row["scores"][2] for row in rows])
    assert result["scores"]["format_rate"]["value"] == pytest.approx(rate)
    assert (AutoTokenizer.from_pretrained(folder / "adapter").chat_template is not None) == (model == "gpt2")
    capsys.readouterr()
    commands.predict(folder, "Name three rivers.")
    assert isinstance(json.loads(capsys.readouterr().out)["prediction"], str)
    commands.evaluate(folder)
    again = json.loads((folder / "evaluation-instructions.json").read_text())
    assert again["scores"]["perplexity"]["value"] == pytest.approx(result["scores"]["perplexity"]["value"], rel=1e-4)


def test_the_paper_s_seed_tasks_and_what_generate_left_are_data(tmp_path: Path) -> None:
    from peftkit.generation.instruction_tasks import SEEDS, read_tasks, write_dataset

    task = RunConfig.from_config(OmegaConf.to_container(compose_config(["task=instructions", "task.dataset=x"]))).task  # type: ignore[arg-type]
    tasks = read_tasks(SEEDS)
    write_dataset(tmp_path, tasks)
    (tmp_path / "rejected.jsonl").write_text('{"reason": "short"}\n')
    seeds = load_task_dataset(TaskConfig(**{**vars(task), "dataset": str(SEEDS)}), None, "offline")
    made = load_task_dataset(TaskConfig(**{**vars(task), "dataset": str(tmp_path)}), None, "offline")
    assert made.source.name == str(tmp_path / "chat")
    for rows in (seeds, made):
        train_rows, held = rows.splits["train"], rows.splits["validation"]
        assert not set(train_rows["group"]) & set(held["group"])
        assert len(train_rows) + len(held) + sum(rows.dropped.values()) == sum(len(t.instances) for t in tasks)
    assert sorted(seeds.splits["validation"]["label"]) == sorted(made.splits["validation"]["label"])


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["task.text=[instruction,input]"], "set task.label=output"),
        (["task.label=output"], "drop task.label"),
        (["task.template='{messages}'"], "task.template is not for task.kind=instructions"),
        (["model=t5", "task.packing=true"], "use task.packing=false"),
        (["method=prompt", "task.packing=true"], "use task.packing=false"),
        (["model=bert"], "use model=gpt2"),
        (["method=linear_probe"], "use method=bitfit"),
        (["task.metrics=[accuracy]"], "unknown metric of task.kind=instructions"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: list[str], sentence: str) -> None:
    known = ["task=instructions", "task.dataset=README.md", *overrides]
    assert any(sentence in complaint for complaint in check(known)), check(known)


@pytest.mark.slow
def test_a_base_in_four_bits_trains_an_adapter_in_full_precision(tiny: Overrides, data: Path) -> None:
    overrides = [f"task.dataset={data}", "method=qlora", "task.packing=true", *SMALL]
    (folder,) = commands.finetune(*tiny("gpt2", "task=instructions", *overrides))
    result = result_of(folder)
    assert result["meta"]["status"] == "finished" and result["merge"]["rows"] == 4
    weights = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    # a bf16 weight has 16 bits that are 0
    assert any((weight.view(torch.int32) & 0xFFFF).any() for name, weight in weights.items() if "lora_A" in name)
    commands.merge(folder)
    merged = AutoTokenizer.from_pretrained(folder / "merged")
    chat = merged.apply_chat_template([{"role": "user", "content": "Sing."}], return_dict=True)
    model = AutoModelForCausalLM.from_pretrained(folder / "merged")
    assert model(torch.tensor([chat["input_ids"]])).logits.shape[1] == len(chat["input_ids"])


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    ends, logs = [], []
    for stops in ([None], [3, None]):
        folder = tmp_path / str(len(stops))
        for stop in stops:
            setting = Setting(checkpoints["gpt2"], "lora")
            encoded = setting.format.encode(setting.rows)
            settings = {
                "learning_rate": 0.01, "num_train_epochs": 4, "per_device_train_batch_size": 3, "bf16": False,
                "save_strategy": "steps", "save_steps": 1, "disable_tqdm": True, "report_to": "none", "logging_steps": 2,
            }  # fmt: skip
            trainer = training.sft_trainer(
                setting.tokenizer, model=setting.model, args=training.training_arguments(settings, 0, folder),
                data_collator=setting.format.collator(), reader=OutputReader("likelihoods"),
                train_dataset=encoded.inputs, train_sampler=LengthGroupedSampler(encoded.lengths, 3, 0),
            )  # fmt: skip
            if stop is not None:
                trainer.add_callback(BreakOff(stop))
            with nullcontext() if stop is None else pytest.raises(KeyboardInterrupt):
                training.fit(trainer, folder)
        logs.append([entry["mean_token_accuracy"] for entry in trainer.state.log_history[:-1]])
        ends.append({name: w.detach() for name, w in setting.model.named_parameters() if w.requires_grad})
    for name, weight in ends[0].items():
        torch.testing.assert_close(ends[1][name], weight, rtol=0, atol=0)
    assert logs[0] == logs[1] and len(logs[0]) > 2  # also of the entry whose steps the stop divides


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gpt2", "t5"])
def test_columns_early_stopping_search_and_several_turns_run(tiny: Overrides, tmp_path: Path, model: str) -> None:
    columns = tmp_path / "columns.jsonl"
    rows = [{"instruction": f"{QUESTIONS[n % 4]} {n}", "input": "x" * (n % 2), "output": str(n)} for n in range(40)]
    columns.write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = tiny(model, "task=instructions", f"task.dataset={columns}", *SMALL)
    overrides += ["task.text=[instruction,input]", "task.label=output", "early_stopping.patience=1"]
    overrides += ["search.lr_multipliers=[1,3]", "search.samples=6", "train.num_train_epochs=2"]
    (folder,) = commands.finetune(*overrides)
    result = result_of(folder)
    assert result["audit"]["label_counts"]["validation"]["forms"] == {"number": 4}
    assert len(result["search"]["trials"]) == 2
    commands.predict(folder, columns)
    answers = [json.loads(line) for line in (tmp_path / "columns.predictions.jsonl").read_text().splitlines()]
    assert len(answers) == 40 and all(isinstance(row["prediction"], str) for row in answers)
    commands.plan(*overrides)
