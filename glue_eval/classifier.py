"""The model of a fine-tuning run: a pretrained body under a fresh head, and the tokenizer that belongs to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from glue_eval.body_weights import body_problem
from glue_eval.tasks import THREE_WAY, Task
from nlp_adan.corpora.pretrained_tokenizer import num_token_ids
from nlp_adan.errors import UserError
from nlp_adan.hub import check_name
from nlp_adan.modeling.first_token import compute_first_only
from nlp_adan.weights import only_weights

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
MNLI_STARTED = ("RTE", "MRPC", "STS-B")
"""The tasks that may begin with a body fine-tuned on MNLI (Liu et al. 2019, section 5.1)."""

MIN_LENGTH = 4  # tokens of an example: two of its own beside those that frame it
_PROBED_TOKENS = 300  # of a vocabulary, spread over it

# By the families' configurations: BERT and its kin; ModernBERT; DistilBERT; DeBERTa; XLNet; GPT-2; BART.
DROPOUT_FIELDS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "classifier_dropout_prob",
    "embedding_dropout", "mlp_dropout", "attention_dropout",
    "dropout", "seq_classif_dropout", "pooler_dropout", "cls_dropout", "activation_dropout", "hidden_dropout",
    "summary_last_dropout", "summary_first_dropout", "embd_pdrop", "resid_pdrop", "attn_pdrop",
)  # fmt: skip
# Position numbers of these begin behind the padding token's: a model of 514 positions takes 512 tokens.
_OFFSET_FAMILIES = ("roberta", "xlm-roberta", "camembert", "longformer", "mpnet")


def check_model(folder: str, option: str = "--model") -> None:
    """Check that a folder holds a model with its tokenizer; a hub model's name is left for the hub to check.

    Raises:
        UserError: the folder, its configuration, its weights or its tokenizer is missing.
    """
    path = Path(folder)
    if not path.is_dir():
        is_path = folder.startswith((".", "/", "~")) or folder.count("/") > 1
        if not is_path and not ("/" in folder and path.parent.is_dir()):
            check_name(folder, option)  # of the hub: organisation/name, or an old model's bare name
            return
        raise UserError(
            f"{option}: no folder {folder!r}; name the folder that a pretraining run filled, or a model of the hub, "
            "such as google-bert/bert-base-uncased"
        )
    if not (path / "config.json").is_file() or not any((path / name).is_file() for name in WEIGHT_FILES):
        raise UserError(
            f"{option}: {folder!r} holds no finished model (config.json and model.safetensors); "
            f"name the folder that a pretraining run filled to its end"
        )
    if not (path / "tokenizer_config.json").is_file():
        raise UserError(f"{option}: {folder!r} holds no tokenizer (tokenizer_config.json); save the model's beside it")


def load_tokenizer(name_or_path: str, option: str = "--model") -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or of a hub model."""
    try:
        return AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except Exception as error:  # whatever a damaged file makes of the libraries
        there = Path(name_or_path)
        missing = there.is_dir() and not (there / "tokenizer.json").is_file()
        why = (
            "there is no tokenizer.json" if missing else f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        )
        raise UserError(
            f"{option}: no usable tokenizer in {name_or_path!r} ({why}); save the model's tokenizer into it"
        ) from error


def check_vocabulary(name: str, tokenizer: PreTrainedTokenizerBase, config: Any) -> None:
    """Raise a UserError where a tokenizer has tokens that the model has no embedding for."""
    size = getattr(config, "vocab_size", None)
    needed = num_token_ids(tokenizer)
    if isinstance(size, int) and needed > size:
        raise UserError(
            f"--model: {name!r}: its tokenizer has {needed:,} tokens, the model {size:,} (vocab_size in "
            "config.json); save the tokenizer that it was pretrained with into it"
        )


