"""Whatever somebody puts into a folder that our commands read, no code of theirs runs: the marker never appears.

A command fails with a UserError (exit code 2) that names the file or the folder, or does without the file. Checkpoints
and prepared data have a file of their own, test_malicious_checkpoints.py.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import glue_eval.__main__
from bert.model import build_model
from bert.model_options import load_config
from bert.options import parse_options
from bert.run_kind import MASKED_LM
from glue_eval import classifier
from glue_eval.data import read_split
from glue_eval.task_file import read_task_file
from glue_eval.tasks import TASKS
from nlp_adan.corpora.documents import open_corpus
from nlp_adan.corpora.pretrained_tokenizer import load_tokenizer
from nlp_adan.errors import UserError
from nlp_adan.kernels import cpu
from nlp_adan.pretraining.record import read_run
from nlp_adan.training.run_folder import RunFolder
from nlp_adan.weights import only_data
from tests.tiny_glue import tiny_bert, write_glue
from tests.unit.malicious_files import CONTENTS, numpy_file, torch_file
from tests.unit.test_transformer_xl_model import model as tiny_transformer_xl
from transformer_xl import loading, model_options
from transformer_xl.convert import read_state
from transformer_xl.stream import PreparedStream

# A Python file that a model's folder may name as its code.
MODULE = """open({marker!r}, "w")
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertTokenizerFast
class Config(BertConfig):
    model_type = "mine"
class Model(BertForMaskedLM):
    config_class = Config
class Tokenizer(BertTokenizerFast):
    pass
"""


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """The file that only planted code makes."""
    path = tmp_path / "marker"
    yield path
    assert not path.exists(), "planted code ran"


@pytest.fixture(params=CONTENTS)
def content(request: pytest.FixtureRequest, marker: Path) -> bytes:
    """A file that runs code where it is loaded without care."""
    return CONTENTS[request.param](marker)


@pytest.mark.parametrize("kind", CONTENTS)
def test_the_planted_files_would_run(kind: str, tmp_path: Path) -> None:
    file, made = tmp_path / "file", tmp_path / "made"
    file.write_bytes(CONTENTS[kind](made))
    if kind.startswith("torch"):
        torch.load(file, weights_only=False)
    else:
        pickle.loads(file.read_bytes())
    assert made.exists()
    made.unlink()
    file.write_bytes(numpy_file(made))
    np.load(file, allow_pickle=True)
    assert made.exists()


@pytest.mark.parametrize("opposite", [None, "1"])
def test_a_library_that_loads_without_care_runs_nothing(
    opposite: str | None, tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside of what loads a stranger's files: as a later version of a library might."""
    if opposite is not None:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", opposite)
    before, file = dict(os.environ), tmp_path / "file"
    file.write_bytes(torch_file(marker))
    with pytest.raises(UserError, match=r"--resume: x: holds io\.open, which is no data"):
        with only_data("--resume: x", "Take another"):
            torch.load(file, weights_only=False)
    assert dict(os.environ) == before


# Weights of models.


