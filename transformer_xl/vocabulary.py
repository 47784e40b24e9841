"""The tokens of a language model: words, characters or bytes, counted on the training part, commonest first.

Adaptive softmax needs that order. A vocabulary is kept as a Hugging Face tokenizer that AutoTokenizer loads; what the
text's tokens are stands in its configuration, so that it goes wherever the tokenizer is saved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from nlp_adan.corpora.text_files import check_text
from nlp_adan.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

EOS = "<eos>"
UNKNOWN = "<unk>"
UNKNOWN_CHARACTER = "\ufffd"  # Unicode's own; a longer name would be taken for several characters
NUM_CODE_POINTS = 0x110000
# In tokenizer_config.json.
RULES_KEY = "text_rules"
Unit = Literal["word", "character", "byte", "document"]


@dataclass(frozen=True)
class TextRules:
    """How a text becomes tokens.

    unit: "word": what stands between white space, and <eos> after every line, blank ones too; "character": every
    character, line ends among them; "byte": every byte; "document": what another tokenizer makes of each document (of a
    record, of what stands between blank lines of a text file; in a folder of one's own files of a whole one), and its
    separator after it. lower_case: the text is made lower case first, character by character.
    """

    unit: Unit = "word"
    lower_case: bool = False

    @property
    def is_character_level(self) -> bool:
        """Whether a loss is told in bits per character."""
        return self.unit in ("character", "byte")

    @property
    def unit_of_loss(self) -> str:
        """What a loss is told as: "bits_per_character" or "perplexity"."""
        return "bits_per_character" if self.is_character_level else "perplexity"


def rules_of(tokenizer: PreTrainedTokenizerBase) -> TextRules:
    """The rules that a tokenizer was made with; those of documents for one that is not from here."""
    stored = tokenizer.init_kwargs.get(RULES_KEY)
    return TextRules("document") if stored is None else TextRules(**stored)


def lower(text: str) -> str:
    """A text in lower case, each character alike wherever it stands (Python's own sigma ends words differently)."""
    return text.replace("\N{GREEK CAPITAL LETTER SIGMA}", "\N{GREEK SMALL LETTER SIGMA}").lower()


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in the order of their ids. Bytes stand as `byte_symbols`; unknown: the token of all others, if any."""

    tokens: tuple[str, ...]
    rules: TextRules
    unknown: str | None = None

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer of these tokens. It agrees with `encoder.TextEncoder`, which is faster.

        They differ only where a special token's name is a part of a longer word. Decoded, words stand with single
        spaces, and <eos> is a line end.
        """
        from transformers import PreTrainedTokenizerFast

        ids = {token: number for number, token in enumerate(self.tokens)}
        backend = Tokenizer(models.WordLevel(ids, unk_token=self.unknown or UNKNOWN))
        special: dict[str, Any] = {} if self.unknown is None else {"unk_token": self.unknown}
        lines: list[Any] = [normalizers.Replace(Regex("\r\n?"), "\n")]
        if self.rules.lower_case:
            lines.append(normalizers.Lowercase())
        if self.rules.unit == "word":
            special["eos_token"] = EOS
            # Python's white space has four characters more than Unicode's.
            between = [normalizers.Replace("\n", f" {EOS} "), normalizers.Replace(Regex("[\x1c-\x1f]"), " ")]
            backend.normalizer = normalizers.Sequence([*lines, *between])
            backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
            # WordPiece's decoder puts the spaces; no word begins with its prefix.
            joined = [decoders.WordPiece(prefix="\n", cleanup=False), decoders.Fuse()]
            backend.decoder = decoders.Sequence([*joined, decoders.Replace(Regex(f" ?{EOS} ?"), "\n")])
        else:
            each = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
            if self.rules.unit == "byte":
                to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
                backend.pre_tokenizer = pre_tokenizers.Sequence([to_bytes, each])
                backend.decoder = decoders.ByteLevel()
            else:
                backend.normalizer = normalizers.Sequence(lines)
                backend.pre_tokenizer = each
                backend.decoder = decoders.Fuse()
        stored = {RULES_KEY: asdict(self.rules)}
        return PreTrainedTokenizerFast(
            tokenizer_object=backend, clean_up_tokenization_spaces=False, **special, **stored
        )


def build_vocabulary(
    counts: Counter[str], rules: TextRules, max_vocab: int | None = None, min_count: int = 1
) -> Vocabulary:
    """The vocabulary of a text: <eos> first if tokens are words, then by falling count, ties by first occurrence.

    counts: of the tokens of the training part, in the order of their first occurrence; max_vocab: tokens at most, all
    included; min_count: of a token to be kept. Others become one token for the unknown, which stands where its count
    puts it, theirs included; a text that has <unk> itself has that token in any case.

    Raises: UserError where max_vocab leaves no place for a token of the text.
    """
    if rules.unit == "byte":
        symbols = byte_symbols()
        unseen = [symbol for symbol in symbols if symbol not in counts]
        return Vocabulary((*(symbol for symbol, _ in counts.most_common()), *unseen), rules)
    special = (EOS,) if rules.unit == "word" else ()
    unknown = UNKNOWN if rules.unit == "word" else UNKNOWN_CHARACTER
    ranked = [(token, count) for token, count in counts.most_common() if token not in special]
    num_kept = sum(count >= min_count for token, count in ranked if token != unknown)
    has_unknown = unknown in counts
    room = len(ranked) if max_vocab is None else max_vocab - len(special) - has_unknown
    if num_kept < len(ranked) - has_unknown or room < num_kept:  # some are left out
        room -= max_vocab is not None and not has_unknown
        if room < 1:
            raise UserError(f"--max_vocab {max_vocab} leaves no place for a {rules.unit} of the text: choose more")
        kept = [(token, count) for token, count in ranked if token != unknown]
        left_out = kept[min(num_kept, room) :]
        kept = kept[: min(num_kept, room)]
        count_unknown = counts[unknown] + sum(count for _, count in left_out)
        place = sum(count >= count_unknown for _, count in kept)
        ranked = [*kept[:place], (unknown, count_unknown), *kept[place:]]
        has_unknown = True
    return Vocabulary((*special, *(token for token, _ in ranked)), rules, unknown if has_unknown else None)


def vocabulary_from_file(path: Path, lower_case: bool = False) -> Vocabulary:
    """A vocabulary of words from a file with one of them on each line, in the order of their ids.

    Raises: UserError for a file that is not such a list, naming the line, or that lacks <eos>.
    """
    check_text(path, "utf-8")
    lines = path.read_text(encoding="utf-8").split("\n")
    words = lines[:-1] if lines[-1] == "" else lines
    first: dict[str, int] = {}
    for number, word in enumerate(words, start=1):
        if len(word.split()) != 1 or word.strip() != word:
            raise UserError(f"{path}, line {number}: {word[:40]!r} is not one word; give one on each line, by its id")
        if word in first:
            raise UserError(f"{path}, line {number}: {word!r} stands on line {first[word]} already; remove one")
        first[word] = number
    if EOS not in first:
        raise UserError(f"{path} has no {EOS}, which ends every line of a text: add it at its id")
    unknown = next((name for name in (UNKNOWN, UNKNOWN.upper()) if name in first), None)
    return Vocabulary(tuple(words), TextRules("word", lower_case), unknown)


def byte_symbols() -> list[str]:
    """The character that stands for each byte in a tokenizer's files: itself where it is visible (GPT-2's alphabet)."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(hidden)) for byte in range(256)]


def count_words(texts: Iterable[list[str]]) -> Counter[str]:
    """How often each word occurs, in the order of their first occurrence.

    All of them lie in memory, whatever `--max_vocab`: of 10,000,000 words of 9 letters 0.87 GB were measured, and
    2.4 GB at most while `build_vocabulary` ranked them.
    """
    counts: Counter[str] = Counter()
    for words in texts:
        counts.update(words)
    return counts


def count_codes(codes: Iterable[npt.NDArray[Any]], symbols: Any = chr) -> Counter[str]:
    """How often each code point or byte occurs, in the order of their first occurrence.

    codes: arrays of unsigned integers below NUM_CODE_POINTS; symbols: what stands for each.
    """
    totals = np.zeros(NUM_CODE_POINTS, dtype=np.int64)
    order: list[int] = []
    for block in codes:
        counts = np.bincount(block)
        is_new = (counts > 0) & (totals[: len(counts)] == 0)
        if is_new.any():
            found, first = np.unique(block[is_new[block]], return_index=True)
            order += found[np.argsort(first)].tolist()
        totals[: len(counts)] += counts
    return Counter({symbols(code): int(totals[code]) for code in order})
