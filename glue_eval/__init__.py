"""GLUE evaluation: the facts of the tasks, their data, fine-tuning of a checkpoint on them, and the report."""

# What a run imports; those first that do not depend on where the project lies.
PRELOAD = (
    "torch",
    "deepspeed",
    "transformers.models.bert.modeling_bert",
    "transformers.models.roberta.modeling_roberta",
    "transformers.models.auto.tokenization_auto",
    "glue_eval.finetune",
)
