"""Options of a command line that others put out of force: refused, rather than without effect."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from nlp_adan.corpora.documents import known_encoding
from nlp_adan.errors import UserError

from .data_options import CorpusOptions
from .model_options import ModelOptions

# What a configuration says itself.
SIZES = (
    "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "initializer_range",
    "dropout",
)  # fmt: skip
# How a tokenizer is trained, where none is named.
TOKENIZER_TRAINING = ("tokenizer_kind", "vocab_size", "tokenizer_sample_bytes")


def check_given(data: CorpusOptions, model: ModelOptions, given: Collection[str]) -> None:
    """Raise a UserError for an option on the command line that the model or the tokenizer named there overrules.

    given: the names of the options on the command line; what a recipe says may be overruled.
    """
    config = model.model_name_or_path or model.config_name
    tokenizer = data.tokenizer or model.model_name_or_path
    for names, named, what in ((SIZES, config, "configuration"), (TOKENIZER_TRAINING, tokenizer, "tokenizer")):
        for name in names:
            if named is not None and name in given:
                raise UserError(f"--{name}: it would not act, for {named!r} has a {what} of its own; leave it out")


def check_given_prepared(
    options: CorpusOptions, given: Collection[str], folder: Path, manifest: Mapping[str, Any]
) -> None:
    """Raise a UserError for an option on the command line that is not true of prepared data.

    folder, manifest: of the prepared data.
    """
    for name, expected in _stated(manifest).items():
        value = getattr(options, name)
        if name in given and (known_encoding(value) if name == "encoding" else value) not in expected:
            made = f"was prepared with {expected[0]}" if expected else "needed none"
            raise UserError(
                f"--{name} {value}: {str(folder)!r} {made}; leave it out, or name the text itself with `--data` to "
                "prepare other data"
            )


def _stated(manifest: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What the manifest of prepared data says of options: the values that are true of it, none of what had no say."""
    inputs, trained = manifest["inputs"], manifest["tokenizer_sample"] or {}
    of_corpus = inputs["corpus"]["options"]
    documents = {True: ["file"], False: ["blank_line"]}.get(of_corpus.get("one_document_per_file"), [])
    known = {
        "valid_fraction": inputs["valid_fraction"],
        "split_seed": inputs["split_seed"],
        "encoding": of_corpus.get("encoding"),
        "text_column": of_corpus.get("text_column"),
        "tokenizer_kind": trained.get("kind"),
        "vocab_size": trained.get("vocab_size"),
        "tokenizer_sample_bytes": trained.get("sample_bytes"),
    }
    stated = {name: [] if value is None else [value] for name, value in known.items()}
    return {**stated, "documents": [*documents, "auto"] if documents else []}
