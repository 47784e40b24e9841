"""GLUE probes: their scores are logged, and the training is what it would be without them."""

from __future__ import annotations

import json
import os
import pydoc_data.topics
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, PreTrainedTokenizerBase, TrainerControl, TrainerState

from bert.model import build_model
from bert.probe import FOLDER, GlueProbe, ProbeOptions, check_probe, probe_environment
from bert.tokenizer import train_tokenizer
from glue_eval.__main__ import SUBCOMMANDS
from glue_eval.check_command import parse_check
from nlp_adan.errors import UserError
from nlp_adan.training.engine import Engine, EngineOptions
from nlp_adan.training.run_folder import RunFolder

NUM_STEPS = 4


class Clock:
    """Counts the pauses."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(pydoc_data.topics.topics.values(), vocab_size=400, model_max_length=64)


def make_trainer(folder: Path, tokenizer: PreTrainedTokenizerBase, **options: Any) -> Engine:
    """A BERT of two layers with dropout, which draws random numbers at every step, on eight fixed sequences."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = AutoConfig.for_model("bert", vocab_size=400, max_position_embeddings=64, pad_token_id=1, **sizes)
    ids = torch.randint(5, 400, (8, 16), generator=torch.Generator().manual_seed(0))
    return Engine(
        model_init=lambda: build_model(config),
        args=EngineOptions(
            output_dir=str(folder), max_steps=NUM_STEPS, learning_rate=1e-2, seed=3, per_device_train_batch_size=4,
            save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, **options,
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in ids],
        processing_class=tokenizer,
    )  # fmt: skip


def weights_and_random_state(trainer: Engine) -> tuple[list[torch.Tensor], torch.Tensor]:
    trainer.train()
    return [param.detach().clone() for param in trainer.model.parameters()], torch.get_rng_state()


@pytest.mark.slow
def test_a_run_with_a_probe_ends_with_the_weights_of_one_without(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))
    expected, expected_state = weights_and_random_state(make_trainer(tmp_path / "without", tokenizer))
    run, clock = RunFolder(tmp_path / "with"), Clock()
    trainer = make_trainer(run.path, tokenizer, logging_steps=1)
    options = ProbeOptions(glue_probe_every=3, glue_probe_tasks="CoLA", glue_probe_max_steps=2)
    trainer.add_callback(GlueProbe(options, run, trainer.save_model, trainer.log, [clock]))
    found, state = weights_and_random_state(trainer)

    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    assert torch.equal(state, expected_state)
    (line,) = run.read("eval.jsonl")
    assert line["step"] == 3 and line["sample_tasks"] is True and line["seconds"] > 1
    assert list(line["probe"]) == ["CoLA"] and set(line["probe"]["CoLA"]) == {"matthews"}
    logged = {name: value for entry in trainer.state.log_history for name, value in entry.items() if "probe" in name}
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [*range(1, NUM_STEPS + 1)]
    matthews = line["probe"]["CoLA"]["matthews"]
    assert logged["probe_sample_CoLA_matthews"] == matthews and -1 <= matthews <= 1
    assert clock.calls == ["pause", "resume"]
    assert not (run.path / FOLDER).exists()


@pytest.mark.parametrize("options", [{"glue_probe_every": -1}, {"glue_probe_max_steps": 0}])
def test_numbers_out_of_range(options: dict[str, int]) -> None:
    with pytest.raises(UserError, match=f"--{next(iter(options))}: .* out of range"):
        ProbeOptions(**options)  # type: ignore[arg-type]


