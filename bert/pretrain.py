"""Pretraining of a masked language model: raw text in, a model folder that `from_pretrained` loads out."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import EvalPrediction, PretrainedConfig, PreTrainedTokenizerBase

from bert.data_options import CorpusOptions
from bert.masking import IGNORED_LABEL, MaskedBlocks, MaskingCollator
from bert.model import STATISTICS, build_model
from bert.model_options import ModelOptions, model_config, num_positions
from bert.prepare import PreparedData, prepare_pretraining_data
from nlp_adan.errors import UserError
from nlp_adan.storage import write_json
from nlp_adan.training.callbacks import RunLog
from nlp_adan.training.engine import Engine, EngineOptions, quiet_libraries
from nlp_adan.training.recipe import (
    CommandParser,
    check_range,
    find_recipe,
    parse_with_recipe,
    read_recipe,
    recipe_names,
    resolved,
    word_value,
)
from nlp_adan.training.run_folder import RunFolder, checkpoint_step

DATA_RECORD = "data.json"  # in the run's folder: which prepared data it trains on
RECIPES = Path(__file__).parent / "recipes"


@dataclasses.dataclass
class DataOptions(CorpusOptions):
    """The text, its tokenizer and its masking."""

    recipe: str = dataclasses.field(default="tiny", metadata={"help": "A recipe's name, or a .yaml file's path."})
    max_valid_blocks: int = dataclasses.field(default=2048, metadata={"help": "At most so many blocks are validated."})
    mask_probability: float = dataclasses.field(default=0.15, metadata={"help": "Share of the tokens to predict."})


def command_parser() -> CommandParser:
    """The parser of `run_pretrain.py bert`."""
    return CommandParser(
        (DataOptions, ModelOptions, EngineOptions),
        prog="run_pretrain.py bert",
        description=f"Pretrain a BERT from scratch. Recipes: {', '.join(recipe_names(RECIPES))}.",
    )


def main(words: Sequence[str]) -> None:
    """`run_pretrain.py bert WORDS`: train, save, evaluate; returns when the run is finished."""
    quiet_libraries()
    data, model, engine = parse_options(words)
    run = RunFolder(engine.output_dir)
    options = resolved(data, model, engine)
    checkpoint = run.checkpoint_to_resume(options, engine.resume)
    if run.finished:
        if engine.process_index == 0:
            print(f"{run.path} holds this run, finished: nothing to do")
        return
    # Every rank has looked at the folder before any of them leaves this block, and rank 0 writes into it.
    with engine.main_process_first(desc="data preparation"):
        prepared, tokenizer = prepare(data)
    check_same_data(run, prepared, resumes=checkpoint is not None)
    config = model_config(model, tokenizer, data.block_size)
    tokenizer.model_max_length = num_positions(config)
    trainer = make_trainer(data, engine, prepared, tokenizer, config, run)
    if engine.process_index == 0:
        run.claim(options, resumed_step=checkpoint_step(checkpoint) if checkpoint else 0)
        write_json(run.path / DATA_RECORD, {"key": prepared.manifest["key"], "folder": str(prepared.folder)})
        print_plan(trainer, prepared)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    metrics = trainer.evaluate()
    if not math.isfinite(metrics["eval_mlm_loss"]):
        raise UserError(
            f"the run diverged: its validation loss is {metrics['eval_mlm_loss']}; "
            f"start again with a lower --learning_rate (now {engine.learning_rate:g}) in another --output_dir"
        )
    if trainer.is_world_process_zero():
        run.finish({**metrics, "step": trainer.state.global_step})
        print_result(metrics, run.path)


def check_same_data(run: RunFolder, prepared: PreparedData, resumes: bool) -> None:
    """Refuse to go on with other text or another tokenizer than the run began with: its token ids mean others."""
    record = run.path / DATA_RECORD
    if not resumes or not record.is_file():
        return
    if json.loads(record.read_text(encoding="utf-8"))["key"] != prepared.manifest["key"]:
        raise UserError(
            f"--resume: the data or the tokenizer changed since {str(run.path)!r} began; "
            f"bring them back, or start again in another --output_dir"
        )


def parse_options(words: Sequence[str]) -> tuple[DataOptions, ModelOptions, EngineOptions]:
    """The option objects of a command line, the recipe's values under the user's."""
    parser = command_parser()
    path = find_recipe(word_value("--recipe", words) or DataOptions.recipe, RECIPES)
    data, model, engine = parse_with_recipe(parser, read_recipe(path), path, words)
    check_range("mask_probability", data.mask_probability, 0.01, 0.99)
    check_range("max_valid_blocks", data.max_valid_blocks, 1)
    check_range("vocab_size", data.vocab_size, 1)
    return data, model, engine


def prepare(data: DataOptions) -> tuple[PreparedData, PreTrainedTokenizerBase]:
    """Token blocks and tokenizer for the options, from the cache where they are in it."""
    try:
        return prepare_pretraining_data(
            data.data,
            encoding=data.encoding,
            text_column=data.text_column,
            tokenizer_name_or_path=data.tokenizer,
            vocab_size=data.vocab_size,
            tokenizer_kind="wordpiece" if data.tokenizer_kind == "wordpiece" else "bpe",
            block_size=data.block_size,
            valid_fraction=data.valid_fraction,
        )
    except OSError as error:
        raise UserError(
            f"{error.filename or data.data}: {error.strerror or error}; check permissions and free space there "
            f"(NLP_ADAN_CACHE names another folder for the cache)"
        ) from error


def make_trainer(
    data: DataOptions,
    engine: EngineOptions,
    prepared: PreparedData,
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    run: RunFolder,
) -> Engine:
    """The engine, set up for masked language modelling on prepared blocks."""
    collator = MaskingCollator(
        mask_token_id=tokenizer.mask_token_id,
        special_token_ids=tokenizer.all_special_ids,
        vocab_size=len(tokenizer),
        mask_probability=data.mask_probability,
        seed=engine.seed if engine.data_seed is None else engine.data_seed,
    )
    return Engine(
        model_init=lambda: build_model(config),
        args=engine,
        data_collator=collator,
        processing_class=tokenizer,
        train_dataset=MaskedBlocks(prepared.train),
        eval_dataset=MaskedBlocks(prepared.valid.head(data.max_valid_blocks)),
        compute_metrics=lambda prediction: masked_lm_metrics(prediction, prepared.unigram_counts),
        callbacks=[RunLog(run, engine.num_sequences_per_step * data.block_size)],
    )


def masked_lm_metrics(prediction: EvalPrediction, unigram_counts: np.ndarray) -> dict[str, float]:
    """Figures over all masked tokens of the validation blocks; losses in nats a token.

    Args:
        prediction: `predictions` (num_blocks, 4), `bert.model.STATISTICS`; `label_ids` (num_blocks, block_size).
        unigram_counts: (vocab,) int64, how often each token stands in the training blocks.
    """
    totals = dict(zip(STATISTICS, prediction.predictions.astype(np.float64).sum(axis=0), strict=True))
    targets = prediction.label_ids[prediction.label_ids != IGNORED_LABEL]
    unigram = (unigram_counts + 1) / (unigram_counts.sum() + len(unigram_counts))  # add one: none is impossible
    commonest = np.argsort(-unigram_counts, kind="stable")[:5]
    return {
        "mlm_loss": totals["loss_sum"] / totals["num_masked"],
        "unigram_cross_entropy": float(-np.log(unigram[targets]).mean()),
        "top1_accuracy": totals["num_top1_correct"] / totals["num_masked"],
        "top5_accuracy": totals["num_top5_correct"] / totals["num_masked"],
        "five_commonest_accuracy": float(np.isin(targets, commonest).mean()),
        "masked_tokens": int(totals["num_masked"]),
    }


def print_plan(trainer: Engine, prepared: PreparedData) -> None:
    """One line about the run that begins."""
    args: Any = trainer.args
    num_steps = args.max_steps
    if num_steps < 0:
        num_steps = math.ceil(len(prepared.train) / args.num_sequences_per_step * args.num_train_epochs)
    num_parameters = sum(param.numel() for param in trainer.model.parameters())
    print(
        f"{trainer.model.config.model_type}: {num_parameters / 1e6:.1f} M parameters, "
        f"{len(prepared.train):,} training blocks of {prepared.train.block_size} tokens; {num_steps:,} steps of "
        f"{args.num_sequences_per_step} blocks on {args.world_size} rank(s), optimizer {args.optim.value}",
        flush=True,
    )


def print_result(metrics: dict[str, Any], folder: Path) -> None:
    """The final figures beside what guessing reaches."""
    print(
        f"validation MLM loss {metrics['eval_mlm_loss']:.3f} nats "
        f"(unigram cross-entropy of the same tokens: {metrics['eval_unigram_cross_entropy']:.3f}), "
        f"top-5 accuracy {metrics['eval_top5_accuracy']:.3f} "
        f"(always the five commonest tokens: {metrics['eval_five_commonest_accuracy']:.3f})\nmodel: {folder}",
        flush=True,
    )
