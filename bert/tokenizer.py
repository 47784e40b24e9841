"""Tokenizers for masked language models: trained from text in RoBERTa's or BERT's manner, or loaded.

Built as a `tokenizers.Tokenizer` inside a `PreTrainedTokenizerFast`, whose whole state is `tokenizer.json`: what is
saved loads again with `AutoTokenizer` to equal ids, whatever class the model's configuration suggests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from nlp_adan.corpora import pretrained_tokenizer
from nlp_adan.errors import UserError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

TokenizerKind = Literal["bpe", "wordpiece"]
KINDS: tuple[TokenizerKind, ...] = ("bpe", "wordpiece")
# The mask stands for a word with the space before it: "a <mask> b" must not leave that space over.
BPE_MASK = AddedToken("<mask>", lstrip=True, normalized=False, special=True)
# The order gives the ids: RoBERTa's configuration expects <s>, <pad>, </s> at 0, 1, 2; BERT's expects [PAD] at 0.
BPE_SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
WORDPIECE_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NUM_BYTES_IN_ALPHABET = 256
# WordPiece: characters rarer than the commonest thousand become [UNK], as in BERT's own vocabulary.
MAX_ALPHABET = 1000
MIN_PAIR_FREQUENCY = 2
# Counted up when the same text would give another tokenizer.
TRAINER_VERSION = 2


def train_tokenizer(
    documents: Iterable[str], vocab_size: int, kind: TokenizerKind = "bpe", model_max_length: int | None = None
) -> PreTrainedTokenizerFast:
    """A tokenizer of exactly `vocab_size` tokens, special ones included; the same text gives the same tokenizer.

    documents: all of them are used (`nlp_adan.corpora.sample` bounds them); an iterator is kept in memory where it is
    needed twice; kind: "bpe" (byte-level, cased, no unknown tokens: RoBERTa's) or "wordpiece" (uncased: BERT's);
    model_max_length: tokens, None: no limit.

    Raises: UserError for a vocabulary larger than the text supports or smaller than its alphabet.
    """
    if kind not in KINDS:
        raise UserError(f"tokenizer kind {kind!r} is unknown{nearest(kind, KINDS)}; choose one of {', '.join(KINDS)}")
    if kind == "bpe":
        backend = _train_bpe(documents, vocab_size)
    else:
        backend = _train_wordpiece(list(documents) if isinstance(documents, Iterator) else documents, vocab_size)
    reached = backend.get_vocab_size()
    if reached < vocab_size:
        raise UserError(
            f"a vocabulary of {vocab_size:,} tokens is larger than the text supports: it has enough repeated pieces "
            f"for {reached:,}. Add text, or choose `--vocab_size {_round_size(reached)}` or less"
        )
    return _wrap(backend, kind, model_max_length)


def _round_size(reached: int) -> int:
    """A vocabulary size just below the one reached, easy to type."""
    unit = 8 if reached < 1000 else 100
    return max(unit, reached // unit * unit)


def _train_bpe(sample: Iterable[str], vocab_size: int) -> Tokenizer:
    smallest = NUM_BYTES_IN_ALPHABET + len(BPE_SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise UserError(
            f"a vocabulary of {vocab_size} tokens is too small for byte-level BPE, which needs the {smallest} of its "
            f"bytes and special tokens: choose `--vocab_size {smallest}` or more"
        )
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_PAIR_FREQUENCY,
        special_tokens=[*BPE_SPECIAL_TOKENS[:-1], BPE_MASK],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(sample, trainer)
    sep, cls = (("</s>", BPE_SPECIAL_TOKENS.index("</s>")), ("<s>", BPE_SPECIAL_TOKENS.index("<s>")))
    backend.post_processor = processors.RobertaProcessing(sep, cls, trim_offsets=True, add_prefix_space=False)
    return backend


def _train_wordpiece(sample: Iterable[str], vocab_size: int) -> Tokenizer:
    normalizer = normalizers.BertNormalizer(lowercase=True)
    words = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for document in sample:
        counts.update(normalizer.normalize_str(document))
    for character in [character for character in counts if character.isspace()]:
        del counts[character]
    # The trainer numbers the "##x" tokens in the order of a hash table that differs between processes, and breaks ties
    # between pairs by these numbers. Given before the training, in an order of ours, they make it deterministic.
    alphabet = sorted(sorted(counts, key=lambda character: (-counts[character], character))[:MAX_ALPHABET])
    given = [*WORDPIECE_SPECIAL_TOKENS, *alphabet, *(f"##{character}" for character in alphabet)]
    if vocab_size < len(given):
        raise UserError(
            f"a vocabulary of {vocab_size} tokens is too small for WordPiece on this text, whose alphabet and special "
            f"tokens are {len(given)}: choose `--vocab_size {len(given)}` or more"
        )
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer, trained.pre_tokenizer = normalizer, words
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_PAIR_FREQUENCY,
        special_tokens=given,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix="##",
        show_progress=False,
    )
    trained.train_from_iterator(sample, trainer)
    # A new tokenizer of that vocabulary: the trained one holds its alphabet for special tokens.
    backend = Tokenizer(models.WordPiece(trained.get_vocab(), unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizer, words
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(list(WORDPIECE_SPECIAL_TOKENS))
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return backend


def _wrap(backend: Tokenizer, kind: TokenizerKind, model_max_length: int | None) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    options: dict[str, Any] = {} if model_max_length is None else {"model_max_length": model_max_length}
    if kind == "bpe":
        return PreTrainedTokenizerFast(
            tokenizer_object=backend,
            bos_token="<s>",
            eos_token="</s>",
            cls_token="<s>",
            sep_token="</s>",
            unk_token="<unk>",
            pad_token="<pad>",
            mask_token=BPE_MASK,
            model_input_names=["input_ids", "attention_mask"],
            clean_up_tokenization_spaces=False,
            **options,
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **options,
    )


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """A tokenizer of a local folder or of the hub, for masked language models.

    Raises: UserError where there is none, or where it has no mask token.
    """
    tokenizer = pretrained_tokenizer.load_tokenizer(name_or_path)
    if tokenizer.mask_token_id is None:
        raise UserError(
            f"the tokenizer {name_or_path!r} has no mask token, which masked language modelling needs: choose that of "
            "a BERT or RoBERTa, or leave `--tokenizer` out to train one"
        )
    return tokenizer
