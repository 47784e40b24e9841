"""`python -m transformer_xl generate`: text that goes on from a prompt, with the model's memory."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.logits_process import (
    LogitsProcessorList,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from nlp_adan.errors import UserError
from nlp_adan.training.engine import quiet_libraries
from nlp_adan.training.recipe import check_range

from .encoder import TextEncoder
from .loading import check_vocabulary, load_model, load_vocabulary, nominal_length
from .vocabulary import rules_of


def main(words: Sequence[str]) -> None:
    """Read the command line, print the prompt and what follows it."""
    quiet_libraries()
    options = _parse(words)
    check_range("max_new_tokens", options.max_new_tokens, 1)
    if options.temperature:  # 0 takes the likeliest token
        check_range("temperature", options.temperature, 0.01, 100)
    if options.seed is not None:
        check_range("seed", options.seed, 0, 2**63 - 1)
    if any("\udc80" <= character <= "\udcff" for character in options.prompt):
        raise UserError("--prompt: it is not UTF-8; give it in that encoding")
    check_range("top_k", options.top_k, 0)
    check_range("top_p", options.top_p, 0, 1)
    model = load_model(options.model, {} if options.mem_len is None else {"mem_len": options.mem_len})
    tokenizer = load_vocabulary(options.model)
    check_vocabulary(options.model, model, tokenizer)
    encoder = TextEncoder(tokenizer, rules_of(tokenizer))
    ids, num_unknown = encoder.encode_text(options.prompt), encoder.tally.num_unknown
    if len(ids) == 0:
        raise UserError("--prompt: it has no token; give some text to go on from")
    if num_unknown:
        print(f"(of the prompt, {num_unknown} word(s) are outside the vocabulary and read as <unk>)", flush=True)
    if options.seed is not None:
        torch.manual_seed(options.seed)
    unknown = [] if options.allow_unknown or tokenizer.unk_token_id is None else [tokenizer.unk_token_id]
    processors = sampling(options.temperature, options.top_k, options.top_p, unknown, str(model.device))
    prompt = torch.as_tensor(ids.astype("int64"), device=model.device)
    new = list(
        sample(model, prompt, options.max_new_tokens, processors, options.temperature > 0, nominal_length(model, None))
    )
    print(text_of(tokenizer, [*prompt.tolist(), *new]))


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Tokens as text; of words, each end of a line begins a new one."""
    if rules_of(tokenizer).unit != "word":
        return str(tokenizer.decode(list(ids)))
    words = [str(word) for word in tokenizer.convert_ids_to_tokens(list(ids))]
    lines = " ".join(words).split(str(tokenizer.eos_token))
    return "\n".join(line.strip() for line in lines)


def sampling(
    temperature: float, top_k: int, top_p: float, suppressed: Sequence[int], device: str
) -> LogitsProcessorList:
    """What is done with log-probabilities before a token is drawn; 0 for `top_k` or `top_p`: not cut."""
    processors = LogitsProcessorList()
    if suppressed:
        processors.append(SuppressTokensLogitsProcessor(list(suppressed), device))
    if temperature > 0:
        processors.append(TemperatureLogitsWarper(temperature))
    if top_k:
        processors.append(TopKLogitsWarper(top_k))
    if 0 < top_p < 1:
        processors.append(TopPLogitsWarper(top_p))
    return processors


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompt: Tensor,
    max_new_tokens: int,
    processors: LogitsProcessorList,
    draws: bool,
    length: int,
) -> Iterator[int]:
    """Tokens that follow a prompt, one by one; each is read once, what was before is in the memory.

    Args:
        prompt: (num_tokens,) int64, at least one; read in segments of `length` tokens.
        draws: whether tokens are drawn, or the likeliest is taken.
    """
    mems: Any = None
    ids = prompt[None]
    *before, last = ids[:, :-1].split(length, dim=1) if ids.shape[1] > 1 else [ids[:, :0]]
    for segment in (*before, last):
        if segment.shape[1]:
            mems = model(segment, mems=mems, labels=segment).mems  # labels: no logits of the whole vocabulary
    token = ids[:, -1:]
    for _ in range(max_new_tokens):
        output = model(token, mems=mems)
        mems = output.mems
        scores = processors(ids, output.logits[:, -1].float())
        token = torch.multinomial(scores.softmax(-1), 1) if draws else scores.argmax(-1, keepdim=True)
        ids = torch.cat([ids, token], dim=1)
        yield int(token)


def _parse(words: Sequence[str]) -> Any:
    parser = argparse.ArgumentParser(prog="python -m transformer_xl generate", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", required=True, help="a model's folder or hub name")
    parser.add_argument("--prompt", required=True, help="the text to go on from")
    parser.add_argument("--max_new_tokens", type=int, default=100)
    parser.add_argument("--temperature", type=float, default=1.0, help="0: always the likeliest token")
    parser.add_argument("--top_k", type=int, default=50, help="draw from the so many likeliest; 0: from all")
    parser.add_argument("--top_p", type=float, default=0.0, help="draw from the likeliest of this share; 0: from all")
    parser.add_argument("--mem_len", type=int, help="positions that each layer remembers; default: as trained")
    parser.add_argument("--allow_unknown", action="store_true", help="may give <unk>")
    parser.add_argument("--seed", type=int, help="another one draws another text; default: none is fixed")
    return parser.parse_args(words)
