"""`python -m transformer_xl prepare`: text in, a folder with a stream of tokens out, which `--data` takes anywhere."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from nlp_adan.corpora.manifest import is_prepared
from nlp_adan.errors import UserError
from nlp_adan.training.engine import quiet_libraries
from nlp_adan.training.recipe import CommandParser
from nlp_adan.training.signals import exits_to_be_resumed

from .data_options import StreamOptions
from .prepare import prepare_stream
from .stream import PreparedStream
from .texts import PARTS


@dataclasses.dataclass
class PrepareOptions(StreamOptions):
    """What to prepare, and where."""

    output_dir: str | None = dataclasses.field(
        default=None, metadata={"help": "Folder of the stream; default: in the cache, where training finds it."}
    )


def command_parser() -> CommandParser:
    """The parser of `python -m transformer_xl prepare`."""
    return CommandParser(
        (PrepareOptions,),
        prog="python -m transformer_xl prepare",
        description="Make text into a stream of tokens, once, for `run_pretrain.py ... --data FOLDER`.",
    )


def main(words: Sequence[str]) -> None:
    """Read the command line, prepare, print one line."""
    quiet_libraries()
    options = _parse(words)
    if options.data is not None and is_prepared(Path(options.data).expanduser()):
        raise UserError(f"--data {options.data!r} is prepared already: train on it, or name its text")
    folder = Path(options.output_dir).expanduser() if options.output_dir else None
    existed = folder is not None and is_prepared(folder)
    started = time.monotonic()
    with exits_to_be_resumed("the same command"):
        stream = prepare_stream(options, folder)
    print(summary(stream, None if existed else time.monotonic() - started))


def _parse(words: Sequence[str]) -> PrepareOptions:
    options: PrepareOptions
    (options,) = command_parser().parse(words)
    return options


def summary(stream: PreparedStream, seconds: float | None) -> str:
    """What is in the folder. seconds: that it took, None where it was there before."""
    parts = ", ".join(f"{stream.manifest['parts'][part]['num_tokens']:,} {part}" for part in PARTS)
    sizes = [source["num_bytes"] for source in stream.manifest["inputs"]["corpus"]["sources"]]
    rate = ""
    if seconds is not None and None not in sizes:
        rate = f", {sum(sizes) / 1e6 / max(seconds, 1e-9):.1f} MB/s ({seconds:.0f} s)"
    return f"{parts} tokens of {stream.vocab_size:,} kinds{rate}, in {stream.folder}"
