"""The one training engine: the Hugging Face Trainer, with what our runs add to it.

ZeRO, accumulation, mixed precision, resuming and logging are the Trainer's. Added: Adan by name, our decay groups, a
loss that does not depend on how a batch is split, and defaults that fit a machine without a GPU.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from nlp_adan.errors import UserError
from nlp_adan.integrations.deepspeed import init_communication, single_process_environment
from nlp_adan.param_groups import decay_parameter_names
from nlp_adan.storage import UMASK
from nlp_adan.training.agreement import start_cpu_group
from nlp_adan.training.callbacks import Bar
from nlp_adan.training.deepspeed_checks import zero_stage
from nlp_adan.training.environment import share_cpu_cores
from nlp_adan.training.option_checks import REFUSED, check_given, check_made
from nlp_adan.training.precision import chosen_precision, detect_device


@dataclasses.dataclass
class EngineOptions(TrainingArguments):
    """Every option of Hugging Face's TrainingArguments, with Adan and the CPU as defaults where they fit."""

    if TYPE_CHECKING:  # of the parent's, what is set here
        output_dir: str
        disable_tqdm: bool | None
        per_device_train_batch_size: int
        fp16: bool

    # Whether `torch_compile` is chosen by the device too: it pays where many steps have one shape.
    compiles_by_default = False
    # Whether the command line left the precision open.
    chose_precision = False
    # Options that are refused where they differ from their default, and why.
    refused = REFUSED

    optim: str = dataclasses.field(
        default="adan", metadata={"help": "The optimizer: adan, adamw, or any name the Trainer knows."}
    )
    resume: str = dataclasses.field(
        default="no",
        metadata={"help": "`auto`: go on from the last checkpoint in --output_dir; or a checkpoint's path; or `no`."},
    )
    global_batch_size: int | None = dataclasses.field(
        default=None,
        metadata={
            "help": "Sequences in one optimizer step, over all ranks. --per_device_train_batch_size is then the most "
            "that a rank takes at a time, and the accumulation steps follow."
        },
    )
    bf16: bool | None = dataclasses.field(
        default=None, metadata={"help": "Train in bfloat16; default: on GPUs that have it, unless --fp16."}
    )
    torch_compile: bool | None = dataclasses.field(
        default=None, metadata={"help": "Compile the model; default: when pretraining on NVIDIA GPUs since Ampere."}
    )
    ddp_find_unused_parameters: bool | None = dataclasses.field(
        default=False, metadata={"help": "Look for parameters without a gradient at each step; our models have none."}
    )
    ddp_timeout: int = dataclasses.field(
        default=21600,
        metadata={"help": "Seconds that a rank waits for the others, such as for rank 0 while it prepares the data."},
    )
    remove_unused_columns: bool = dataclasses.field(
        default=False, metadata={"help": "Remove columns that the model does not take; our collators need them all."}
    )

    def __post_init__(self) -> None:
        if not self.output_dir:
            raise UserError("--output_dir: name the folder that the run is to fill, such as runs/tiny")
        if self.disable_tqdm is None:
            self.disable_tqdm = False  # the Trainer would go by the libraries' log level, which is ours to lower
        if not torch.accelerator.is_available():
            # Without it the batch of two CPU ranks under ZeRO does not add up for DeepSpeed.
            self.use_cpu = True
        check_given(self)
        if self.deepspeed:
            single_process_environment()
        self._choose_precision()
        if self.global_batch_size is not None:
            self._split_global_batch(self.global_batch_size, int(os.environ.get("WORLD_SIZE", "1")))
        share_cpu_cores()
        if self.use_cpu and not self.deepspeed:
            start_cpu_group(self.ddp_backend, self.ddp_timeout)
        super().__post_init__()
        check_made(self)
        if self.deepspeed:
            _ = self.device  # starts the process group
            init_communication()
        if "WORLD_SIZE" not in os.environ and self.n_gpu > 1:
            # The Trainer would wrap the model in nn.DataParallel, which torch advises against.
            print(f"using 1 of {self.n_gpu} GPUs; start with `deepspeed run_pretrain.py ...` to use them all")
            self._n_gpu = 1

    def _choose_precision(self) -> None:
        """What the command line left open of bf16 and torch_compile, by the device."""
        options: Any = self
        if not self.use_cpu and torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # or all ranks would start on the first
        chosen = chosen_precision(
            detect_device(use_cpu=self.use_cpu), shards_parameters=bool(options.fsdp) or zero_stage(self.deepspeed) == 3
        )
        if self.bf16 is None:
            self.chose_precision = not self.fp16
            self.bf16 = chosen.bf16 and not self.fp16
        if self.torch_compile is None:
            self.torch_compile = chosen.torch_compile and self.compiles_by_default

    def _split_global_batch(self, global_batch_size: int, world_size: int) -> None:
        if global_batch_size < 1 or global_batch_size % world_size:
            raise UserError(
                f"--global_batch_size: {global_batch_size} sequences cannot be shared equally by {world_size} ranks; "
                f"choose a multiple of {world_size}"
            )
        per_rank = global_batch_size // world_size
        largest = min(self.per_device_train_batch_size, per_rank)
        micro = next(size for size in range(largest, 0, -1) if per_rank % size == 0)
        self.per_device_train_batch_size = micro
        self.gradient_accumulation_steps = per_rank // micro

    @property
    def seed_of_data(self) -> int:
        """The seed of what is drawn about the data, such as their order: `--data_seed`, or `--seed` without one."""
        return int(self.seed if self.data_seed is None else self.data_seed)

    @property
    def num_sequences_per_step(self) -> int:
        """Sequences of one optimizer step over all ranks and micro-batches."""
        return int(self.train_batch_size * self.gradient_accumulation_steps * self.world_size)


