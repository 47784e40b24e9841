"""A fine-tuning run: what it writes, which checkpoint it reports, and that every setting of it acts."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ElectraConfig,
    ModernBertConfig,
    OPTConfig,
)

from glue_eval import finetune as finetune_module
from glue_eval import finetune_engine as engine_module
from glue_eval.classifier import DROPOUT_FIELDS, load_classifier, set_dropout, usable_length
from glue_eval.data import read_split
from glue_eval.examples import Examples, Padding, tokenize
from glue_eval.finetune import FinetuneSpec, finetune_run, parse_options
from glue_eval.finetune_engine import evaluation_steps
from glue_eval.metrics import Scores, score
from glue_eval.predictions import read_predictions, write_predictions
from glue_eval.results import RunResult
from glue_eval.tasks import TASKS
from nlp_adan.errors import UserError
from tests.tiny_glue import tiny_bert, tiny_tokenizer, write_diagnostics, write_glue

WORDS = ["--optim", "adan", "--learning_rate", "1e-2", "--per_device_train_batch_size", "8", "--num_train_epochs", "2"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model and GLUE files, made once."""
    folder = tmp_path_factory.mktemp("glue")
    data = write_glue(folder / "data", "CoLA", "RTE", "STS-B", "MNLI", "AX")
    return {"model": tiny_bert(folder / "model"), "data": data}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))


def run(
    folder: Path, shared: dict[str, Path], task: str = "CoLA", *words: str, seed: int = 1, **spec: Any
) -> RunResult:
    """A run's result as it was written."""
    told: list[tuple[float, float]] = []
    finetune_run(
        folder,
        lambda done, total: told.append((done, total)),
        task=TASKS[task],
        seed=seed,
        key="the key",
        words=[*WORDS, *words],
        spec=FinetuneSpec(str(shared["model"]), shared["data"], **spec),
    )
    result = RunResult.from_json(json.loads((folder / "result.json").read_text()))
    done = [share for share, _ in told]
    assert done == sorted(done) and len({total for _, total in told}) <= 1
    assert result.diverged or told[-1][0] == told[-1][1]
    return result


def untimed(result: RunResult) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(result).items() if name != "timing"}


def test_a_run_leaves_its_result_and_predictions(tmp_path: Path, shared: dict[str, Path]) -> None:
    result = run(tmp_path / "run", shared, "CoLA", "--max_grad_norm", "0.5", "--weight_decay", "0.02")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["predictions", "result.json"]
    assert (result.task, result.seed, result.key, result.start) == ("CoLA", 1, "the key", "pretrained")
    assert (result.num_train, result.num_dev, result.batch_size, result.epochs) == (45, 13, 8, 2.0)
    assert result.steps == result.chosen_step == math.ceil(45 * 2 / 8) == 12
    assert result.predictions == ["dev", "test"]
    lines = read_predictions(tmp_path / "run" / "predictions" / "dev.jsonl")
    split = read_split(shared["data"], TASKS["CoLA"], "dev")
    assert [line["label"] for line in lines] == [str(label) for label in split.labels or ()]
    logits = np.array([line["logits"] for line in lines])
    assert [int(line["prediction"]) for line in lines] == logits.argmax(axis=1).tolist()
    assert result.scores == score(TASKS["CoLA"], logits.argmax(axis=1), np.array(split.labels)).values
    test = read_predictions(tmp_path / "run" / "predictions" / "test.jsonl")
    assert len(test) == 9 and all(set(line) == {"id", "prediction", "logits"} for line in test)
    assert [point.step for point in result.curve] == [6, 12] and result.curve[-1].scores == result.scores
    losses = [point.train_loss for point in result.curve]
    assert np.mean([loss for loss in losses if loss is not None]) == pytest.approx(result.train_loss)
    model = AutoModelForSequenceClassification.from_pretrained(shared["model"])
    assert result.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert set(result.timing) == {"seconds", "train_seconds", "tokens_per_second", "peak_memory_bytes"}
    assert result.timing["train_seconds"] < result.timing["seconds"]
    settings = {"weight_decay": 0.02, "max_grad_norm": 0.5, "precision": "float32", "checkpoint": "last"}
    assert settings.items() <= result.settings.items()


