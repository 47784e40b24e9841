"""The loop of loop_torch.py in the Trainer: `python examples/loop_trainer.py`, or under torchrun."""

import os
import tempfile

import torch
from loop_torch import BATCH, Model, batches
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

import nlp_adan  # noqa: F401  (makes optim="adan" valid)


class PrintLoss(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):  # type: ignore[no-untyped-def]
        if state.is_world_process_zero and "loss" in (logs or {}):
            print(f"step {state.global_step - 1} loss {logs['loss']:.5f}")


class ForTrainer(Model):
    def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return {"loss": super().forward(ids)}


class InOrder(Trainer):
    """Without shuffling, to see the batches of the other two loops."""

    def _get_train_sampler(self, train_dataset=None):  # type: ignore[no-untyped-def]
        return torch.utils.data.SequentialSampler(self.train_dataset)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            optim="adan",
            learning_rate=1e-2,
            weight_decay=0.02,
            max_grad_norm=0.5,
            lr_scheduler_type="constant",
            per_device_train_batch_size=BATCH // int(os.environ.get("WORLD_SIZE", "1")),
            num_train_epochs=1,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        torch.manual_seed(0)
        sequences = [{"ids": ids} for ids in torch.cat(batches())]
        trainer = InOrder(model=ForTrainer(), args=arguments, train_dataset=sequences, callbacks=[PrintLoss()])
        trainer.remove_callback(PrinterCallback)
        trainer.train()


if __name__ == "__main__":
    main()
