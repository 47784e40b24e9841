"""`python -m transformer_xl convert`: a checkpoint of the research code (kimiyoung/transformer-xl) as one of ours.

STATE.pt is that code's `model.state_dict()`, CONFIG.json the options that the model was built with, by its names.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nlp_adan.errors import UserError, nearest
from nlp_adan.storage import new_folder
from nlp_adan.training.engine import quiet_libraries

from .configuration import LEAST, MOST, TransformerXLConfig, check_config
from .model import TransformerXLForCausalLM, tied_parameters
from .vocabulary import Vocabulary, vocabulary_from_file

# The research code's options that we call otherwise.
RENAMED = {"n_token": "vocab_size"}
REQUIRED = (
    "n_token", "n_layer", "n_head", "d_model", "d_head", "d_inner", "d_embed", "cutoffs", "tie_projs", "div_val",
    "pre_lnorm", "tie_weight", "tgt_len", "mem_len", "same_length", "clamp_len",
)  # fmt: skip
OPTIONAL = ("dropout", "dropatt", "init_std", "proj_init_std")
SIZES = ("n_token", "d_model", "d_inner", "d_embed")
FLAGS = ("pre_lnorm", "tie_weight", "same_length")
# What the option has to be: of the others we have no model.
FIXED = {"attn_type": 0, "ext_len": 0}

AS_THE_MODEL = ("d_embed", -1)  # the research code's way to say: as wide as the model
MAX_SHOWN_CHARS = 60

# The research code's name of a parameter: ours. `{}` is a number, the same in both.
PARAMETERS = {
    "word_emb.emb_layers.{}.weight": "embedding.weight_{}",
    "word_emb.emb_projs.{}": "embedding.proj_{}",
    "crit.out_layers.{}.weight": "softmax.weight_{}",
    "crit.out_layers.{}.bias": "softmax.bias_{}",
    "crit.out_projs.{}": "softmax.proj_{}",
    "crit.cluster_{}": "softmax.cluster_{}",
    "r_{}_bias": "r_{}_bias",
    "layers.{}.dec_attn.qkv_net.weight": "layers.{}.attention.qkv_weight",
    "layers.{}.dec_attn.r_net.weight": "layers.{}.attention.r_net.weight",
    "layers.{}.dec_attn.o_net.weight": "layers.{}.attention.o_net.weight",
    "layers.{}.dec_attn.layer_norm.{}": "layers.{}.attention.layer_norm.{}",
    "layers.{}.pos_ff.CoreNet.0.{}": "layers.{}.feed_forward.inner.{}",
    "layers.{}.pos_ff.CoreNet.3.{}": "layers.{}.feed_forward.outer.{}",
    "layers.{}.pos_ff.layer_norm.{}": "layers.{}.feed_forward.layer_norm.{}",
}
# A buffer, computed from d_model.
COMPUTED = "pos_emb.inv_freq"


def main(words: Sequence[str]) -> None:
    """Read the command line, convert, say where the model is."""
    quiet_libraries()
    options = _parse(words)
    output = Path(options.output_dir).expanduser()
    if output.exists() or output.is_symlink():
        raise UserError(f"--output_dir: {options.output_dir!r} exists; name a new folder")
    config = read_config(Path(options.config))
    tokenizer = None
    if options.vocab is not None:
        tokenizer = read_vocabulary(Path(options.vocab), options.lower_case, config).tokenizer()
        config.eos_token_id = tokenizer.eos_token_id
    elif options.lower_case:
        raise UserError("--lower_case: it says how text becomes the words of `--vocab`; give that too")
    model = build_model(read_state(Path(options.state)), config, options.state)
    try:
        with new_folder(output) as folder:
            model.save_pretrained(folder)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
    except OSError as error:
        raise UserError(f"--output_dir: {options.output_dir!r} cannot be written ({error})") from error
    with_it = f"the vocabulary of {options.vocab}" if tokenizer is not None else "no vocabulary (see --vocab)"
    print(f"{options.output_dir}: {model.num_parameters():,} parameters, {with_it}")


def read_vocabulary(path: Path, lower_case: bool, config: TransformerXLConfig) -> Vocabulary:
    """The words of a file, one on each line, which must be as many as the model has tokens."""
    if not path.is_file():
        raise UserError(f"--vocab: no file {str(path)!r}")
    vocabulary = vocabulary_from_file(path, lower_case)
    if len(vocabulary.tokens) != config.vocab_size:
        raise UserError(
            f"--vocab: {path} has {len(vocabulary.tokens):,} words, the configuration's n_token is "
            f"{config.vocab_size:,}; give the words that the model was trained with, in the order of their ids"
        )
    return vocabulary


def original_name(name: str) -> str:
    """The research code's name of a parameter of ours."""
    for theirs, ours in PARAMETERS.items():
        if match := re.fullmatch(re.escape(ours).replace(r"\{\}", "([a-z0-9]+)"), name):
            return theirs.format(*match.groups())
    raise KeyError(name)


