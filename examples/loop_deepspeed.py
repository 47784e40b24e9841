"""The loop of loop_torch.py on DeepSpeed: `deepspeed --num_gpus 2 examples/loop_deepspeed.py [CONFIG]`."""

import json
import sys
from pathlib import Path

import deepspeed
import torch
from loop_torch import Model, batches

import nlp_adan  # noqa: F401  (registers "type": "Adan")
from nlp_adan.integrations.deepspeed import single_process_environment
from nlp_adan.param_groups import decay_groups

CONFIG = Path(__file__).resolve().parents[1] / "ds_configs" / "initialize_zero2.json"


def main() -> None:
    single_process_environment()  # for `python examples/loop_deepspeed.py`, without a launcher
    deepspeed.init_distributed(verbose=False)
    torch.manual_seed(0)
    model = Model()
    config = json.loads(Path(sys.argv[1] if sys.argv[1:] and sys.argv[1].endswith(".json") else CONFIG).read_text())
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=decay_groups(model, weight_decay=0.02), config=config, dist_init_required=False
    )
    rank, world_size = deepspeed.comm.get_rank(), deepspeed.comm.get_world_size()
    for step, ids in enumerate(batches()):
        mine = ids.chunk(world_size)[rank].to(engine.device)
        loss = engine(mine)
        engine.backward(loss)
        engine.step()
        mean = loss.detach().clone()  # over the ranks, which hold equal shares of the batch
        deepspeed.comm.all_reduce(mean)
        if rank == 0:
            print(f"step {step} loss {mean.item() / world_size:.5f}")


if __name__ == "__main__":
    main()
