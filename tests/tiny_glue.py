"""GLUE files of some dozen sentences, a tokenizer of their words, and a BERT that learns from them in a second."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, BertConfig, PreTrainedTokenizerFast

from glue_eval.data import read_split
from glue_eval.diagnostics import FULL
from glue_eval.tasks import TASKS, Task

WORDS = [f"w{number}" for number in range(20)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tiny_tokenizer(words: list[str] = WORDS, **options: Any) -> PreTrainedTokenizerFast:
    """Of whole words, with BERT's special tokens and token types."""
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate([*SPECIAL, *words])}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", SPECIAL.index("[CLS]")), ("[SEP]", SPECIAL.index("[SEP]"))],
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{"model_max_length": 64, **names, **options},
    )


def tiny_bert(folder: Path, **changes: Any) -> Path:
    """A BERT of one layer with random weights, and its tokenizer, in a folder."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(**{"vocab_size": len(SPECIAL) + len(WORDS), "max_position_embeddings": 64, **sizes, **changes})
    AutoModel.from_config(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_glue(folder: Path, *names: str, num_train: int = 45, num_dev: int = 13, num_test: int = 9) -> Path:
    """GLUE files of these tasks. A text's first word says its label; texts have 2 to 12 words."""
    for name in names:
        for split in TASKS[name].splits:
            number = num_train if split.name == "train" else num_test if split.label_column is None else num_dev
            rows = [_row(TASKS[name], split, index) for index in range(number)]
            path = folder / name / split.file
            path.parent.mkdir(parents=True, exist_ok=True)
            header = ["\t".join(split.columns)] if split.has_header else []
            path.write_text("".join(f"{row}\n" for row in [*header, *rows]), encoding="utf-8")
    return folder


def write_diagnostics(folder: Path) -> Path:
    """AX/diagnostic-full.tsv of the folder's AX/diagnostic.tsv."""
    rows = ["\t".join(FULL.columns)]
    for number, (first, second) in enumerate(read_split(folder, TASKS["AX"], "test").texts):
        label = (TASKS["MNLI"].labels or ())[number % 3]
        cells = {"Premise": first, "Hypothesis": second, "Label": label, "Logic": "Negation"}
        rows.append("\t".join(str(cells.get(name, "")) for name in FULL.columns))
    path = folder / "AX" / FULL.file
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


def _row(task: Task, split: Any, number: int) -> str:
    generator = np.random.default_rng([number, len(split.name), len(task.name)])
    label = int(generator.integers(len(task.labels) if task.labels else 6))
    cells = dict.fromkeys(split.columns, "-")
    for column, length in zip(split.text_columns, generator.integers(2, 13, 2), strict=False):
        words = generator.choice(WORDS[6:], length)
        cells[column] = " ".join(itertools.chain([WORDS[label]], words[1:]))
    if split.label_column:
        cells[split.label_column] = task.labels[label] if task.labels else str(float(label if label < 6 else 5))
    if split.id_column:
        cells[split.id_column] = str(number)
    return "\t".join(cells[column] for column in split.columns)
