"""Small generated versions of the nine GLUE tasks, in GLUE's own files: for tests, and to try everything offline.

They are not GLUE, and a score on them says nothing about a score on GLUE; whatever shows one says so
(`SAMPLE_NOTICE`). `acceptability`, `sentiment`, `paraphrase`, `inference`, `questions` and `pronouns` make the
examples, `files` writes them.
"""

from glue_eval.sample_tasks.files import SAMPLE_NOTICE, is_sample_folder, sample_tasks_folder, write_sample_tasks

__all__ = ["SAMPLE_NOTICE", "is_sample_folder", "sample_tasks_folder", "write_sample_tasks"]
