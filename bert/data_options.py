"""The options of a corpus, its tokenizer and its blocks: the same for preparing data and for training on them."""

from __future__ import annotations

import dataclasses

from nlp_adan.corpora.sample import DEFAULT_SAMPLE_BYTES


@dataclasses.dataclass
class CorpusOptions:
    """What a corpus is and what is made of it. Equal options and equal files give equal blocks."""

    data: str | None = dataclasses.field(
        default=None,
        metadata={
            "help": "A text file, a folder of .txt/.jsonl/.jsonl.gz/.parquet, a hub data set, or a folder that "
            "`prepare` made; default: built in."
        },
    )
    encoding: str = dataclasses.field(default="utf-8", metadata={"help": "Encoding of the text files."})
    text_column: str = dataclasses.field(default="text", metadata={"help": "Column of .jsonl and .parquet files."})
    documents: str = dataclasses.field(
        default="auto",
        metadata={
            "help": "A document of text files: a whole file, or what is between blank lines; auto: in a folder a file, "
            "in a file on its own what is between blank lines.",
            "choices": ["auto", "file", "blank_line"],
        },
    )
    tokenizer: str | None = dataclasses.field(
        default=None, metadata={"help": "A tokenizer's folder or hub name; default: trained on the data."}
    )
    tokenizer_kind: str = dataclasses.field(
        default="bpe", metadata={"help": "The kind to train.", "choices": ["bpe", "wordpiece"]}
    )
    vocab_size: int = dataclasses.field(default=50_265, metadata={"help": "Entries of the tokenizer to train."})
    tokenizer_sample_bytes: int = dataclasses.field(
        default=DEFAULT_SAMPLE_BYTES, metadata={"help": "Text that a tokenizer is trained on, at most."}
    )
    block_size: int = dataclasses.field(default=512, metadata={"help": "Tokens in a sequence, special ones included."})
    valid_fraction: float = dataclasses.field(default=0.01, metadata={"help": "Share of the documents held out."})
    split_seed: int = dataclasses.field(default=0, metadata={"help": "Another one holds out other documents."})
