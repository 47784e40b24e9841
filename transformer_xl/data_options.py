"""The options of a text and its vocabulary: the same for preparing a stream and for training on it."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class StreamOptions:
    """What a text is and what its tokens are. Equal options and equal files give equal streams."""

    data: str | None = dataclasses.field(
        default=None,
        metadata={
            "help": "A folder (or prefix) of train/valid/test files as WikiText and PTB have them, enwik8 or text8, a "
            "text file, a folder of .txt/.jsonl/.jsonl.gz/.parquet, a hub data set, or a prepared stream; default: "
            "built in."
        },
    )
    encoding: str = dataclasses.field(default="utf-8", metadata={"help": "Encoding of the text files."})
    text_column: str = dataclasses.field(default="text", metadata={"help": "Column of .jsonl and .parquet files."})
    unit: str = dataclasses.field(
        default="auto",
        metadata={
            "help": "What a token is; auto: bytes of a file enwik8, characters of a file text8, words of any other.",
            "choices": ["auto", "word", "character", "byte"],
        },
    )
    lower_case: bool = dataclasses.field(default=False, metadata={"help": "Make the text lower case."})
    max_vocab: int | None = dataclasses.field(
        default=None, metadata={"help": "Tokens of the vocabulary at most: the commonest; others become <unk>."}
    )
    min_count: int = dataclasses.field(
        default=1, metadata={"help": "Words that the training part has less often become <unk>."}
    )
    tokenizer: str | None = dataclasses.field(
        default=None,
        metadata={"help": "A tokenizer's folder or hub name; default: a vocabulary counted on the training part."},
    )
    valid_fraction: float = dataclasses.field(
        default=0.05, metadata={"help": "Share for validation of a text without parts of its own: before the test's."}
    )
    test_fraction: float = dataclasses.field(
        default=0.05, metadata={"help": "Share for the test of a text without parts of its own: its end."}
    )
