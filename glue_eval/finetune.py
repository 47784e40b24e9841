"""One run of a GLUE report: a pretrained model fine-tuned on one task with one seed, scored, and its files written."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformers import set_seed

from glue_eval.classifier import MNLI_STARTED, load_classifier, load_config, load_tokenizer, usable_length
from glue_eval.data import Split, read_split, split_paths
from glue_eval.diagnostics import ax_scores, labelled_file
from glue_eval.examples import Examples, Padding, TrainingExamples, tokenize
from glue_eval.finetune_engine import (
    MOST_EVALUATIONS,
    Diverged,
    FinetuneEngine,
    FinetuneOptions,
    Reported,
    evaluation_steps,
)
from glue_eval.metrics import majority_baseline
from glue_eval.predictions import Logits, answer_names, write_predictions
from glue_eval.results import RunResult
from glue_eval.run_watch import RunProgress
from glue_eval.tasks import TASKS, Task
from nlp_adan.errors import UserError
from nlp_adan.pretraining.peak_memory import DEVICE, HOST, peak_memory
from nlp_adan.training.deepspeed_checks import zero_stage
from nlp_adan.training.engine import quiet_libraries
from nlp_adan.training.grouped_order import STEPS_IN_GROUP, GroupedOrder
from nlp_adan.training.recipe import CommandParser, given_options

RESULT = "result.json"
TRAINED_MODEL = "model"  # the folder of the model in a run's folder
AX = "AX"
GPU_MULTIPLE = 8  # half-precision matrix units want sizes of multiples of 8


@dataclasses.dataclass(frozen=True)
class FinetuneSpec:
    """What the runs of a report share.

    model: folder of the pretrained model, or a hub model's name. data: the GLUE folder.
    max_length: tokens of an example at most; None: the task's. max_train_examples: the first ones only; None: all.
    allow_partial: read a part of a file where the whole one is missing.
    checkpoint: which one is reported, the last step's or the one that scored best on the development files.
    group_by_length: make batches of examples of similar length, which changes the batches (`GroupedOrder`).
    dropout: in place of the model's own. mnli_model: a model fine-tuned on MNLI, whose body RTE, MRPC and STS-B begin
        with.
    predict_test: predict the test files, and AX after MNLI, where they are there. save_model: keep the trained model.
    """

    model: str
    data: Path
    max_length: int | None = None
    max_train_examples: int | None = None
    allow_partial: bool = False
    checkpoint: Literal["last", "best"] = "last"
    group_by_length: bool = False
    dropout: float | None = None
    mnli_model: str | None = None
    predict_test: bool = True
    save_model: bool = False


def finetune_run(
    folder: Path,
    advance: Callable[[float, float], None],
    *,
    task: Task,
    seed: int,
    key: str,
    words: Sequence[str],
    spec: FinetuneSpec,
) -> None:
    """Fine-tune, predict, and write predictions and result.json into `folder`; every rank calls it, rank 0 writes.

    Args:
        folder: the run's own (`glue_eval.results` tells what it holds).
        advance: told how far the run is: `advance(done, total)`.
        key: of the run, for its result.
        words: the engine's options (`FinetuneOptions`) as on a command line, without output_dir and seed.

    Raises:
        UserError: the model, the data or an option is not usable. A run that diverged has a result, which says so.
    """
    quiet_libraries()
    began = time.monotonic()
    options = parse_options(words, folder, seed)
    if spec.checkpoint == "best":
        check_can_keep(options)
    evaluations = None if "eval_strategy" in given_options(words) else MOST_EVALUATIONS
    run = _FinetuneRun(task, options, spec, evaluations)
    run.train(advance)
    result = run.result(key, folder)
    result.timing["seconds"] = round(time.monotonic() - began, 3)
    if options.process_index == 0:
        result.save(folder / RESULT)


def parse_options(words: Sequence[str], folder: Path, seed: int) -> FinetuneOptions:
    """The engine's options of a run."""
    parser = CommandParser((FinetuneOptions,), prog="python -m glue_eval")
    last = ["--output_dir", str(folder), "--seed", str(seed), "--disable_tqdm", "True"]
    return parser.parse([*words, *last])[0]


def check_can_keep(options: FinetuneOptions) -> None:
    """`--checkpoint best` keeps the weights on each rank, which has to have them all."""
    if options.fsdp or zero_stage(options.deepspeed) == 3:
        raise UserError(
            "--checkpoint best: with FSDP or ZeRO-3 no rank has all the weights to keep; use ZeRO-2 or `--checkpoint "
            "last`"
        )