def test_an_equal_run_is_equal_and_another_seed_is_not(tmp_path: Path, shared: dict[str, Path]) -> None:
    first, again, other = (run(tmp_path / name, shared, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert untimed(first) == untimed(again)
    assert (tmp_path / "a/predictions/test.jsonl").read_bytes() == (tmp_path / "b/predictions/test.jsonl").read_bytes()
    assert first.train_loss != other.train_loss


def test_tokens_and_padding_are_those_of_the_batches(tmp_path: Path, shared: dict[str, Path]) -> None:
    """48 of 45 samples in 6 steps: the whole file, and three of the next epoch."""
    results = {
        grouped: run(tmp_path / str(grouped), shared, "RTE", "--max_steps", "6", group_by_length=grouped)
        for grouped in (True, False)
    }
    lengths = tokenize(read_split(shared["data"], TASKS["RTE"], "train"), tiny_tokenizer(), 64).lengths
    for result in results.values():
        assert lengths.sum() < result.tokens <= lengths.sum() + 3 * lengths.max()
        assert result.epochs == 48 / 45
    assert results[True].padding_share < 0.5 * results[False].padding_share  # type: ignore[operator]
    assert results[True].settings["group_by_length"] is True


def test_however_a_step_is_split_the_loss_is_the_same(tmp_path: Path, shared: dict[str, Path]) -> None:
    """Without dropout, which each micro-batch draws anew. Measured: the largest difference of a logit is 6e-7."""
    words = ("--global_batch_size", "8", "--max_steps", "9")
    whole = run(tmp_path / "8", shared, "STS-B", *words, dropout=0.0)
    parts = run(tmp_path / "2", shared, "STS-B", *words, "--per_device_train_batch_size", "2", dropout=0.0)
    assert whole.train_loss == pytest.approx(parts.train_loss, rel=1e-5)
    assert (whole.tokens, whole.batch_size, whole.steps) == (parts.tokens, parts.batch_size, parts.steps)
    assert whole.padding > parts.padding  # to the longest of a micro-batch
    np.testing.assert_allclose(predicted(tmp_path / "8", "dev"), predicted(tmp_path / "2", "dev"), atol=1e-5)
    lines = read_predictions(tmp_path / "8" / "predictions" / "dev.jsonl")
    assert all(line["prediction"] == pytest.approx(line["logits"][0], rel=1e-6) for line in lines)
    assert {line["label"] for line in lines} <= {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}


def predicted(folder: Path, name: str) -> np.ndarray:
    """The logits of a predictions file."""
    return np.array([line["logits"] for line in read_predictions(folder / "predictions" / f"{name}.jsonl")])


def test_the_best_checkpoint_is_reported_where_that_is_asked(
    tmp_path: Path, shared: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores that go up and down; the second of four evaluations is the first of the best two."""
    words = ("--num_train_epochs", "4")
    for name in ("best", "last"):
        values = iter([0.2, 0.9, 0.9, 0.1])
        monkeypatch.setattr(engine_module, "score", lambda *_: Scores({"accuracy": next(values)}, False))  # noqa: B023
        result = run(tmp_path / name, shared, "RTE", *words, checkpoint=name, save_model=True)
        assert [point.step for point in result.curve] == [6, 12, 17, 23] and result.steps == 23
        assert (result.chosen_step, result.scores["accuracy"]) == ((12, 0.9) if name == "best" else (23, 0.1))
        saved = tmp_path / name / "model"
        assert {path.suffix for path in saved.iterdir()} <= {".json", ".safetensors", ".txt", ".jinja"}  # no pickles
        model = AutoModelForSequenceClassification.from_pretrained(saved).eval()
        assert model.config.id2label == {0: "entailment", 1: "not_entailment"}
        tokenizer = AutoTokenizer.from_pretrained(saved)
        for file in ("dev", "test"):
            split = read_split(shared["data"], TASKS["RTE"], file)
            examples = Examples(tokenize(split, tokenizer, 64), None, Padding.of(tokenizer), 64)
            with torch.no_grad():
                logits = model(**examples.__getitems__(range(len(split)))).logits
            np.testing.assert_allclose(predicted(tmp_path / name, file), logits, atol=1e-5)
    assert not np.allclose(predicted(tmp_path / "best", "test"), predicted(tmp_path / "last", "test"), atol=1e-3)


def test_mnli_predicts_the_diagnostic_file(tmp_path: Path, shared: dict[str, Path]) -> None:
    result = run(tmp_path / "run", shared, "MNLI", "--max_steps", "3")
    assert result.predictions == ["dev_matched", "dev_mismatched", "test_matched", "test_mismatched", "AX"]
    lines = read_predictions(tmp_path / "run" / "predictions" / "AX.jsonl")
    assert len(lines) == 9 and {line["prediction"] for line in lines} <= set(TASKS["MNLI"].labels or ())
    assert result.ax == {} and set(result.scores) == {"accuracy_matched", "accuracy_mismatched"}
    # Where the file with the labels is, they are scored.
    data = tmp_path / "data"
    shutil.copytree(shared["data"], data)
    write_diagnostics(data)
    (data / "AX").rename(data / "diagnostic")  # the folder's other name
    result = run(tmp_path / "again", {**shared, "data": data}, "MNLI", "--max_steps", "1")
    assert {"all", "Logic", "Logic/Negation"} <= set(result.ax) and -1 <= result.ax["all"] <= 1


def test_the_learning_curve_follows_the_users_strategy(tmp_path: Path, shared: dict[str, Path]) -> None:
    logits = set()
    for words, steps in (
        (("--eval_strategy", "steps", "--eval_steps", "5"), [5, 10, 12]),
        (("--eval_strategy", "no"), [12]),
    ):
        result = run(tmp_path / words[-1], shared, "CoLA", *words, predict_test=False)
        assert [point.step for point in result.curve] == steps
        assert result.curve[-1].train_loss is not None
        logits.add(predicted(tmp_path / words[-1], "dev").tobytes())
    assert len(logits) == 1  # an evaluation draws no random numbers of the training's dropout


@pytest.mark.parametrize(
    ("num_samples", "epochs", "expected"),
    [
        (100, 3, [13, 25, 38]),
        (100, 0.5, [7]),
        (100, 25, [38, 75, 113, 150, 188, 225, 263, 300, 313]),
        (3, 4, [1, 2]),
    ],
)
def test_evaluations_are_at_epochs_ends(tmp_path: Path, num_samples: int, epochs: float, expected: list[int]) -> None:
    options = parse_options([*WORDS[:-1], str(epochs)], tmp_path, 1)
    assert sorted(evaluation_steps(options, num_samples, most=10)) == expected


def test_a_run_of_any_length_has_ten_evaluations(tmp_path: Path) -> None:
    """And they are found at once: a mistyped number of steps must not fill the memory."""
    options = parse_options([*WORDS, "--max_steps", str(10**18)], tmp_path, 1)
    found = sorted(evaluation_steps(options, 100, most=10))
    assert len(found) == 10 and found[-1] == 10**18


def test_dropout_and_length_and_number_of_examples_act(tmp_path: Path, shared: dict[str, Path]) -> None:
    plain = run(tmp_path / "plain", shared, predict_test=False)
    specs: dict[str, dict[str, Any]] = {"dropout": {"dropout": 0.4}, "max_length": {"max_length": 6}}
    for name, spec in specs.items():
        other = run(tmp_path / name, shared, predict_test=False, **spec)
        assert other.train_loss != plain.train_loss, name
    assert plain.max_length == 64 and plain.num_cut == 0 and plain.settings["dropout"] is None
    assert other.max_length == 6 and other.num_cut > 0
    few = run(tmp_path / "few", shared, predict_test=False, max_train_examples=10)
    assert (few.num_train, few.num_dev, few.steps, few.settings["max_train_examples"]) == (10, 13, 3, 10)


def test_partial_files_are_told(tmp_path: Path, shared: dict[str, Path]) -> None:
    data = write_glue(tmp_path / "data", "RTE")
    (data / "RTE" / "train.tsv").rename(data / "RTE" / "train.SAMPLE45.tsv")
    with pytest.raises(UserError, match="train"):
        run(tmp_path / "run", {**shared, "data": data}, "RTE")
    assert not (tmp_path / "run").exists()
    assert run(tmp_path / "run", {**shared, "data": data}, "RTE", allow_partial=True).partial == ["train.SAMPLE45.tsv"]


def test_a_body_from_mnli_is_taken_without_its_head(tmp_path: Path, shared: dict[str, Path]) -> None:
    run(tmp_path / "mnli", shared, "MNLI", "--max_steps", "3", save_model=True, predict_test=False)
    mnli = str(tmp_path / "mnli" / "model")
    theirs = AutoModelForSequenceClassification.from_pretrained(mnli)
    model = load_classifier(str(shared["model"]), TASKS["RTE"], mnli_model=mnli)
    for (name, ours), expected in zip(model.bert.named_parameters(), theirs.bert.parameters(), strict=True):
        assert torch.equal(ours, expected), name
    assert model.classifier.weight.shape == (2, 16)
    result = run(tmp_path / "rte", shared, "RTE", predict_test=False, mnli_model=mnli)
    assert result.start == mnli
    assert run(tmp_path / "cola", shared, "CoLA", predict_test=False, mnli_model=mnli).start == "pretrained"
    for folder, told in (
        (tmp_path / "rte", "holds no finished model"),
        (shared["model"], "was not fine-tuned on a task"),
        (tmp_path / "other" / "model", "tells 2 labels apart, MNLI has 3"),
    ):
        if told.startswith("tells"):
            run(tmp_path / "other", shared, "CoLA", "--max_steps", "1", save_model=True, predict_test=False)
        with pytest.raises(UserError, match=f"--mnli_model: .*{told}"):
            load_classifier(str(shared["model"]), TASKS["RTE"], mnli_model=str(folder))
    narrow = tiny_bert(tmp_path / "narrow", hidden_size=8)
    with pytest.raises(UserError, match="has hidden_size 16, the pretrained model 8"):
        load_classifier(str(narrow), TASKS["RTE"], mnli_model=mnli)
    with pytest.raises(UserError, match=r"was fine-tuned on a task .*--mnli_model"):
        load_classifier(mnli, TASKS["RTE"])


def test_dropout_sets_every_kind_that_a_model_has() -> None:
    for config, names in (
        (AutoConfig.for_model("bert"), DROPOUT_FIELDS[:3]),
        (ModernBertConfig(), ("embedding_dropout", "mlp_dropout", "attention_dropout", "classifier_dropout")),
        (ElectraConfig(), ("hidden_dropout_prob", "attention_probs_dropout_prob", "summary_last_dropout")),
        (OPTConfig(), ("dropout", "attention_dropout")),
    ):
        set_dropout(config, 0.25)
        for name in names:
            assert getattr(config, name) == 0.25, name
    with pytest.raises(UserError, match="--dropout: a resnet model has no dropout"):
        set_dropout(AutoConfig.for_model("resnet"), 0.1)
    with pytest.raises(UserError, match="--dropout: 1 is out of range"):
        set_dropout(AutoConfig.for_model("bert"), 1.0)


def test_a_length_is_what_the_model_reaches() -> None:
    roberta = AutoConfig.for_model("roberta", max_position_embeddings=130, pad_token_id=1)
    endless = tiny_tokenizer(model_max_length=10**30)
    assert usable_length(TASKS["RTE"], endless, None) == 256
    assert usable_length(TASKS["RTE"], endless, None, roberta) == 128
    assert usable_length(TASKS["RTE"], endless, 20, roberta) == 20
    assert usable_length(TASKS["RTE"], endless, None, AutoConfig.for_model("bert", max_position_embeddings=100)) == 100
    assert usable_length(TASKS["RTE"], tiny_tokenizer(), None, roberta) == 64


@pytest.mark.parametrize("task", ["RTE", "STS-B"])
@pytest.mark.parametrize(
    ("figure", "words"), [("loss", ["--logging_steps", "1"]), ("predictions", ["--max_steps", "1"])]
)
def test_a_run_that_diverges_is_a_collapsed_run(
    tmp_path: Path, shared: dict[str, Path], task: str, figure: str, words: list[str]
) -> None:
    """It keeps its place among the seeds, with the scores of answers that are no numbers, and says why."""
    hot = ("--learning_rate", "1e30", "--max_grad_norm", "0")
    result = run(tmp_path / "run", shared, task, *hot, *words, save_model=True, checkpoint="best")
    assert result.diverged.startswith(f"{task} seed 1 diverged: its {figure} at step ")
    assert "nan; choose a lower --learning_rate (now 1e+30)" in result.diverged
    assert result.collapsed and result.predictions == ["dev", "test"] and not (tmp_path / "run" / "model").exists()
    assert 1 <= result.steps < 12 and result.epochs == result.steps * 8 / 45
    lines = read_predictions(tmp_path / "run" / "predictions" / "dev.jsonl")
    assert {value for line in lines for value in line["logits"]} == {None} and "label" in lines[0]
    answer = TASKS[task].labels[0] if TASKS[task].labels else None  # type: ignore[index]
    assert {line["prediction"] for line in lines} == {answer}
    if answer is None:
        assert result.scores == {"pearson": 0.0, "spearman": 0.0}
    else:
        assert result.scores == {"accuracy": np.mean([line["label"] == answer for line in lines])}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--save_strategy", "epoch"], "--save_strategy: 'epoch' .*`--save_models`"),
        (["--metric_for_best_model", "loss"], "--metric_for_best_model: .*`--checkpoint best`"),
        (["--train_sampling_strategy", "sequential"], "--train_sampling_strategy: .*`--group_by_length`"),
        (["--dataloader_drop_last", "True"], "--dataloader_drop_last: "),
        (["--learning_rat", "1"], "unknown option '--learning_rat' .did you mean '--learning_rate'"),
    ],
)
def test_options_that_could_not_act_are_refused(words: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        parse_options(words, tmp_path, 1)


def test_a_best_checkpoint_wants_whole_weights(tmp_path: Path) -> None:
    options = parse_options([], tmp_path, 1)
    finetune_module.check_can_keep(options)
    options.deepspeed = "ds_configs/zero3.json"
    with pytest.raises(UserError, match=r"--checkpoint best: .*ZeRO-2"):
        finetune_module.check_can_keep(options)


def test_a_damaged_predictions_file_is_named(tmp_path: Path, shared: dict[str, Path]) -> None:
    split = read_split(shared["data"], TASKS["CoLA"], "dev")
    path = write_predictions(tmp_path, "dev", split, np.zeros((13, 2), dtype=np.float32))
    assert len(read_predictions(path)) == 13
    whole = path.read_bytes()
    for line, told in ((b'{"id": "13"}', "not a prediction"), (b'{"id": "\xff"}', "not UTF-8")):
        path.write_bytes(whole + line + b"\n")
        with pytest.raises(UserError, match=rf"dev.jsonl:14: {told} .*remove the run's folder"):
            read_predictions(path)
    with pytest.raises(UserError, match=r"no file .*other\.jsonl"):
        read_predictions(path.with_name("other.jsonl"))