def check_mnli_model(folder: str, tokenizer: PreTrainedTokenizerBase) -> Path:
    """The folder of a model fine-tuned on MNLI, looked at.

    tokenizer: the pretrained model's, which has to make the same tokens of a text as the one in the folder.

    Raises:
        UserError: it is no folder with a finished model, or has another tokenizer.
    """
    if not Path(folder).is_dir():
        raise UserError(f"--mnli_model: {folder!r} is no folder; name the `model` folder of a run on MNLI")
    check_model(folder, "--mnli_model")
    theirs, remedy = load_tokenizer(folder, "--mnli_model"), "name one that was fine-tuned from it"
    if theirs.get_vocab() != tokenizer.get_vocab():
        raise UserError(f"--mnli_model: {folder!r} has another vocabulary than the pretrained model; {remedy}")
    for text in _probes(tokenizer):
        ours, found = (each(text, text, verbose=False)["input_ids"] for each in (tokenizer, theirs))
        if ours != found:
            raise UserError(
                f"--mnli_model: {folder!r} reads texts otherwise than the pretrained model's tokenizer, of equal "
                f"vocabulary (upper case, accents, word ends or special tokens); {remedy}"
            )
    return Path(folder)


def _probes(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Texts by which tokenizers of one vocabulary differ: their own tokens, small and capital, and what is no word."""
    vocabulary = sorted(tokenizer.get_vocab())
    words = " ".join(vocabulary[:: max(1, len(vocabulary) // _PROBED_TOKENS)])
    return [
        words,
        words.title(),
        words.upper(),
        "Don't THEY pay £5.00 for a  café, naïve résumés, 你好 or HTTP://a_b.org?",
    ]


def load_config(name_or_path: str, option: str = "--model") -> Any:
    """The configuration of a model folder or of a hub model."""
    try:
        return AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    except Exception as error:  # whatever a damaged file makes of the library
        raise _not_loaded(name_or_path, option, error) from error


def _not_loaded(name_or_path: str, option: str, error: Exception) -> UserError:
    known = isinstance(error, (OSError, ValueError, RuntimeError, SafetensorError)) and str(error)
    told = str(error).splitlines()[0] if known else f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return UserError(f"{option}: {name_or_path!r} cannot be loaded ({told}); mend its files, or take them anew")


def usable_length(task: Task, tokenizer: PreTrainedTokenizerBase, asked: int | None, config: Any = None) -> int:
    """Tokens of an example at most: what was asked for, else the task's, as far as tokenizer and model reach."""
    return min(asked or task.max_length, _reach(tokenizer, config))


def check_length(name: str, tokenizer: PreTrainedTokenizerBase, asked: int | None, config: Any) -> None:
    """Raise a UserError where a model reads no sentence, or fewer tokens than were asked for."""
    sources = "model_max_length in tokenizer_config.json, max_position_embeddings in config.json"
    length: Any = tokenizer.model_max_length
    if not isinstance(length, (int, float)):
        raise UserError(
            f"--model: {name!r}: model_max_length {length!r} in tokenizer_config.json is no number; give the tokens "
            "that the model reads, such as 512"
        )
    reach = _reach(tokenizer, config)
    if reach < MIN_LENGTH:
        raise UserError(f"--model: {name!r} reads {reach} tokens at most ({sources}); mend them")
    if asked is not None and asked > reach:
        raise UserError(f"--max_length: {asked} is more than the {reach} tokens that the model reads; give at most "
                        f"{reach}, or leave it out")  # fmt: skip


def _reach(tokenizer: PreTrainedTokenizerBase, config: Any) -> int:
    """The tokens that a model reads at most."""
    reach = int(tokenizer.model_max_length)
    if isinstance(positions := getattr(config, "max_position_embeddings", None), int) and positions > 0:
        offset = (config.pad_token_id or 0) + 1 if config.model_type in _OFFSET_FAMILIES else 0
        reach = min(reach, positions - offset)
    return reach


def load_classifier(
    name_or_path: str, task: Task, dropout: float | None = None, mnli_model: str | None = None
) -> PreTrainedModel:
    """The pretrained body under a fresh head: one output for each label, or one for a regression task.

    Where that head looks at the first token only, so does the last layer (`nlp_adan.modeling.first_token`).

    Args:
        dropout: of every kind that the model has, in place of what its configuration says.
        mnli_model: of a model fine-tuned on MNLI, whose body is taken; its head is not.

    Raises:
        UserError: the model cannot be loaded, was fine-tuned on a task already, knows no dropout, or `mnli_model` is
            no model for MNLI or another architecture.
    """
    config = load_config(name_or_path)
    _check_pretrained(name_or_path, config)
    config.num_labels = len(task.labels) if task.labels else 1
    if task.labels:
        config.id2label = dict(enumerate(task.labels))
        config.label2id = {label: number for number, label in enumerate(task.labels)}
    config.problem_type = "single_label_classification" if task.labels else "regression"
    if dropout is not None:
        set_dropout(config, dropout)
    if mnli_model is not None:
        body = _mnli_body(mnli_model, config)
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32, trust_remote_code=False)
        model.base_model.load_state_dict(body.state_dict())
    else:
        model = _load(name_or_path, config)
    compute_first_only(model)
    return model