@pytest.fixture
def bert_folder(tmp_path: Path, content: bytes) -> Path:
    """A BERT whose one file of weights was planted."""
    folder = tiny_bert(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    return folder


def test_weights_that_are_no_weights(bert_folder: Path) -> None:
    name = str(bert_folder)
    with pytest.raises(UserError, match=r"--model_name_or_path: .*pytorch_model\.bin.*model\.safetensors"):
        build_model(load_config(name), name)
    with pytest.raises(UserError, match=r"--model: .*pytorch_model\.bin.*model\.safetensors"):
        classifier.load_classifier(name, TASKS["CoLA"])


def test_the_commands_tell_of_them(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))
    folder = tiny_bert(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (folder / name).write_bytes(torch_file(marker))
    data, out = write_glue(tmp_path / "glue", "CoLA"), tmp_path / "out"
    words = ["--model", str(folder), "--data", str(data), "--tasks", "CoLA", "--output_dir", str(out),
             "--allow_partial", "True"]  # fmt: skip
    with pytest.raises(UserError, match=r"--model: .*pytorch_model\.bin: holds io\.open, which is no data"):
        glue_eval.__main__.main(words)
    assert not out.exists()


def test_one_of_several_files_of_weights(tmp_path: Path, marker: Path) -> None:
    folder = tiny_bert(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    weights = dict.fromkeys(build_model(load_config(str(folder))).state_dict(), "pytorch_model-00001-of-00001.bin")
    index = {"metadata": {"total_size": 1}, "weight_map": weights}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "pytorch_model-00001-of-00001.bin").write_bytes(torch_file(marker))
    with pytest.raises(UserError, match=r"--model_name_or_path: .*holds io"):
        build_model(load_config(str(folder)), str(folder))


def test_what_lies_beside_the_weights_is_not_read(tmp_path: Path, content: bytes) -> None:
    folder = tiny_bert(tmp_path / "model")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth", "scheduler.pt"):
        (folder / name).write_bytes(content)
    assert classifier.load_classifier(str(folder), TASKS["CoLA"]).num_labels == 2


def test_a_language_model(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "model"
    tiny_transformer_xl().save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(UserError, match=r"--model: .*pytorch_model\.bin"):
        loading.load_model(str(folder))


def test_a_checkpoint_of_the_research_code(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.pt is no state dict that loads without running code"):
        read_state(tmp_path / "model.pt")


# Code that a model's folder brings along.


@pytest.fixture
def folder_with_code(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose configuration, model and tokenizer are its own classes, for a user who says yes to everything."""
    monkeypatch.setattr("builtins.input", lambda prompt="": "y")
    folder = tiny_bert(tmp_path / "model")
    names = {"AutoConfig": "mine.Config", "AutoTokenizer": ["mine.Tokenizer", "mine.Tokenizer"]}
    models = ("AutoModel", "AutoModelForMaskedLM", "AutoModelForSequenceClassification", "AutoModelForCausalLM")
    for name, changes in (
        ("config.json", {"model_type": "mine", "auto_map": {**names, **dict.fromkeys(models, "mine.Model")}}),
        ("tokenizer_config.json", {"tokenizer_class": "Tokenizer", "auto_map": names}),
    ):
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**found, **changes}))
    (folder / "mine.py").write_text(MODULE.format(marker=str(marker)))
    return folder


@pytest.mark.parametrize(
    "load",
    [
        load_config, load_tokenizer, classifier.load_config, classifier.load_tokenizer, loading.load_model,
        loading.load_vocabulary, lambda name: model_options.named_config(name, loading.TransformerXLConfig, None, {}),
    ],
)  # fmt: skip
def test_a_folders_own_code_is_refused(load: Callable[[str], Any], folder_with_code: Path) -> None:
    with pytest.raises(UserError, match="contains custom code"):
        load(str(folder_with_code))


def test_a_prepared_streams_tokenizer(folder_with_code: Path) -> None:
    folder_with_code.rename(folder_with_code.with_name("tokenizer"))
    with pytest.raises(UserError, match="contains custom code"):
        PreparedStream(folder_with_code.parent, {}).tokenizer()


def test_a_model_that_has_a_class_of_transformers_is_that(folder_with_code: Path) -> None:
    config = json.loads((folder_with_code / "config.json").read_text())
    (folder_with_code / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    name = str(folder_with_code)
    assert type(classifier.load_classifier(name, TASKS["CoLA"])).__name__ == "BertForSequenceClassification"
    assert type(load_config(name)).__name__ == "BertConfig"


@pytest.mark.parametrize("load", [load_tokenizer, classifier.load_tokenizer, loading.load_vocabulary])
def test_a_tokenizers_file(load: Callable[[str], Any], tmp_path: Path, content: bytes) -> None:
    folder = tiny_bert(tmp_path / "model")
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError, match=r"--(tokenizer|model): .*model"):
        load(str(folder))


# Text, tables and descriptions.


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz", "a.parquet", "a.pkl"])
def test_files_of_text(name: str, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(UserError, match=r"a\.\w+"):
        open_corpus(str(path)).check()


def test_files_of_a_task(tmp_path: Path, content: bytes) -> None:
    data = write_glue(tmp_path / "glue", "CoLA")
    (data / "CoLA" / "train.tsv").write_bytes(content)
    with pytest.raises(UserError, match=r"train\.tsv"):
        read_split(data, TASKS["CoLA"], "train")


def test_yaml_that_asks_for_a_call(tmp_path: Path, marker: Path) -> None:
    call = f"!!python/object/apply:builtins.open [{marker}, w]"
    recipe, task, record = tmp_path / "recipe.yaml", tmp_path / "task.yaml", tmp_path / "resolved.yaml"
    recipe.write_text(f"max_steps: {call}\n")
    task.write_text(f"name: mine\ntrain: {call}\ndev: dev.tsv\ntext: text\nlabel: label\n")
    record.write_text(f"recipe: {call}\n")
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load(recipe.read_text())
    with pytest.raises(UserError, match=r"recipe\.yaml:1: "):
        parse_options(["--recipe", str(recipe), "--output_dir", str(tmp_path / "run")])
    with pytest.raises(UserError, match=r"task\.yaml"):
        read_task_file(task)
    with pytest.raises(UserError, match=r"resolved\.yaml"):
        read_run(RunFolder(tmp_path), MASKED_LM)


def test_a_compiled_step_is_not_loaded_from_a_folder_that_others_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a user without a home it is kept below /tmp, where anybody can make the folder first."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = cpu._folder_without_home()
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o077 == 0 and cpu._folder_without_home() == folder
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="open to others: remove it, or set NLP_ADAN_CACHE"):
        cpu._folder_without_home()
    folder.rename(tmp_path / "elsewhere").chmod(0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        cpu._folder_without_home()