class _FinetuneRun:
    """One run, from its files to its result.

    most_evaluations: of the development files; None: as `--eval_strategy` says.
    """

    def __init__(self, task: Task, options: FinetuneOptions, spec: FinetuneSpec, most_evaluations: int | None) -> None:
        self.task, self.options, self.spec = task, options, spec
        tokenizer = load_tokenizer(spec.model)
        self.tokenizer = tokenizer
        self.max_length = usable_length(task, tokenizer, spec.max_length, load_config(spec.model))
        on_gpu = options.device.type == "cuda" and (options.bf16 or options.fp16)
        self.padding = Padding.of(tokenizer, GPU_MULTIPLE if on_gpu else 1)
        self.start = spec.mnli_model if task.definition is None and task.name in MNLI_STARTED else None
        self.train_split = self._read(task, "train", spec.max_train_examples)
        self.dev_splits = [self._read(task, split.name) for split in task.dev_splits]
        self.test_splits = self._read_tests() if spec.predict_test else {}
        self.train_examples = self._examples(self.train_split)
        self.most_evaluations = most_evaluations
        self.diverged = ""  # or why
        self.train_loss: float | None = None
        self.asked_epochs = None if options.max_steps > 0 else float(options.num_train_epochs)

    def _read(self, task: Task, name: str, max_examples: int | None = None) -> Split:
        spec = self.spec
        return read_split(spec.data, task, name, allow_partial=spec.allow_partial, max_examples=max_examples)

    def _read_tests(self) -> dict[str, Split]:
        """The test files that are there, and GLUE's diagnostic one for MNLI, by the names of their predictions."""
        task, spec = self.task, self.spec
        found = split_paths(spec.data, task, spec.allow_partial)
        splits = {split.name: self._read(task, split.name) for split in task.test_splits if split.name in found}
        if task.definition is None and task.name == "MNLI":
            diagnostic = TASKS[AX]
            for split in diagnostic.test_splits:
                if split.name in split_paths(spec.data, diagnostic):
                    splits[AX] = self._read(diagnostic, split.name)
        return splits

    def _examples(self, split: Split) -> Examples:
        labels = None
        if split.labels is not None:
            labels = np.asarray(split.labels, dtype=np.float32 if self.task.is_regression else np.int64)
        return Examples(tokenize(split, self.tokenizer, self.max_length), labels, self.padding, self.max_length)

    def _order(self) -> GroupedOrder:
        """Groups of one step change no batch: they sort its samples, for micro-batches and chunks of similar length."""
        options = self.options
        steps = STEPS_IN_GROUP if self.spec.group_by_length else 1
        lengths = self.train_examples.tokens.lengths
        return GroupedOrder(lengths, options.seed_of_data, options.num_sequences_per_step, steps)

    def train(self, advance: Callable[[float, float], None]) -> None:
        """Fine-tune; the engine has the learning curve afterwards, and the checkpoint to report."""
        options, spec = self.options, self.spec
        set_seed(options.seed)
        model = load_classifier(spec.model, self.task, spec.dropout, self.start)
        dataset = TrainingExamples(self.train_examples, self._order())
        steps = None
        if self.most_evaluations is not None:
            steps = evaluation_steps(options, dataset.num_samples, self.most_evaluations)
        num_dev = sum(len(split) for split in self.dev_splits)
        num_predicted = max(1, len(steps or ())) * num_dev + sum(len(split) for split in self.test_splits.values())
        self.engine = FinetuneEngine(
            task=self.task,
            model=model,
            args=options,
            train_dataset=dataset,
            dev=[(split, self._examples(split)) for split in self.dev_splits],
            steps=steps,
            keeps_best=spec.checkpoint == "best",
            callbacks=[RunProgress(advance, options.num_sequences_per_step, num_predicted)],
        )
        began = time.monotonic()
        try:
            self.train_loss = float(self.engine.train().training_loss)
        except Diverged as error:
            self.diverged, self.asked_epochs = str(error), None  # it did not come so far
        self.train_seconds = time.monotonic() - began - self.engine.evaluation_seconds

    def predict(self) -> tuple[Reported, dict[str, Logits]]:
        """The checkpoint to report, and its predictions of every file: of a run that diverged, NaN of all of them."""
        if not self.diverged:
            try:
                reported = self.engine.restore_reported()
                tests = {name: self._examples(split) for name, split in self.test_splits.items()}
                return reported, reported.logits | {name: self.engine.logits_of(each) for name, each in tests.items()}
            except Diverged as error:
                self.diverged = str(error)
        width = 1 if self.task.labels is None else len(self.task.labels)
        splits = {split.name: split for split in self.dev_splits} | self.test_splits
        logits = {name: np.full((len(split), width), np.nan, dtype=np.float32) for name, split in splits.items()}
        return self.engine.scored(self.engine.state.global_step, logits), logits

    def result(self, key: str, folder: Path) -> RunResult:
        """Predict the test files, write predictions and model, and put the figures together."""
        task, options, engine = self.task, self.options, self.engine
        reported, logits = self.predict()
        splits = {split.name: split for split in self.dev_splits} | self.test_splits
        self._write(folder, splits, logits)
        baseline: dict[str, float] = {}
        for split in self.dev_splits:
            baseline |= task.name_scores(split.name, majority_baseline(task, np.asarray(split.labels)))
        tokens, padding = engine.token_count.over_ranks()
        read = [self.train_split, *splits.values()]
        num_samples, steps = len(self.train_examples), engine.state.global_step
        return RunResult(
            task=task.name,
            seed=options.seed,
            key=key,
            scores=reported.scores,
            baseline=baseline,
            collapsed=reported.collapsed,
            diverged=self.diverged,
            num_train=num_samples,
            num_dev=sum(len(split) for split in self.dev_splits),
            num_cut=self.train_examples.tokens.num_cut,
            num_parameters=sum(getattr(each, "ds_numel", each.numel()) for each in engine.model.parameters()),
            steps=steps,
            chosen_step=reported.step,
            epochs=self.asked_epochs or steps * options.num_sequences_per_step / num_samples,
            learning_rate=options.learning_rate,
            optimizer=str(getattr(options.optim, "value", options.optim)),
            batch_size=options.num_sequences_per_step,
            max_length=self.max_length,
            train_loss=self.train_loss,
            start=self.start or "pretrained",
            tokens=tokens,
            padding=padding,
            partial=[split.partial for split in read if split.partial is not None],
            settings=self._settings(),
            curve=engine.curve,
            ax=self._ax(logits),
            predictions=list(logits),
            timing=self._timing(tokens),
        )

    def _write(self, folder: Path, splits: dict[str, Split], logits: dict[str, Logits]) -> None:
        if self.options.process_index == 0:
            for name, values in logits.items():
                write_predictions(folder, name, splits[name], values)
        if self.spec.save_model and not self.diverged:
            self.engine.save_model(str(folder / TRAINED_MODEL))
            if self.options.process_index == 0:
                self.tokenizer.save_pretrained(folder / TRAINED_MODEL)
                (folder / TRAINED_MODEL / "training_args.bin").unlink(missing_ok=True)  # a pickle

    def _ax(self, logits: dict[str, Logits]) -> dict[str, float]:
        labels = labelled_file(self.spec.data)
        if AX not in logits or labels is None:
            return {}
        return ax_scores([str(name) for name in answer_names(TASKS[AX], logits[AX])], labels)

    def _settings(self) -> dict[str, Any]:
        options, spec = self.options, self.spec
        names = ["optim_args", "weight_decay", "warmup_steps", "max_grad_norm"]
        if "adam" in str(getattr(options.optim, "value", options.optim)):
            names += ["adam_beta1", "adam_beta2", "adam_epsilon"]
        return {
            **{name: getattr(options, name) for name in names},
            "lr_scheduler_type": str(options.lr_scheduler_type.value),
            "precision": "bfloat16" if options.bf16 else "float16" if options.fp16 else "float32",
            "dropout": spec.dropout,
            "max_train_examples": spec.max_train_examples,
            "group_by_length": spec.group_by_length,
            "checkpoint": spec.checkpoint,
        }

    def _timing(self, tokens: int) -> dict[str, float]:
        memory = peak_memory(self.options.device)
        found = {
            "train_seconds": round(self.train_seconds, 3),
            "tokens_per_second": round(tokens / max(self.train_seconds, 1e-9), 1),
        }
        peak = memory.get(DEVICE, memory.get(HOST))
        return found if peak is None else {**found, "peak_memory_bytes": peak}
