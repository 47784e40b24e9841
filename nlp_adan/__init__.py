"""Adan, and the pretraining and evaluation toolkit around it.

Importing this costs torch and nothing more. It makes `--optim adan` valid in every script that uses the Hugging Face
Trainer, and `"type": "Adan"` in every DeepSpeed configuration, whether transformers and deepspeed are imported before
or after it.
"""

from nlp_adan.adan import Adan
from nlp_adan.integrations import deepspeed as _deepspeed
from nlp_adan.integrations import huggingface as _huggingface

__all__ = ["Adan"]
__version__ = "0.1.0.dev0"

_huggingface.install()
_deepspeed.install()