def test_a_probe_knows_nothing_of_the_launcher() -> None:
    ranks = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a",
             "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "x", "GROUP_RANK": "0", "ROLE_RANK": "1", "CROSS_SIZE": "1",
             "ACCELERATE_USE_DEEPSPEED": "true", "OMPI_COMM_WORLD_SIZE": "2"}  # fmt: skip
    kept = {"DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "4,6", "NLP_ADAN_CACHE": "c"}
    environment = probe_environment({**ranks, **kept, "PYTHONPATH": "mine"})
    path = environment.pop("PYTHONPATH")
    assert environment == kept and path.endswith(f"{os.pathsep}mine")
    on_second_gpu = probe_environment({**ranks, **kept}, torch.device("cuda", 1))
    assert on_second_gpu["CUDA_VISIBLE_DEVICES"] == "6"
    assert probe_environment({}, torch.device("cuda", 1))["CUDA_VISIBLE_DEVICES"] == "1"
    assert probe_environment(kept, torch.device("cpu"))["CUDA_VISIBLE_DEVICES"] == "4,6"


def stand_in(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a shell script take the place of the interpreter that probes are started with."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(path))


def test_a_mistake_is_told_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = tmp_path / "words"
    stand_in(
        tmp_path,
        f'echo "$@" > {words}; echo a table; echo "error: no header"; echo "error: 1 error in 2 files" >&2; exit 2',
        monkeypatch,
    )
    options = ProbeOptions(glue_probe_every=10, glue_probe_tasks="CoLA,SST2", glue_probe_data="mine")
    with pytest.raises(UserError, match=r"^--glue_probe_tasks/--glue_probe_data: no header 1 error in 2 files$"):
        check_probe(options)
    module, subcommand, *rest = words.read_text().split()[1:]
    given = parse_check(rest)
    assert (module, subcommand) == ("glue_eval", "check-data") and subcommand in SUBCOMMANDS
    assert (given.tasks, given.data, given.allow_partial) == ("CoLA,SST2", "mine", True)
    stand_in(tmp_path, "echo ImportError: no torch >&2; exit 1", monkeypatch)
    with pytest.raises(UserError, match=r"^--glue_probe_every: probes cannot run here:\nImportError: no torch$"):
        check_probe(options)
    check_probe(ProbeOptions(glue_probe_every=0, glue_probe_tasks="no such task"))


def probe_once(folder: Path, state: TrainerState, control: TrainerControl, **options: Any) -> GlueProbe:
    """One call as at the end of a step, with a model folder that holds nothing."""
    probe = GlueProbe(
        ProbeOptions(glue_probe_every=2), RunFolder(folder), lambda name: Path(name).mkdir(parents=True), **options
    )
    probe.on_step_end(EngineOptions(output_dir=str(folder), use_cpu=True), state, control)
    return probe


def test_a_probe_that_fails_says_so_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(tmp_path, "echo too many; echo out of memory >&2; exit 3", monkeypatch)
    clock = Clock()
    probe_once(tmp_path / "run", TrainerState(global_step=2, max_steps=9), TrainerControl(), clocks=[clock])
    told = capsys.readouterr().out
    assert "the GLUE probe at step 2 FAILED, training goes on: exit code 3" in told
    assert "too many\nout of memory" in told
    assert clock.calls == ["pause", "resume"] and not (tmp_path / "run" / FOLDER).exists()
    assert not (tmp_path / "run" / "eval.jsonl").exists()


def test_a_model_that_cannot_be_saved_is_a_probe_that_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def full_disk(name: str) -> None:
        raise OSError(28, "No space left on device")

    probe = GlueProbe(ProbeOptions(glue_probe_every=1), RunFolder(tmp_path), full_disk)
    args = EngineOptions(output_dir=str(tmp_path), use_cpu=True)
    probe.on_step_end(args, TrainerState(global_step=5, max_steps=9), TrainerControl())
    assert "step 5 FAILED, training goes on: [Errno 28] No space left" in capsys.readouterr().out


def test_a_run_that_is_to_stop_does_not_wait_for_a_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(tmp_path, "exec sleep 60", monkeypatch)
    began = time.monotonic()
    state = TrainerState(global_step=2, max_steps=9)
    probe_once(tmp_path / "run", state, TrainerControl(), interrupted=lambda: True)
    assert "the GLUE probe at step 2 was given up: the run is to stop" in capsys.readouterr().out
    probe_once(tmp_path / "run", state, TrainerControl(should_training_stop=True))  # told before: no probe at all
    assert time.monotonic() - began < 10 and not capsys.readouterr().out


def test_it_probes_at_multiples_only_and_at_the_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = {"is_sample": False, "runs": [{"task": "RTE", "scores": {"accuracy": 0.5, "other": None}}]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    words = 'while [ "$1" != --output_dir ]; do shift; done'
    stand_in(tmp_path, f'{words}; mkdir -p "$2"; cp {tmp_path}/report.json "$2"', monkeypatch)
    logged: list[dict[str, float]] = []
    for step, stop in ((1, False), (2, False), (3, False), (4, True)):
        state = TrainerState(global_step=step, max_steps=4)
        probe_once(tmp_path / "run", state, TrainerControl(should_training_stop=stop), log=logged.append)
    lines = RunFolder(tmp_path / "run").read("eval.jsonl")
    assert [line["step"] for line in lines] == [2, 4]
    assert lines[0]["probe"] == {"RTE": {"accuracy": 0.5, "other": None}} and lines[0]["sample_tasks"] is False
    assert logged == [{"probe_RTE_accuracy": 0.5}] * 2
    assert "probe at step 4 (GLUE): RTE accuracy 0.500" in capsys.readouterr().out
