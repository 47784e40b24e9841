"""The options of a corpus, its tokenizer and its blocks: the same for preparing data and for training on them."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class CorpusOptions:
    """What a corpus is and what is made of it. Equal options and equal files give equal blocks."""

    data: str | None = dataclasses.field(
        default=None,
        metadata={
            "help": "A text file, a folder of .txt/.jsonl/.jsonl.gz/.parquet, or a hub data set; default: built in."
        },
    )
    encoding: str = dataclasses.field(default="utf-8", metadata={"help": "Encoding of the text files."})
    text_column: str = dataclasses.field(default="text", metadata={"help": "Column of .jsonl and .parquet files."})
    tokenizer: str | None = dataclasses.field(
        default=None, metadata={"help": "A tokenizer's folder or hub name; default: trained on the data."}
    )
    tokenizer_kind: str = dataclasses.field(
        default="bpe", metadata={"help": "The kind to train.", "choices": ["bpe", "wordpiece"]}
    )
    vocab_size: int = dataclasses.field(default=50_265, metadata={"help": "Entries of the tokenizer to train."})
    block_size: int = dataclasses.field(default=512, metadata={"help": "Tokens in a sequence, special ones included."})
    valid_fraction: float = dataclasses.field(default=0.01, metadata={"help": "Share of the documents held out."})