def build_model(state: Mapping[str, Tensor], config: TransformerXLConfig, source: str) -> TransformerXLForCausalLM:
    """The model of a research code's state dict, in float32.

    Args:
        source: what the state dict was read from, for the messages.

    Raises: UserError that names the parameters that are missing, too many or of another shape, or that are not the
        same where the configuration says so.
    """
    _check_sizes(config, state, source)
    with torch.device("meta"):
        model = TransformerXLForCausalLM(config)
    expected = {original_name(name): (name, parameter) for name, parameter in model.state_dict().items()}
    _check_names(expected, state, source)
    ours = {}
    for theirs, (name, parameter) in expected.items():
        # The biases of all heads lie in one row here.
        shape = (config.n_head, config.d_head) if name in ("r_w_bias", "r_r_bias") else tuple(parameter.shape)
        found = state[theirs]
        if tuple(found.shape) != shape or not found.is_floating_point():
            raise UserError(
                f"{source}: {theirs} is {found.dtype} {tuple(found.shape)} where the configuration makes it "
                f"{parameter.dtype} {shape}; give the options that the model was trained with"
            )
        ours[name] = found.detach().reshape(parameter.shape).float()
    for name, other in tied_parameters(config).items():
        if not torch.equal(ours[name], ours[other]):
            option = "tie_projs" if ".proj_" in name else "tie_weight"
            raise UserError(
                f"{source}: {original_name(name)} and {original_name(other)} differ, where {option} of the "
                f"configuration makes them one; set `{option}` as in training"
            )
    model.load_state_dict(ours, assign=True)
    model.tie_weights()
    return model.eval()


def _check_sizes(config: TransformerXLConfig, state: Mapping[str, Tensor], source: str) -> None:
    """Raises: UserError for a size that no parameter of the state can have, before anything of that size is made."""
    total = sum(sum(tensor.shape) for tensor in state.values())
    sizes = {theirs: getattr(config, RENAMED.get(theirs, theirs)) for theirs in SIZES}
    sizes["n_head x d_head"] = config.attention_width
    sizes["n_layer"] = config.n_layer
    for name, size in sizes.items():
        if size > (len(state) if name == "n_layer" else total):
            raise UserError(
                f"{source}: {name} {size:,} is more than its {len(state):,} parameters can have; give the options "
                "that the model was trained with"
            )


def _check_names(expected: Mapping[str, Any], state: Mapping[str, Tensor], source: str) -> None:
    missing = [name for name in expected if name not in state]
    extra = [name for name in state if name not in expected and name != COMPUTED]
    for names, what in ((missing, "has no"), (extra, "has more than the configuration's model:")):
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise UserError(f"{source} {what} {shown}; give the options that the model was trained with")


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, without the prefix that DataParallel puts before each name.

    Raises: UserError for a file that is not there, or holds anything but tensors.
    """
    how = "save `model.state_dict()` in the research code with `torch.save`"
    if not path.is_file():
        raise UserError(f"no file {str(path)!r}: name the saved state dict")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch makes of such a file
        raise UserError(
            f"{path} is no state dict that loads without running code of its own; {how} "
            f"({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        ) from error
    if not isinstance(state, Mapping) or not state:
        raise UserError(f"{path} holds a {type(state).__name__}, not parameters by name; {how}")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(f"{path}: {name!r} is a {type(value).__name__}, not a parameter; {how}")
    return {name.removeprefix("module."): value for name, value in state.items()}


def read_config(path: Path) -> TransformerXLConfig:
    """The configuration that a JSON file of the research code's options describes.

    Raises: UserError for a file that is not there or no JSON object, for an option that is missing, unknown or of no
        such value, and for a kind of model that we do not have.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config: no file {str(path)!r} that can be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"--config: {path} is no JSON ({error})") from error
    if not isinstance(given, dict):
        raise UserError(f"--config: {path} holds a {type(given).__name__}; give an object of options")
    known = (*REQUIRED, *OPTIONAL, *FIXED)
    for name in given:
        if name not in known:
            raise UserError(f"--config: {path}: unknown option {name!r}{nearest(name, known)}; leave it out")
    if missing := [name for name in REQUIRED if name not in given]:
        raise UserError(f"--config: {path} says nothing of {', '.join(missing)}; add what the model was trained with")
    for name, value in FIXED.items():
        found = given.pop(name, value)
        if type(found) is not int or found != value:
            raise UserError(
                f"--config: {path}: {name} is {_shown(found)}; only models with `{name}` {value} can be converted"
            )
    for name, value in given.items():
        _check_value(f"--config: {path}: {name}", name, value)
    if ("d_embed", given["d_embed"]) == AS_THE_MODEL:
        given["d_embed"] = given["d_model"]
    values: dict[str, Any] = {str(RENAMED.get(name, name)): value for name, value in given.items()}
    try:
        config = TransformerXLConfig(**values)
        check_config(config)
    except UserError as error:
        raise UserError(f"--config: {path}: {error}") from error
    return config


def _check_value(where: str, name: str, value: Any) -> None:
    if name in OPTIONAL:
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < MOST
        wanted = "a number, 0 or more"
    elif name in FLAGS:
        good, wanted = isinstance(value, bool), "true or false"
    elif name in ("cutoffs", "tie_projs"):
        kind = int if name == "cutoffs" else bool
        good = isinstance(value, list) and all(type(item) is kind and item <= MOST for item in value)
        wanted = "a list of numbers of tokens" if name == "cutoffs" else "a list of true and false"
    else:
        least = LEAST[RENAMED.get(name, name)]
        good = type(value) is int and (least <= value <= MOST or (name, value) == AS_THE_MODEL)
        wanted = f"a whole number from {least} to {MOST}"
    if not good:
        raise UserError(f"{where} is {_shown(value)}; give {wanted}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."


def _parse(words: Sequence[str]) -> Any:
    parser = argparse.ArgumentParser(prog="python -m transformer_xl convert", description=__doc__, allow_abbrev=False)
    parser.add_argument("state", metavar="STATE.pt", help="`model.state_dict()` of the research code")
    parser.add_argument("--config", required=True, help=f"a JSON file with {', '.join(REQUIRED)}")
    parser.add_argument("--output_dir", required=True, help="the folder to make")
    parser.add_argument(
        "--vocab", help="the vocabulary's words (its `idx2sym`), one on each line; without it, no text can be read"
    )
    parser.add_argument("--lower_case", action="store_true", help="text is made lower case before its words are sought")
    return parser.parse_args(words)
