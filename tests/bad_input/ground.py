"""The folder in which the cases are tried: what is good in it, so that one mistake at a time is made."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

import glue_eval.__main__
from bert.data_options import CorpusOptions
from bert.options import parse_options
from bert.prepare import prepare_corpus
from glue_eval.tasks import TASKS
from nlp_adan import Adan
from tests.corpora import write_texts
from tests.tiny_glue import tiny_bert, tiny_tokenizer, write_glue
from tests.unit.checkpoint_folders import Small, make_checkpoint, train
from tests.unit.glue_runs import protocol_of, write_sweep
from tests.unit.glue_sweep import SweepFolder
from transformer_xl.data_options import StreamOptions
from transformer_xl.lstm import AWDLSTMForCausalLM
from transformer_xl.lstm_configuration import AWDLSTMConfig
from transformer_xl.prepare import prepare_stream

# An unmodified script of Hugging Face's kind; with good options it trains a step.
SCRIPT = """
import torch
from transformers import BertConfig, BertForMaskedLM, HfArgumentParser, Trainer, TrainingArguments
(options,) = HfArgumentParser((TrainingArguments,)).parse_args_into_dataclasses()
sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
model = BertForMaskedLM(BertConfig(vocab_size=25, max_position_embeddings=8, **sizes))
ids = torch.arange(8)
Trainer(model, options, train_dataset=[dict(input_ids=ids, labels=ids)] * 8).train()
"""


def build_ground(ground: Path) -> None:
    """Fill an empty folder; the working folder and the cache are the ground's meanwhile."""
    write_texts(ground / "texts")
    (ground / "text.txt").write_bytes((ground / "texts" / "part0.txt").read_bytes())
    (ground / "file").write_text("mine\n")
    (ground / "thesis").mkdir()
    (ground / "thesis" / "report.md").write_text("# Thesis\n")
    (ground / "train.py").write_text(SCRIPT)
    _models(ground)
    _prepared(ground)
    _runs(ground)
    _sweeps(ground)
    for name in ("cache", "tmp"):
        shutil.rmtree(ground / name, ignore_errors=True)
        (ground / name).mkdir()


def _models(ground: Path) -> None:
    tiny_bert(ground / "model")
    tiny_bert(ground / "few_words", vocab_size=20)
    tiny_tokenizer(mask_token="[MASK]").save_pretrained(ground / "tokenizer")


def _prepared(ground: Path) -> None:
    prepare_corpus(
        CorpusOptions(data="texts", vocab_size=300, block_size=32, valid_fraction=0.3),
        ground / "prepared",
        num_workers=1,
    )
    stream = prepare_stream(StreamOptions(data="text.txt", min_count=2), ground / "stream")
    sizes = {"embedding_size": 8, "hidden_size": 8, "num_layers": 1}
    AWDLSTMForCausalLM(AWDLSTMConfig(vocab_size=stream.vocab_size, **sizes)).save_pretrained(ground / "lm")
    stream.tokenizer().save_pretrained(ground / "lm")


def _runs(ground: Path) -> None:
    """`run`: checkpoints of 3 and 5 steps; `other`: an unfinished run of run_pretrain.py bert."""
    model = Small()
    optimizer = Adan(model.parameters(), lr=1e-2, fused=False)
    train(model, optimizer, range(3))
    make_checkpoint(ground / "run", 3, model, optimizer)
    train(model, optimizer, range(3, 5))
    make_checkpoint(ground / "run", 5, model, optimizer)
    settings = parse_options(["--recipe", "tiny", "--seed", "7", "--output_dir", "other"]).resolved()
    (ground / "other").mkdir()
    (ground / "other" / "resolved.yaml").write_text(yaml.safe_dump(settings))


def _sweeps(ground: Path) -> None:
    write_glue(ground / "glue", "CoLA", "RTE", "STS-B")
    write_sweep(ground / "sweep", protocol_of([TASKS["RTE"]], seeds=(1, 2)), num_dev=20)
    write_sweep(ground / "sweep2", protocol_of([TASKS["RTE"]], seeds=(1, 2)), num_dev=20)
    SweepFolder(ground / "good").add("WNLI", 1)
    SweepFolder(ground / "part").add("WNLI", 1, splits={"test": 100})
    glue_eval.__main__.main(["submit", "good"])
