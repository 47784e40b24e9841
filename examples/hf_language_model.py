"""A tiny GPT-2 learns to count: a whole Hugging Face script, which knows nothing of Adan.

python -m nlp_adan examples/hf_language_model.py --optim adan --learning_rate 5e-3 --output_dir runs/count
"""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, HfArgumentParser, Trainer, TrainingArguments

(args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses()
torch.manual_seed(args.seed)
# Counting by 1 to 7 from any number, modulo 64: after two tokens the next ones are certain.
firsts, strides = torch.randint(64, (512, 1)), torch.randint(1, 8, (512, 1))
blocks = (firsts + strides * torch.arange(16)) % 64
model = GPT2LMHeadModel(
    GPT2Config(vocab_size=64, n_positions=16, n_embd=64, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
)
trainer = Trainer(model, args, train_dataset=[{"input_ids": block, "labels": block} for block in blocks])
trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
trainer.save_model()