class Engine(Trainer):
    """The Trainer, with Adan's decay groups and our progress bar.

    The loss must be a sum over the items of a batch divided by `num_items_in_batch`, the number of items over all
    ranks and micro-batches of the step: either the model's `forward` takes that argument and divides
    (`accepts_loss_kwargs = True` on the model), or `compute_loss_func` does (`mean_over_items`). Then the logged loss
    and the clipped gradient are the same for any split. The Trainer alone believes BERT and RoBERTa to divide, which
    they do not, and multiplies loss and gradient by ranks x accumulation steps.
    """

    def __init__(self, *args: Any, bar_description: str = "training", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for theirs in (ProgressCallback, PrinterCallback):
            self.remove_callback(theirs)
        self.bar = Bar(bar_description)
        self.add_callback(self.bar)
        if self.compute_loss_func is not None:
            self.model_accepts_loss_kwargs = False  # one of the two divides, not both
        elif not getattr(self.model, "accepts_loss_kwargs", False):
            raise TypeError(f"{type(self.model).__name__} does not divide its loss by num_items_in_batch")

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """See the Trainer, but for a pickle of its options: the run's folder has them in words.

        DeepSpeed's state dict has tied weights twice; the file has them once, under every engine.
        """
        if state_dict is not None:
            tied = getattr(self.model, "all_tied_weights_keys", {})
            state_dict = {name: value for name, value in state_dict.items() if tied.get(name) not in state_dict}
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        for weights in folder.glob("*.safetensors") if self.args.should_save else ():
            weights.chmod(0o666 & ~UMASK)  # safetensors gives the user alone the right to read

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """The parameters that weight decay applies to (`nlp_adan.param_groups`)."""
        return decay_parameter_names(model)


def mean_over_items(loss_sum: Tensor, num_items: int, num_items_in_batch: Tensor | int | None) -> Tensor:
    """A sum over the items at hand as their share of the mean over all items of the step.

    Args:
        loss_sum: scalar, the sum over the items at hand.
        num_items: how many these are.
        num_items_in_batch: how many the whole step has, over all ranks and micro-batches; None outside training.
    """
    divisor = num_items_in_batch if num_items_in_batch is not None else max(num_items, 1)
    return loss_sum / divisor


def quiet_libraries() -> None:
    """Of the libraries, let errors through only: what a run has to say, it says itself."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in ("DeepSpeed", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # otherwise DeepSpeed warns that it found no GPU
