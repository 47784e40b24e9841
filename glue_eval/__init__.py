"""GLUE evaluation: the facts of the tasks, their data, fine-tuning of a checkpoint on them, and the report."""
