"""Writing the sample tasks as the files of GLUE, once, into the cache."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from glue_eval import table_files, tasks
from glue_eval.sample_tasks.acceptability import acceptability
from glue_eval.sample_tasks.draw import Draw
from glue_eval.sample_tasks.inference import entailment, inference, inference_about_people
from glue_eval.sample_tasks.paraphrase import duplicate_question, graded_similarity, paraphrase
from glue_eval.sample_tasks.pronouns import pronoun_reference
from glue_eval.sample_tasks.questions import answered_question
from glue_eval.sample_tasks.sentiment import sentiment
from glue_eval.table_files import Example, table_text
from glue_eval.tasks import TASKS, SplitFile, Task
from nlp_adan.storage import cache_folder, new_folder, write_text

SAMPLE_NOTICE = "sample tasks, not GLUE"
README = "README.txt"
README_TEXT = f"""{SAMPLE_NOTICE}

These files have the layout of the GLUE tasks, and small generated examples in the English of software documentation.
They are there to try the whole path offline. A score on them is no GLUE score and cannot be compared with one.
Labels are balanced, but for MRPC (68 % paraphrases) and QQP (37 % duplicates). MNLI's mismatched files are about
persons instead of programs. The test files have no labels.
"""

Texts = tuple[str, str | None]


@dataclass(frozen=True)
class SampleTask:
    """How one task is made: the generator, the parts of 100 of each label, and the sizes of train, dev and test."""

    make: Callable[[Draw, str], Texts]
    label_parts: dict[str, int]
    num_train: int
    num_dev: int = 240
    num_test: int = 80
    make_mismatched: Callable[[Draw, str], Texts] | None = None

    def num_examples(self, split: SplitFile) -> int:
        """The size of a split by the first part of its name."""
        return {"train": self.num_train, "dev": self.num_dev, "test": self.num_test}[split.name.partition("_")[0]]


_HALVES = {"0": 50, "1": 50}
_TWO_WAY = {"entailment": 50, "not_entailment": 50}
_THREE_WAY = {"entailment": 1, "neutral": 1, "contradiction": 1}


def _scored(draw: Draw, label: str) -> Texts:
    raise AssertionError("STS-B draws its score with its texts")


SAMPLES: dict[str, SampleTask] = {
    "CoLA": SampleTask(acceptability, _HALVES, 1600),
    "SST-2": SampleTask(sentiment, _HALVES, 1200),
    "MRPC": SampleTask(paraphrase, {"0": 32, "1": 68}, 1200),
    "STS-B": SampleTask(_scored, {}, 1200),
    "QQP": SampleTask(duplicate_question, {"0": 63, "1": 37}, 1200),
    "MNLI": SampleTask(inference, _THREE_WAY, 1200, make_mismatched=inference_about_people),
    "QNLI": SampleTask(answered_question, _TWO_WAY, 1200),
    "RTE": SampleTask(entailment, _TWO_WAY, 1200),
    "WNLI": SampleTask(pronoun_reference, _HALVES, 1000),
}


def sample_tasks_folder() -> Path:
    """The folder of the sample tasks, made at first use: a GLUE folder with all nine tasks.

    It lies in the cache under the hash of its makers' source, so an edited generator makes a new one.
    """
    digest = hashlib.sha256()
    for source in [*sorted(Path(__file__).parent.glob("*.py")), Path(tasks.__file__), Path(table_files.__file__)]:
        digest.update(source.read_bytes())
    folder = cache_folder() / f"sample_glue-v1-{digest.hexdigest()[:12]}"
    if not folder.is_dir():
        write_sample_tasks(folder)
    return folder


def is_sample_folder(folder: Path) -> bool:
    """Whether a GLUE folder holds the sample tasks: its README says so in the first line."""
    readme = folder / README
    return readme.is_file() and readme.read_text(encoding="utf-8", errors="replace").startswith(SAMPLE_NOTICE)


def write_sample_tasks(folder: Path) -> None:
    """Write all nine tasks into a new folder, whole or not at all; always the same bytes."""
    with new_folder(folder) as temporary:
        write_text(temporary / README, README_TEXT)
        for name, sample in SAMPLES.items():
            _write_task(temporary / name, TASKS[name], sample)


def _write_task(folder: Path, task: Task, sample: SampleTask) -> None:
    draw = Draw(zlib.crc32(task.name.encode()))
    seen: set[Texts] = set()
    for split in task.splits:
        examples = _draw_split(draw, task, sample, split, seen)
        write_text(folder / split.file, table_text(split, examples, source="sample"))


def _draw_split(draw: Draw, task: Task, sample: SampleTask, split: SplitFile, seen: set[Texts]) -> list[Example]:
    """Examples whose texts occur nowhere else in the task (`seen` grows), with exact shares of the labels."""
    count = sample.num_examples(split)
    make = sample.make_mismatched if split.name.endswith("_mismatched") and sample.make_mismatched else sample.make
    examples: list[Example] = []
    labels = draw.shuffled(_labels(sample, count))
    while len(examples) < count:
        if task.is_regression:
            first, second, score = graded_similarity(draw)
            example = Example(first, second, f"{score:.3f}")
        else:
            example = Example(*make(draw, labels[len(examples)]), labels[len(examples)])
        texts = (example.first, example.second)
        if texts not in seen and texts[0] != texts[1]:
            seen.add(texts)
            examples.append(example)
    return examples


def _labels(sample: SampleTask, count: int) -> list[str]:
    """`count` labels in the sample's proportions; rounding gives or takes from the last one."""
    total = sum(sample.label_parts.values())
    labels = [label for label, part in sample.label_parts.items() for _ in range(round(count * part / total))]
    return (labels + list(sample.label_parts)[-1:] * count)[:count]
