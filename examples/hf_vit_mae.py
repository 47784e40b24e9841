"""A tiny masked autoencoder of images (ViT-MAE): a whole Hugging Face script, which knows nothing of Adan.

python -m nlp_adan examples/hf_vit_mae.py --optim adan --learning_rate 5e-3 --output_dir runs/mae
"""

import torch
from transformers import HfArgumentParser, Trainer, TrainingArguments, ViTMAEConfig, ViTMAEForPreTraining

(args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses()
torch.manual_seed(args.seed)
# Random images of 16 x 16 pixels: each has a colour of its own, under noise.
images = torch.randn(512, 3, 1, 1) + 0.3 * torch.randn(512, 3, 16, 16)
width = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
decoder = {f"decoder_{name}": value for name, value in width.items()}
model = ViTMAEForPreTraining(ViTMAEConfig(image_size=16, patch_size=4, **width, **decoder))
trainer = Trainer(model, args, train_dataset=[{"pixel_values": image} for image in images])
trainer.train()
trainer.save_model()
