"""`python -m transformer_xl evaluate`: the perplexity, or the bits per character, of a text."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlp_adan.errors import UserError
from nlp_adan.progress import progress
from nlp_adan.storage import write_json
from nlp_adan.training.engine import quiet_libraries
from nlp_adan.training.recipe import check_range
from nlp_adan.training.stream_evaluation import StreamEvaluation

from .encoder import encode_file
from .loading import OVERRIDES, check_vocabulary, load_model, load_vocabulary, nominal_length
from .model_options import segments_before
from .vocabulary import rules_of


def main(words: Sequence[str]) -> None:
    """Read the command line, evaluate, print one line."""
    quiet_libraries()
    options = _parse(words)
    for name in ("batch_size", "tgt_len"):
        if getattr(options, name) is not None:
            check_range(name, getattr(options, name), 1)
    if options.json and Path(options.json).is_dir():
        raise UserError(f"--json: {options.json!r} is a folder; name a file in it")
    overrides = {name: getattr(options, name) for name in OVERRIDES if getattr(options, name) is not None}
    model = load_model(options.model, overrides)
    tokenizer = load_vocabulary(options.model)
    check_vocabulary(options.model, model, tokenizer)
    ids, num_unknown = encode_file(Path(options.data), tokenizer, unknown=options.unknown)
    if len(ids) < 2:
        raise UserError(f"--data: {options.data!r} has {len(ids)} token(s); a perplexity wants two or more")
    length = nominal_length(model, options.tgt_len)
    evaluation = StreamEvaluation(
        ids, length, options.batch_size, segments_before(model.config, length), unit=rules_of(tokenizer).unit_of_loss
    )
    batches = evaluation.batches()
    began = time.monotonic()
    with progress(description="evaluation", unit="segment", total=len(batches), leave=False) as bar:
        figures, num_tokens = evaluation.measure(model, batches, model.device, bar.update)
    seconds = time.monotonic() - began
    print(summary(options.data, figures, num_tokens, num_unknown, seconds))
    if options.json:
        write_json(
            Path(options.json),
            {
                **figures,
                "num_unknown": num_unknown,
                "tgt_len": length,
                **{n: getattr(model.config, n, None) for n in OVERRIDES},
            },
        )


def summary(data: str, figures: dict[str, float], num_tokens: int, num_unknown: int, seconds: float) -> str:
    """One line: the figure, of how many tokens, how many of them unknown."""
    if "bits_per_character" in figures:
        told = f"{figures['bits_per_character']:.4f} bits per character"
    else:
        told = f"perplexity {figures['perplexity']:,.3f}"
    unknown = f", {num_unknown:,} outside the vocabulary (read as <unk>)" if num_unknown else ""
    rate = num_tokens / max(seconds, 1e-9)
    return (
        f"{data}: {told} (loss {figures['loss']:.5f} nats, {figures['loss'] / math.log(2):.5f} bits a token; "
        f"{num_tokens:,} tokens{unknown}; {rate:,.0f} tokens/s)"
    )


def _parse(words: Sequence[str]) -> Any:
    parser = argparse.ArgumentParser(prog="python -m transformer_xl evaluate", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", required=True, help="a model's folder or hub name")
    parser.add_argument("--data", required=True, help="a text file, made into tokens as the training text was")
    parser.add_argument("--tgt_len", type=int, help="tokens of a segment; default: as trained")
    parser.add_argument("--mem_len", type=int, help="positions that each layer remembers; default: as trained")
    parser.add_argument("--clamp_len", type=int, help="larger distances count as this one; -1: none")
    parser.add_argument("--same_length", action="store_const", const=True, help="every position sees mem_len positions")
    parser.add_argument(
        "--batch_size",
        type=int,
        default=8,
        help="parts of the text that are read side by side (an LSTM: segments at a time); the value is the same",
    )
    parser.add_argument(
        "--unknown",
        choices=["unk", "error"],
        default="unk",
        help="what is outside the vocabulary: read as <unk>, or end",
    )
    parser.add_argument("--json", help="write the figures into this file")
    return parser.parse_args(words)
