"""The engine's checkpoints: composed while the training stands still, written behind it, published when whole.

A checkpoint's parts are the Trainer's, but for the optimizer's state, which is stored as named slices, and every file
goes through `CheckpointWriter` (docs/design/0008-checkpoints.md).
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerControl, TrainerState
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import SaveStrategy

from nlp_adan.integrations.safe_checkpoints import use_safe_checkpoints
from nlp_adan.training.agreement import group_of_processors, largest_over_ranks, wait_for_all_ranks
from nlp_adan.training.checkpoint.composing import (
    deferred_weights,
    is_of_the_disk,
    make_folder,
    reason_of,
    torch_bytes,
    whole_parameters,
)
from nlp_adan.training.checkpoint.fragments import Layout, fragments_of
from nlp_adan.training.checkpoint.manifest import Manifest, verify
from nlp_adan.training.checkpoint.optimizer_state import load_optimizer_state, master_weights, optimizer_files
from nlp_adan.training.checkpoint.run_checkpoints import partial_folder, rotate
from nlp_adan.training.checkpoint.tensor_files import TensorFile
from nlp_adan.training.checkpoint.writer import CheckpointWriter, Failure
from nlp_adan.training.environment import package_versions
from nlp_adan.training.hub import HubEngine
from nlp_adan.training.resuming import check_fsdp

# After a save that failed, another one is tried so much later.
RETRY_SECONDS = 60.0
_TOLD = f"the training goes on, with the earlier checkpoints; the next try is in {RETRY_SECONDS:.0f} seconds"
# What the writers of other ranks may have begun to write when a rank looks what is in the folder.
_RANKS_OWN = ("optimizer/", "memory-")


class SavingEngine(HubEngine):
    """The engine whose checkpoints survive, on any number of ranks and at any stage of ZeRO."""

    control: TrainerControl

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._layout: Layout | None = None
        self._writer: CheckpointWriter | None = None
        self._told: Failure | None = None  # the failure that was last said
        self._told_at = 0.0
        self._best_before: str | None = None
        self._new_best = ""  # where a checkpoint that is the best one is, once it is written

    # Training

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """See the Trainer. What is being written when the training ends, or fails, is written first."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self.finish_saving()

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        self._layout = None
        if self.is_deepspeed_enabled:
            if resume_from_checkpoint is not None:
                # Before DeepSpeed makes its own copies of the weights and cuts them up.
                self._load_from_checkpoint(resume_from_checkpoint, self.model)
            prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
            use_safe_checkpoints(self.model_wrapped)
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
        else:
            prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self._writer is None:
            self._writer = self._make_writer()
        return prepared

    def _make_writer(self) -> CheckpointWriter:
        options: Any = self.args
        writer = CheckpointWriter(
            Path(options.output_dir),
            rank=options.process_index,
            world_size=options.world_size,
            group=group_of_processors() if options.world_size > 1 else None,
            on_published=self._remove_old,
        )
        if not self.is_fsdp_enabled:

            def protect(*args: Any) -> None:
                writer.protect()

            self.layout.base.register_step_pre_hook(protect)
        return writer

    @property
    def layout(self) -> Layout:
        """Which slices of which parameters this rank's optimizer holds."""
        if self._layout is None:
            self._layout = fragments_of(self.model_wrapped, self.optimizer)
        return self._layout

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """See the Trainer. A schedule-free optimizer gives the model other weights meanwhile."""
        if self._writer is not None and self._has_modes:
            self._writer.protect()
        metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        return metrics

    @property
    def _has_modes(self) -> bool:
        """Whether the optimizer is a schedule-free one, which changes the weights between training and evaluation."""
        return not self.is_fsdp_enabled and callable(getattr(self.layout.base, "eval", None))

    # Saving

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Compose a checkpoint of this step and hand it to the writer, when that has written the one before."""
        assert self._writer is not None
        self.finish_saving()
        self.store_flos()
        options: Any = self.args
        step, first = self.state.global_step, options.should_save
        if self._has_modes:
            self.layout.base.train()
        partial = partial_folder(Path(options.output_dir), step)
        self._remember_best(step)
        files, small, error = self.own_files(), dict[str, bytes](), make_folder(partial, options.process_index)
        try:
            with deferred_weights(partial, files):
                self.save_model(str(partial), _internal_call=True)
            if self.is_fsdp_enabled:
                self._save_optimizer_and_scheduler(str(partial))
            else:
                parts, description = optimizer_files(self.layout, options.process_index, options.world_size)
                files += parts
                if first:
                    small["optimizer/optimizer.json"] = json.dumps(description, indent=1).encode()
                    small[SCHEDULER_NAME] = torch_bytes(self.lr_scheduler.state_dict())
            self._save_scaler(str(partial))
            self._save_rng_state(str(partial))
            if first:
                self._save_state(partial)
        except Exception as caught:
            # FSDP's ranks write together, each waiting for the others.
            if self.is_fsdp_enabled or not is_of_the_disk(caught):
                raise
            error = error or reason_of(caught, partial)
        self._writer.begin(
            step,
            files,
            small,
            self._written(partial),
            error,
            zero_stage=None if self.is_fsdp_enabled else self.layout.zero_stage,
            sequences_per_step=options.num_sequences_per_step,
            versions=package_versions(),
        )
        if options.push_to_hub:
            self.finish_saving()
            self._push_from_checkpoint(str(Path(options.output_dir) / f"checkpoint-{step}"))

    @property
    def _random_state(self) -> str:
        """The Trainer's name of this rank's random state in a checkpoint."""
        return f"rng_state_{self.args.process_index}.pth" if self.args.world_size > 1 else "rng_state.pth"

    def _written(self, partial: Path) -> list[str]:
        """Files that are in the folder already, each named by one rank."""
        mine = self._random_state
        if self.is_fsdp_enabled:
            wait_for_all_ranks()  # any rank may have written any file
        found = [path.relative_to(partial).as_posix() for path in partial.rglob("*") if path.is_file()]
        if self.args.process_index == 0:
            found = [name for name in found if name == mine or not name.startswith(("rng_state", *_RANKS_OWN))]
        else:
            found = [name for name in found if name == mine]
        if self.is_fsdp_enabled:
            wait_for_all_ranks()
        return found

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """See the Trainer. Where it may keep one checkpoint, it would delete the last, which a stopped run needs."""
        self.finish_saving()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit

    def _remove_old(self, published: Path) -> None:
        """In the writing thread, when a checkpoint is published."""
        if self.args.process_index == 0:
            best = self.state.best_model_checkpoint
            try:
                rotate(published.parent, self.args.save_total_limit, {Path(best)} if best else set(), published)
            except OSError as error:
                print(f"WARNING: {error.filename or published.parent} is not removed: {error.strerror}", flush=True)

    def own_files(self) -> list[TensorFile]:
        """What a kind of training adds to a checkpoint, on this rank."""
        return []

    def _remember_best(self, step: int) -> None:
        """As the Trainer does: where the best checkpoint is, if there is one."""
        best_step = self.state.best_global_step
        if best_step and self.args.save_strategy in (SaveStrategy.STEPS, SaveStrategy.EPOCH, SaveStrategy.BEST):
            best = Path(self.args.output_dir or ".") / f"checkpoint-{best_step}"
            self._new_best = str(best) if best_step == step else ""
            if best_step == step:
                self._best_before = self.state.best_model_checkpoint
            if best_step == step or best.is_dir():
                self.state.best_model_checkpoint = str(best)

    def _forget_best(self, step: int) -> None:
        """The best checkpoint is the one before, and its figure the one to beat: that of `step` could not be saved."""
        before = self.state.best_model_checkpoint = self._best_before
        if self.state.best_global_step != step:  # a better one has come meanwhile
            return
        self.state.best_metric = self.state.best_global_step = None
        if before is not None:
            with contextlib.suppress(OSError, ValueError, TypeError):
                kept = TrainerState.load_from_json(str(Path(before) / TRAINER_STATE_NAME))
                self.state.best_metric, self.state.best_global_step = kept.best_metric, kept.best_global_step

    def _save_state(self, partial: Path) -> None:
        """trainer_state.json, with what callbacks keep in it."""
        kept = self.state.stateful_callbacks
        for callback in (*self.callback_handler.callbacks, self.control):
            if isinstance(callback, ExportableState):
                name = type(callback).__name__
                if isinstance(kept.get(name), list):
                    kept[name].append(callback.state())
                else:
                    kept[name] = callback.state()
        self.state.save_to_json(str(partial / TRAINER_STATE_NAME))

    def save_is_overdue(self) -> bool:
        """Whether the last save failed, and it is time to try again; says that it failed."""
        writer = self._writer
        if writer is None or writer.is_busy or writer.failed is None:
            return False
        if self._told is not writer.failed:
            self._told, self._told_at = writer.failed, time.monotonic()
            if self.state.best_model_checkpoint == self._new_best:
                self._forget_best(writer.failed.step)
            if self.args.process_index == 0:
                next_try = "" if self.control.should_training_stop else _TOLD
                print(f"WARNING: {writer.failed}\n{writer.failed.trace}{next_try}", flush=True)
        return time.monotonic() - self._told_at >= RETRY_SECONDS

    def finish_saving(self) -> Failure | None:
        """Wait until nothing is being written; what became of the last save, where it failed."""
        if self._writer is None:
            return None
        self._writer.wait()
        self.save_is_overdue()
        return self._writer.failed

    # Going on

    @torch.no_grad()
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """See the Trainer. Where a run's weights are of lower precision than the optimizer's, the optimizer's."""
        check_fsdp(Path(resume_from_checkpoint), self.is_fsdp_enabled)
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if not self.is_fsdp_enabled:
            for name, weight in master_weights(Path(resume_from_checkpoint)).items():
                self.model.get_parameter(name).copy_(weight)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.is_fsdp_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        load_optimizer_state(Path(checkpoint), self.layout)
        state = torch.load(Path(checkpoint) / SCHEDULER_NAME, map_location="cpu", weights_only=True)
        self.lr_scheduler.load_state_dict(state)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """See the Trainer. Among another number of ranks, or without a state, each draws what belongs to this step."""
        if checkpoint is None:
            return
        manifest = Manifest.read(Path(checkpoint))
        if manifest.world_size == self.args.world_size and self._random_state in manifest.files:
            super()._load_rng_state(checkpoint)
            return
        seed = torch.tensor([self.args.seed, self.state.global_step, self.args.process_index])
        torch.manual_seed(int((seed * torch.tensor([1, 1_000_003, 998_244_353])).sum()))

    def _load_best_model(self) -> None:
        """See the Trainer. Under DeepSpeed the weights alone: the training is over."""
        self.finish_saving()
        best = str(self.state.best_model_checkpoint)
        damages = verify(Path(best)) if self.args.process_index == 0 else []
        if largest_over_ranks(len(damages))[0]:
            if damages:
                print(f"WARNING: {best}: {damages[0]}: the model keeps the weights of its last step", flush=True)
            self.state.best_model_checkpoint = None
        elif not self.is_deepspeed_enabled:
            super()._load_best_model()
        else:
            with whole_parameters(self.model):
                self._load_from_checkpoint(best, self.model)
