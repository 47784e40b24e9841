"""Token ids of documents, fast: the ids of a document are those of its words, and a word is tokenized once.

Run as a script it is a worker process: `nlp_adan.corpora.encoding` starts it and sends it batches of documents. It
needs nothing but the standard library and `tokenizers`: it starts in a sixth of a second and takes little memory.

What a "word" is depends on the tokenizer. A document may be cut where the tokenizer itself always cuts, whatever stands
before and after; the patterns below cut only there. Around characters outside of ASCII they cut at white space only and
leave the rest to the tokenizer. For tokenizers of another make a document is one word, and nothing is kept.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from array import array
from collections.abc import Sequence
from typing import BinaryIO

from tokenizers import Tokenizer

# The words kept are forgotten, all of them, when so many or so many characters of them are there: about 100 MB.
MAX_KEPT_WORDS = 400_000
MAX_KEPT_CHARS = 1 << 23
# A longer word comes rarely twice; text without spaces is one.
MAX_WORD_CHARS = 48

# Tokenized both ways when an encoder is made, so that every process decides alike.
TRIAL_TEXT = (
    "It's the dogs' 3rd try, isn't it?  We'll see: \"they've\"\n\n\twon 1,234.5 -- (or 20%)...\r\n"
    "Caf\u00e9 na\u00efve \u00bdx 3\u00b2 \u2014 \u201cquoted\u201d \u4e2d\u6587\u5b57 \u3053\u3093 e\u0301 "
    "a\u00a0b \U0001f600! "
    "snake_case CamelCase x=y+z; http://a.b/c?d=e#f \x1c\x7f end "
)

_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # Unicode's White_Space
_ASCII_ONLY_NEXT = r"(?![^\x00-\x7f])"  # else a letter outside of ASCII may belong to the same word
# GPT-2's pattern, which ByteLevel has; the order of alternatives that cannot match at the same place is free.
BYTE_LEVEL_WORDS = re.compile(
    rf" ?[A-Za-z]++{_ASCII_ONLY_NEXT}"
    r"|'(?:[sdmt]|ll|ve|re)"
    rf"| ?[^\sA-Za-z0-9\x1c-\x1f\x80-\U0010ffff]++(?![^\x00-\x7f]|[\x1c-\x1f])"
    rf"| ?[0-9]++{_ASCII_ONLY_NEXT}"
    rf"| ?[^{_SPACE}]++"
    rf"|[{_SPACE}]+(?![^{_SPACE}])|[{_SPACE}]+"
)
# BERT's: words between white space, each ASCII punctuation mark by itself. Its normalizer drops control characters.
BERT_WORDS = re.compile(
    r"[A-Za-z0-9]++(?![^ -~\t\n\r])|[!-/:-@\[-`{-~](?![^ -~\t\n\r])|[^ \t\n\r]++",
)


def words_pattern(state: dict) -> re.Pattern[str] | None:
    """The pattern of the words that a tokenizer (its JSON form) treats one by one; None where we know none."""
    model, normalizer, cutter = state["model"], state["normalizer"], state["pre_tokenizer"]
    if cutter is None or model.get("dropout") or any(token["normalized"] for token in state["added_tokens"]):
        return None
    if normalizer is None and cutter == {**cutter, "type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
        return BYTE_LEVEL_WORDS if model["type"] == "BPE" else None
    if normalizer is not None and normalizer["type"] == "BertNormalizer" and normalizer["clean_text"]:
        return BERT_WORDS if cutter["type"] == "BertPreTokenizer" and model["type"] == "WordPiece" else None
    return None


class WordEncoder:
    """Encodes documents without special tokens at their ends.

    state: the tokenizer as JSON text; type_code: "H" (uint16) or "I" (uint32), what ids are packed as.
    """

    def __init__(self, state: str, type_code: str) -> None:
        self.type_code = type_code
        self._tokenizer = Tokenizer.from_str(state)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        parsed = json.loads(state)
        self._pattern = words_pattern(parsed)
        # A special token in a text is found before the text is cut into words: such documents go the long way.
        self._added = [token["content"] for token in parsed["added_tokens"]]
        self._kept: dict[str, bytes] = {}
        self._num_kept_chars = 0
        # What we know of the tokenizer may be wrong in another version of the library: then do without.
        if self._pattern is not None and self._by_words(TRIAL_TEXT) != self._whole([TRIAL_TEXT])[0]:
            self._pattern = None

    def encode(self, documents: Sequence[str]) -> list[bytes]:
        """The ids of each document, packed."""
        if self._pattern is None:
            return self._whole(documents)
        return [self._by_words(document) for document in documents]

    def _whole(self, documents: Sequence[str]) -> list[bytes]:
        encodings = self._tokenizer.encode_batch_fast(list(documents), add_special_tokens=False)
        return [array(self.type_code, encoding.ids).tobytes() for encoding in encodings]

    def _by_words(self, document: str) -> bytes:
        assert self._pattern is not None
        if any(token in document for token in self._added):
            return self._whole([document])[0]
        words = self._pattern.findall(document)
        try:
            return b"".join(map(self._kept.__getitem__, words))
        except KeyError:
            pass
        new = list(set(words).difference(self._kept))
        ids = dict(zip(new, self._whole(new), strict=True))
        if len(self._kept) > MAX_KEPT_WORDS or self._num_kept_chars > MAX_KEPT_CHARS:
            self._kept.clear()
            self._num_kept_chars = 0
            return self._by_words(document)
        long = [word for word in new if len(word) > MAX_WORD_CHARS]
        self._kept.update(ids)
        packed = b"".join(map(self._kept.__getitem__, words))
        for word in long:
            del self._kept[word]
        self._num_kept_chars += sum(map(len, new)) - sum(map(len, long))
        return packed


def send(stream: BinaryIO, parts: Sequence[bytes]) -> None:
    """Write some byte strings: how many there are, the length of each (int64), then all of them."""
    stream.write(array("q", [len(parts), *map(len, parts)]).tobytes())
    stream.write(b"".join(parts))
    stream.flush()


def receive(stream: BinaryIO) -> list[bytes]:
    """What the other side `send`s.

    Raises: EOFError where it has closed the stream.
    """
    (count,) = _numbers(stream, 1)
    parts, begin = [], 0
    lengths = _numbers(stream, count)
    content = _exactly(stream, sum(lengths))
    for length in lengths:
        parts.append(content[begin : begin + length])
        begin += length
    return parts


def _numbers(stream: BinaryIO, count: int) -> array[int]:
    return array("q", _exactly(stream, 8 * count))


def _exactly(stream: BinaryIO, num_bytes: int) -> bytes:
    content = stream.read(num_bytes)
    if len(content) < num_bytes:
        raise EOFError
    return content


def main() -> None:
    """Serve: first the tokenizer and the type code, then batches of documents in UTF-8, until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the parent decides
    # What a library prints must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        state, type_code = receive(sys.stdin.buffer)
        encoder = WordEncoder(state.decode(), type_code.decode())
        while True:
            send(answers, encoder.encode([document.decode() for document in receive(sys.stdin.buffer)]))
    except (EOFError, BrokenPipeError):
        return


if __name__ == "__main__":
    main()