def _load(name_or_path: str, config: Any, option: str = "--model") -> PreTrainedModel:
    try:
        with only_weights(name_or_path, option):
            model, told = AutoModelForSequenceClassification.from_pretrained(
                name_or_path, config=config, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
            )
    except UserError:
        raise
    except Exception as error:  # whatever damaged files make of the library
        if "ignore_mismatched_sizes" in str(error):
            raise UserError(
                f"{option}: {name_or_path!r}: its weights have other sizes than its config.json says"
                f"{_mismatch(name_or_path, config)}; take both from one model"
            ) from error
        raise _not_loaded(name_or_path, option, error) from error
    if problem := body_problem(model, told):
        raise UserError(f"{option}: {name_or_path!r}: {problem}")
    found: PreTrainedModel = model
    return found


def _mismatch(name_or_path: str, config: Any) -> str:
    """` (NAME: 25 x 16 instead of 99 x 16)`, the first tensor of another size."""
    with only_weights(name_or_path, "--model"):
        _, told = AutoModelForSequenceClassification.from_pretrained(
            name_or_path, config=config, trust_remote_code=False, ignore_mismatched_sizes=True, output_loading_info=True
        )
    for name, found, expected in sorted(told.get("mismatched_keys") or ()):
        return f" ({name}: {' x '.join(map(str, found))} instead of {' x '.join(map(str, expected))})"
    return ""


def _check_pretrained(name_or_path: str, config: Any) -> None:
    """A head that knows a task would be taken over without a word where it has the same number of labels."""
    for architecture in config.architectures or ():
        if "ForSequenceClassification" in architecture:
            raise UserError(
                f"--model: {name_or_path!r} was fine-tuned on a task ({architecture}); name the pretrained model, and "
                f"one fine-tuned on MNLI as `--mnli_model`"
            )


def set_dropout(config: Any, dropout: float) -> None:
    """Set every kind of dropout that a configuration has. Raises a UserError where it has none."""
    if not 0 <= dropout < 1:
        raise UserError(f"--dropout: {dropout:g} is out of range; give 0 or more and less than 1")
    found = [name for name in DROPOUT_FIELDS if hasattr(config, name)]
    if not found:
        raise UserError(f"--dropout: a {config.model_type} model has no dropout that could be set; leave it out")
    for name in found:
        setattr(config, name, dropout)


def _mnli_body(folder: str, config: Any) -> Any:
    check_model(folder, "--mnli_model")
    theirs = load_config(folder, "--mnli_model")
    if not any("ForSequenceClassification" in name for name in theirs.architectures or ()):
        raise UserError(
            f"--mnli_model: {folder!r} was not fine-tuned on a task ({', '.join(theirs.architectures or ['unknown'])})"
            "; name the `model` folder of a run on MNLI (`--tasks MNLI --save_models`)"
        )
    if theirs.num_labels != len(THREE_WAY):
        raise UserError(
            f"--mnli_model: {folder!r} tells {theirs.num_labels} labels apart, MNLI has {len(THREE_WAY)}; "
            "name the `model` folder of a run on MNLI (`--tasks MNLI --save_models`)"
        )
    for name in ("model_type", "vocab_size", "hidden_size", "num_hidden_layers"):
        if getattr(theirs, name, None) != getattr(config, name, None):
            raise UserError(
                f"--mnli_model: {folder!r} has {name} {getattr(theirs, name, None)!r}, the pretrained model "
                f"{getattr(config, name, None)!r}; name one that was fine-tuned from it"
            )
    return _load(folder, theirs, "--mnli_model").base_model
