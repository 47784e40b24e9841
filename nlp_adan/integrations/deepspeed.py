"""Adan under DeepSpeed: the names "Adan" and "adan" in its configuration, and ranks without a GPU.

DeepSpeed has no registration of optimizers: a name that it does not know is looked up in `torch.optim`, and ZeRO
takes the classes in a list of its own. Both are set here, when deepspeed is imported, and nowhere else. So are methods
that suit Adam and not Adan: see `_skip_dummy_step`, `_link_states_of_every_group` and `_refuse_incomplete_states`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from nlp_adan.adan import Adan
from nlp_adan.errors import UserError, nearest
from nlp_adan.integrations.post_import import when_imported
from nlp_adan.state_formats import STATE_NAMES


def install() -> None:
    """Register Adan now or as soon as deepspeed is imported. Calling it again does nothing."""
    when_imported("deepspeed", _register)


def _register(deepspeed: ModuleType) -> None:
    from deepspeed.runtime.zero.utils import ZERO_SUPPORTED_OPTIMIZERS

    for name in ("Adan", "adan"):  # DeepSpeed lower-cases the names of its own optimizers only
        present = getattr(torch.optim, name, from_configuration)
        if present not in (from_configuration, Adan):
            raise RuntimeError(
                f"torch.optim.{name} is {present.__module__}.{present.__qualname__} already, so nlp_adan.Adan cannot "
                f'answer to "type": "{name}" in a DeepSpeed configuration. Remove that other class from torch.optim.'
            )
        setattr(torch.optim, name, from_configuration)
    if Adan not in ZERO_SUPPORTED_OPTIMIZERS:
        ZERO_SUPPORTED_OPTIMIZERS.append(Adan)
    _skip_dummy_step()
    _link_states_of_every_group()
    _refuse_incomplete_states()
    if not torch.cuda.is_available():
        _leave_out_shared_memory_op()


def from_configuration(params: Iterable[Any], **options: Any) -> Adan:
    """The Adan of `{"optimizer": {"type": "Adan", "params": options}}`.

    Raises ValueError naming the key, the value and the remedy for what Adan does not know or take.
    """
    known = [name for name in inspect.signature(Adan).parameters if name not in ("params", "max_grad_norm")]
    for name in options:
        if name not in known:
            raise ValueError(
                f'DeepSpeed configuration: optimizer.params: "{name}" is not an option of Adan{nearest(name, known)}; '
                f'known are {", ".join(known)} (clipping is "gradient_clipping" beside "optimizer")'
            )
    try:
        return Adan(params, **options)
    except ValueError as error:
        raise ValueError(f"DeepSpeed configuration: optimizer.params: {error}") from error


def check_configuration(path: str) -> None:
    """Look at the optimizer of a configuration's file before anything is prepared; "auto" is left to who fills it in.

    Raises: UserError for a file that is no JSON, and for parameters that Adan does not know or take.
    """
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(
            f"--deepspeed: {path}:{getattr(error, 'lineno', 1)}: not JSON ({error}); mend the file"
        ) from error
    optimizer = config.get("optimizer") if isinstance(config, dict) else None
    if not isinstance(optimizer, dict) or optimizer.get("type") not in ("Adan", "adan"):
        return
    params = optimizer.get("params") or {}
    if not isinstance(params, dict):
        raise UserError(f'--deepspeed: {path}: optimizer.params: {params!r}; write an object, such as {{"lr": 1e-3}}')
    try:
        from_configuration([torch.zeros(1)], **{name: value for name, value in params.items() if value != "auto"})
    except (TypeError, ValueError) as error:
        raise UserError(f"--deepspeed: {path}: {error}; mend the file") from error


def _skip_dummy_step() -> None:
    """Stage 0 with bf16 or fp16: no step with zero gradients when the engine is made.

    DeepSpeed takes one so that the states are there. It would count as Adan's first, with a previous gradient of 0,
    and decay the weights; Adan makes its states when they are needed.
    """
    from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer

    theirs = FP16_UnfusedOptimizer.initialize_optimizer_states
    if hasattr(theirs, "__wrapped__"):
        return

    @functools.wraps(theirs)
    def initialize_optimizer_states(self: Any) -> None:
        if not isinstance(self.optimizer, Adan):
            theirs(self)

    FP16_UnfusedOptimizer.initialize_optimizer_states = initialize_optimizer_states


def _link_states_of_every_group() -> None:
    """Stages 1 and 2: let `safe_get_full_optimizer_state` find the states of every parameter group.

    DeepSpeed steps group by group and links the states of all of them once, after the first, when the others have
    none yet.
    """
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    theirs = DeepSpeedZeroOptimizer._lazy_init_hp_params_optimizer_state
    if hasattr(theirs, "__wrapped__"):
        return

    @functools.wraps(theirs)
    def _lazy_init_hp_params_optimizer_state(self: Any) -> None:
        theirs(self)
        if isinstance(self.optimizer, Adan):
            state = self.optimizer.state
            self._hp_optimizer_states_linked = all(state.get(flat) for flat in self.single_partition_of_fp32_groups)

    DeepSpeedZeroOptimizer._lazy_init_hp_params_optimizer_state = _lazy_init_hp_params_optimizer_state


def _refuse_incomplete_states() -> None:
    """Universal checkpoints: those that lack states of Adan are an error when they are loaded.

    DeepSpeed's converter writes Adam's states whatever there is, at stage 3 its loader reads no others, and both put
    them past `load_state_dict`, which would look: training would end at its next step in a KeyError.
    """
    from deepspeed.runtime.base_optimizer import ZeROOptimizer
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3

    for owner, name in (
        (ZeROOptimizer, "load_hp_checkpoint_state_from_checkpoint_dir"),
        (DeepSpeedZeroOptimizer_Stage3, "load_hp_checkpoint_state_from_checkpoint_dir_stage3"),
    ):
        if not hasattr(getattr(owner, name), "__wrapped__"):
            setattr(owner, name, _loads_complete_states(getattr(owner, name)))


def _loads_complete_states(theirs: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(theirs)
    def load(self: Any, *args: Any, **options: Any) -> None:
        theirs(self, *args, **options)
        if not isinstance(self.optimizer, Adan):
            return
        for state in filter(None, self.optimizer.state.values()):
            if missing := [name for name in ("step", *STATE_NAMES) if name not in state]:
                raise ValueError(
                    f"Adan: the universal checkpoint lacks {', '.join(missing)}, which DeepSpeed's converter leaves "
                    "out; load the checkpoint that it was made from, with the stage and the ranks that saved it"
                )

    return load


def _leave_out_shared_memory_op() -> None:
    """Ranks on one CPU machine talk through gloo, without DeepSpeed's shared-memory extension.

    `init_distributed` would compile it at the first start, and a process killed meanwhile leaves a lock behind on
    which every later start waits for ever.
    """
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def single_process_environment() -> None:
    """Let plain `python script.py --deepspeed ...` run as one rank: without a launcher DeepSpeed looks for MPI."""
    if "WORLD_SIZE" in os.environ:
        return
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    os.environ.update(
        RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )


def init_communication() -> None:
    """Start DeepSpeed's communication on the process group that is there.

    On CPU ranks accelerate starts torch's only; ZeRO-3 then takes the world for one rank when it builds a model.
    """
    import deepspeed

    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)


@contextlib.contextmanager
def whole_models() -> Iterator[None]:
    """Keep transformers from partitioning a model that is built or loaded, as soon as there is a ZeRO-3 configuration.

    It would partition while it draws the weights, and the same seed would give another model than at the other stages;
    DeepSpeed partitions the whole one afterwards.
    """
    from transformers.integrations import deepspeed

    reference = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if reference is not None and reference() is not None:
            deepspeed.set_hf_deepspeed_config(reference())
