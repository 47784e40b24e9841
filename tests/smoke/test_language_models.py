"""A language model from raw text to figures: both families, killed and resumed with their memories, then used."""

from __future__ import annotations

import json
import math
import pydoc_data.topics
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import transformer_xl.__main__
from nlp_adan.errors import UserError
from nlp_adan.training.recurrent import RecurrentEngine
from nlp_adan.training.signals import RESUME_EXIT_CODE
from tests.checkpoints import sign
from tests.distributed import launching
from transformer_xl import generate, pretrain

pytestmark = pytest.mark.slow
TRAIN = {"transformer_xl": pretrain.transformer_xl, "lstm": pretrain.lstm}
SMALL = {
    "transformer_xl": ["--d_model", "32", "--n_layer", "2", "--n_head", "2", "--d_head", "16", "--d_inner", "32",
                       "--cutoffs", "100", "--tgt_len", "16", "--mem_len", "24", "--dropout", "0.1"],
    "lstm": ["--embedding_size", "32", "--hidden_size", "32", "--num_layers", "2", "--tgt_len", "16",
             "--hidden_dropout", "0.1", "--weight_dropout", "0.2", "--alpha", "1", "--beta", "1"],
}  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three parts in the usual layout; a pass over the training part is some 25 steps."""
    folder = tmp_path_factory.mktemp("text")
    topics = [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)]
    whole = "\n".join(topics)
    for name, begin, end in (("train", 0, 12_000), ("valid", 12_000, 15_000), ("test", 15_000, 18_000)):
        (folder / f"{name}.txt").write_text(whole[begin:end], encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path_factory.getbasetemp() / "language_models_cache"))


def words(family: str, text: Path, run: Path, *more: str) -> list[str]:
    return [
        "--recipe", "tiny", "--data", str(text), "--max_vocab", "400", *SMALL[family], "--max_steps", "40",
        "--logging_steps", "1", "--eval_steps", "20", "--save_steps", "20", "--save_total_limit", "9",
        "--global_batch_size", "4", "--warmup_steps", "4", "--disable_tqdm", "True", "--output_dir", str(run), *more,
    ]  # fmt: skip


@pytest.fixture(scope="module", params=["transformer_xl", "lstm"])
def undisturbed(
    request: pytest.FixtureRequest, text: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """Forty steps in one process, with dropout: a family's name and the run's folder."""
    run = tmp_path_factory.mktemp("undisturbed") / request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NLP_ADAN_CACHE", str(tmp_path_factory.getbasetemp() / "language_models_cache"))
        TRAIN[request.param](words(request.param, text, run))
    return request.param, run


def lines(run: Path, name: str = "log.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def check_equal(run: Path, other: Path) -> None:
    expected = safetensors.torch.load_file(other / "model.safetensors")
    found = safetensors.torch.load_file(run / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    for name in ("step", "loss", "grad_norm", "learning_rate", "batch_hash"):
        assert [line[name] for line in lines(run)] == [line[name] for line in lines(other)], name


def test_a_run_leaves_a_model_figures_and_a_report(undisturbed: tuple[str, Path], text: Path) -> None:
    family, run = undisturbed
    metrics = json.loads((run / "metrics.json").read_text())
    for part in ("eval", "test"):
        assert metrics[f"{part}_perplexity"] == pytest.approx(math.exp(metrics[f"{part}_loss"]))
    length = 16 if family == "transformer_xl" else 16 * 0.975  # of random ones the mean
    assert metrics["eval_loss"] < math.log(400) and metrics["trained_tokens"] == 40 * round(4 * length)
    assert {line["step"] for line in lines(run, "eval.jsonl")} == {20, 40}
    assert "perplexity" in (run / "report.md").read_text() and (run / "report.html").is_file()
    assert "transformer_xl" in (run / "README.md").read_text()
    model = AutoModelForCausalLM.from_pretrained(run)
    assert model.config.model_type == {"transformer_xl": "transformer_xl", "lstm": "awd_lstm"}[family]
    assert AutoTokenizer.from_pretrained(run).eos_token_id == model.config.eos_token_id


@pytest.mark.parametrize("step", [7, 33])
def test_stopped_anywhere_and_resumed(
    undisturbed: tuple[str, Path], text: Path, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a pass, so the memories have to come back; bit-equal, dropout included."""
    family, whole = undisturbed
    run = tmp_path / "stopped"
    compute_loss = RecurrentEngine.compute_loss

    def stopping(self: RecurrentEngine, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == step - 1:
            (run / "stop").touch()
            self.run_control._looked_at = 0.0
        return compute_loss(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(RecurrentEngine, "compute_loss", stopping)
        with pytest.raises(SystemExit) as left:
            TRAIN[family](words(family, text, run))
    assert left.value.code == RESUME_EXIT_CODE and (run / f"checkpoint-{step}").is_dir()
    TRAIN[family](words(family, text, run, "--resume", "auto"))
    check_equal(run, whole)
    assert [line["eval_loss"] for line in lines(run, "eval.jsonl")] == [
        line["eval_loss"] for line in lines(whole, "eval.jsonl")
    ]


def forget_the_end(run: Path) -> None:
    """As a kill before the last checkpoint was published leaves a run."""
    (run / "metrics.json").unlink()
    shutil.rmtree(run / "checkpoint-40")


def test_without_its_memory_a_resumed_run_would_be_another(
    undisturbed: tuple[str, Path], text: Path, tmp_path: Path
) -> None:
    """The test above could not fail if memories did not matter; and a checkpoint without them is refused."""
    family, whole = undisturbed
    run = tmp_path / "forgetful"
    shutil.copytree(whole, run)
    forget_the_end(run)
    (memory,) = (run / "checkpoint-20").glob("memory-*.safetensors")
    with safetensors.safe_open(memory, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    assert tensors and any(tensor.abs().sum() > 0 for tensor in tensors.values())
    zeros = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    safetensors.torch.save_file(zeros, memory, metadata)
    sign(run / "checkpoint-20")
    TRAIN[family](words(family, text, run, "--resume", "auto"))
    assert [line["loss"] for line in lines(run)][:20] == [line["loss"] for line in lines(whole)][:20]
    assert lines(run)[20]["loss"] != lines(whole)[20]["loss"]


@pytest.mark.distributed
def test_two_ranks_then_one(undisturbed: tuple[str, Path], text: Path, tmp_path: Path) -> None:
    """Another number of ranks takes the memories of its columns from the files of all."""
    family, _ = undisturbed
    none = "--dropout 0" if family == "transformer_xl" else "--hidden_dropout 0 --weight_dropout 0"
    alone, split = tmp_path / "alone", tmp_path / "split"
    TRAIN[family](words(family, text, alone, *none.split()))
    given = words(family, text, split, *none.split())
    two = launching.deepspeed("run_pretrain.py", family, *given, "--per_device_train_batch_size", "1")
    assert two.returncode == 0, two.stderr
    assert len(list((split / "checkpoint-20").glob("memory-*.safetensors"))) == 2
    forget_the_end(split)
    TRAIN[family]([*given, "--resume", "auto"])
    assert [line["batch_hash"] for line in lines(split)] == [line["batch_hash"] for line in lines(alone)]
    losses = [line["loss"] for line in lines(split)]
    assert losses == pytest.approx([line["loss"] for line in lines(alone)], abs=1e-5)


def run_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *given: str) -> str:
    monkeypatch.setattr("sys.argv", ["transformer_xl", *given])
    transformer_xl.__main__.main()
    return capsys.readouterr().out


def test_evaluate_for_any_batch_size(
    undisturbed: tuple[str, Path], text: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    _, run = undisturbed
    test = json.loads((run / "metrics.json").read_text())
    for batch_size in ("1", "3", "64"):
        file = tmp_path / f"{batch_size}.json"
        told = run_command(
            capsys, monkeypatch, "evaluate", "--model", str(run), "--data", str(text / "test.txt"), "--tgt_len", "16",
            "--batch_size", batch_size, "--json", str(file),
        )  # fmt: skip
        found = json.loads(file.read_text())
        assert found["loss"] == pytest.approx(test["test_loss"], abs=1e-5)
        assert found["num_tokens"] == test["test_num_tokens"]
        told_perplexity = re.search(r"perplexity ([\d.,]+)", told)
        assert told_perplexity and float(told_perplexity[1].replace(",", "")) == pytest.approx(
            test["test_perplexity"], rel=1e-4
        )


def test_generate(
    undisturbed: tuple[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the memory a token at a time as with the whole text at once; and a seed gives one text."""
    _, run = undisturbed
    given = ["generate", "--model", str(run), "--prompt", "the name of the", "--max_new_tokens", "12"]
    told = run_command(capsys, monkeypatch, *given, "--temperature", "0")
    assert told.startswith("the name of the") and "<unk>" not in told
    model, tokenizer = AutoModelForCausalLM.from_pretrained(run).eval(), AutoTokenizer.from_pretrained(run)
    ids = tokenizer("the name of the")["input_ids"]
    processors = generate.sampling(0.0, 0, 0.0, [tokenizer.unk_token_id, tokenizer.eos_token_id], "cpu")
    found = list(generate.sample(model, torch.tensor(ids), 12, processors, draws=False, length=2))
    for token in found:
        with torch.no_grad():
            scores = model(torch.tensor([ids])).logits[0, -1]
        scores[[tokenizer.unk_token_id, tokenizer.eos_token_id]] = -math.inf
        assert token == int(scores.argmax())
        ids.append(token)
    drawn = [run_command(capsys, monkeypatch, *given, "--seed", seed) for seed in ("1", "1", "2")]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["evaluate", "--model", "no/such", "--data", "x"], "--model: there is no folder"),
        (["evalute"], "did you mean 'evaluate'"),
        (["generate", "--model", "RUN", "--prompt", " "], "--prompt: it has no token"),
        (["generate", "--model", "RUN", "--prompt", "a", "--top_p", "2"], "--top_p: 2 is out of range"),
        (["evaluate", "--model", "RUN", "--data", "no.txt"], "no.txt"),
        (["evaluate", "--model", "RUN", "--data", "EMPTY"], "EMPTY"),
        (["evaluate", "--model", "RUN", "--data", "TEXT", "--batch_size", "0"], "--batch_size: 0 is out of range"),
        (["evaluate", "--model", "RUN", "--data", "TEXT", "--unknown", "error"], "outside|not in the vocabulary"),
    ],
)
def test_mistakes(
    undisturbed: tuple[str, Path], text: Path, tmp_path: Path, given: list[str], told: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    _, run = undisturbed
    empty = tmp_path / "EMPTY.txt"
    empty.touch()
    named = {"RUN": str(run), "TEXT": str(text / "test.txt"), "EMPTY": str(empty)}
    monkeypatch.setattr("sys.argv", ["transformer_xl", *(named.get(word, word) for word in given)])
    with pytest.raises(SystemExit) as left:
        transformer_xl.__main__.main()
    assert left.value.code == 2
    assert re.search(told, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--cutoffs", "300", "100"], "--cutoffs: 100 comes after 300"),
        (["--cutoffs", "5000"], "--cutoffs: 5000 leaves no token"),
        (["--global_batch_size", "40000"], "tgt_len|streams|global_batch_size"),
        (["--mem_len", "-1"], "--mem_len: -1"),
        (["--mem_len", "0", "--same_length", "True"], "--same_length"),
        (["--recipe", "wt103-bas"], "did you mean 'wt103-base'"),
        (["--metric_for_best_model", "perplexity"], "--metric_for_best_model: 'perplexity': give `loss`"),
        (["--tgt_len", "0"], "--tgt_len: 0"),
        (["--max_valid_tokens", "0"], "--max_valid_tokens: 0 is out of range; give 1 or more"),
        (["--model_name_or_path", "no/such"], "--model_name_or_path: there is no folder"),
    ],
)
def test_options_that_cannot_be(text: Path, tmp_path: Path, more: list[str], told: str) -> None:
    run = tmp_path / "run"
    with pytest.raises(UserError, match=told):
        pretrain.transformer_xl(words("transformer_xl", text, run, *more))
    assert not run.exists()


def test_an_lstm_keeps_its_activations(text: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--activation_checkpointing"):
        pretrain.lstm(words("lstm", text, tmp_path / "run", "--activation_checkpointing", "True"))


def test_a_tokenizer_in_the_place_of_a_recipes_vocabulary(
    undisturbed: tuple[str, Path], text: Path, tmp_path: Path
) -> None:
    """And weights to go on from want their own vocabulary."""
    family, whole = undisturbed
    given = words(family, text, tmp_path / "run", "--max_steps", "2", "--model_name_or_path", str(whole))
    without = [word for word in given if word not in ("--max_vocab", "400")]
    TRAIN[family]([*without, "--tokenizer", str(whole)])
    assert len(lines(tmp_path / "run")) == 2
    other = tmp_path / "other"
    other.mkdir()
    for name in ("train", "valid", "test"):
        (other / f"{name}.txt").write_text(" ".join(reversed((text / "train.txt").read_text().split())))
    with pytest.raises(UserError, match=r"--model_name_or_path.*`--tokenizer"):
        TRAIN[family](words(family, other, tmp_path / "again", "--model_name_or_path", str(whole)))


def test_a_folder_whose_parts_do_not_fit(
    undisturbed: tuple[str, Path], text: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Weights that are missing are not drawn at random, and another vocabulary is not taken for the model's."""
    _, whole = undisturbed
    broken = tmp_path / "broken"
    shutil.copytree(whole, broken, ignore=shutil.ignore_patterns("checkpoint-*"))
    weights = safetensors.torch.load_file(whole / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("layers.0.")}
    safetensors.torch.save_file(kept, broken / "model.safetensors", {"format": "pt"})
    given = ["evaluate", "--model", str(broken), "--data", str(text / "test.txt")]
    with pytest.raises(SystemExit) as left:
        run_command(capsys, monkeypatch, *given)
    assert left.value.code == 2 and "lacks the weights layers.0." in capsys.readouterr().err
    (broken / "model.safetensors").write_bytes((whole / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(SystemExit) as left:
        run_command(capsys, monkeypatch, *given)
    assert left.value.code == 2 and "do not load" in capsys.readouterr().err
    shutil.copy(whole / "model.safetensors", broken)
    tokenizer = AutoTokenizer.from_pretrained(whole)
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(broken)
    for command in (given, ["generate", "--model", str(broken), "--prompt", "the"]):
        with pytest.raises(SystemExit) as left:
            run_command(capsys, monkeypatch, *command)
        assert left.value.code == 2 and "its vocabulary has 401" in capsys.readouterr().err


def test_no_memory_at_all(text: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    pretrain.transformer_xl(words("transformer_xl", text, run, "--mem_len", "0", "--max_steps", "3"))
    assert len(lines(run)) == 3
