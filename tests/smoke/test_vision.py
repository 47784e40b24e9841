"""docs/vision.md: its five models train with `--optim adan` in the Trainer, and in Hugging Face's scripts."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nlp_adan import Adan
from nlp_adan.state_formats import STATE_NAMES
from tests.docs.test_readme import check_command, lines

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "vision.md").read_text(encoding="utf-8")
MODELS, IMAGES = re.findall(r"```py\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = [line for line in lines(PAGE) if line.startswith("python -m nlp_adan ")]
TINY = [command for command in COMMANDS if " tiny/" in command]
NAMES = ("vit", "swin", "resnet", "convnext", "vit_mae")
# The folder examples/pytorch of a clone of transformers, or one with the two scripts.
SCRIPTS = os.environ.get("NLP_ADAN_HF_EXAMPLES")
OPTIONS: dict[str, Any] = {
    "optim": "adan", "optim_args": "beta1=0.9,beta2=0.9,beta3=0.999", "learning_rate": 5e-3, "weight_decay": 0.02,
    "max_grad_norm": 0.0, "lr_scheduler_type": "constant", "max_steps": 12, "per_device_train_batch_size": 8,
    "logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True,
}  # fmt: skip
UNUSABLE: Any = (ImportError, RuntimeError)  # torchvision is not there, or is one for another build of torch
# Of the evaluation that a script asks the hub for, in its place, so that nothing is fetched.
ACCURACY = '''
import datasets
import evaluate


class Accuracy(evaluate.Metric):
    """Share of the predictions that are the reference."""

    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int32"), "references": datasets.Value("int32")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"accuracy": sum(a == b for a, b in zip(predictions, references)) / len(references)}
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the page's first program has run: the five models are in tiny/."""
    path, before = tmp_path_factory.mktemp("vision"), Path.cwd()
    os.chdir(path)
    try:
        torch.manual_seed(0)
        exec(MODELS, {})
        yield path
    finally:
        os.chdir(before)


def load(folder: Path, name: str) -> Any:
    from transformers import AutoModelForImageClassification, AutoModelForPreTraining

    family = AutoModelForPreTraining if name == "vit_mae" else AutoModelForImageClassification
    return family.from_pretrained(folder / "tiny" / name)


def random_images(masked: bool) -> list[dict[str, Tensor | int]]:
    """Two colours under noise, with the colour's number; `masked`: with the order of 16 patches to hide instead."""
    generator = torch.Generator().manual_seed(0)
    found: list[dict[str, Tensor | int]] = []
    for number in range(32):
        label = number % 2
        pixels = (2.0 * label - 1.0) * torch.tensor([1.0, 0.0, -1.0])[:, None, None]
        image: dict[str, Tensor | int] = {"pixel_values": pixels + torch.randn(3, 32, 32, generator=generator)}
        found.append(image | ({"noise": torch.rand(16, generator=generator)} if masked else {"labels": label}))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_trainer_takes_the_steps_of_adan(folder: Path, name: str) -> None:
    """In the Trainer and by hand, the same batches from the same weights: the loss falls along one trajectory."""
    from transformers import Trainer, TrainingArguments, default_data_collator

    model = load(folder, name)
    by_hand = copy.deepcopy(model).train()
    batches: list[Any] = []

    def collate(examples: list[Any]) -> Any:
        batches.append(default_data_collator(examples))
        return {key: value.clone() for key, value in batches[-1].items()}

    args = TrainingArguments(str(folder / "runs" / name), **OPTIONS)
    trainer = Trainer(model, args, train_dataset=random_images(name == "vit_mae"), data_collator=collate)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    decayed = trainer.get_decay_parameter_names(by_hand)
    groups: list[dict[str, Any]] = [{"params": [], "weight_decay": 0.02}, {"params": [], "weight_decay": 0.0}]
    for parameter_name, parameter in by_hand.named_parameters():
        if parameter.requires_grad:
            groups[parameter_name not in decayed]["params"].append(parameter)
    assert all(group["params"] for group in groups)
    optimizer = Adan(groups, lr=5e-3, betas=(0.9, 0.9, 0.999))
    losses_by_hand = []
    for batch in batches[: OPTIONS["max_steps"]]:
        loss = by_hand(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses_by_hand.append(loss.item())

    assert losses == pytest.approx(losses_by_hand, abs=6e-5)  # the log rounds to four digits
    start = load(folder, name).state_dict()
    for parameter_name, parameter in by_hand.named_parameters():
        trained = model.get_parameter(parameter_name)
        if parameter.requires_grad:
            assert not torch.equal(trained, start[parameter_name]), parameter_name
        # Measured: no difference at all, in all five.
        torch.testing.assert_close(trained, parameter, rtol=0.0, atol=1e-6, msg=parameter_name)
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_real_images_through_torchvision(folder: Path) -> None:
    """The page's second program, and the transforms with which Hugging Face's scripts read images."""
    pytest.importorskip("PIL")
    pytest.importorskip("torchvision", exc_type=UNUSABLE)
    from PIL import Image
    from torchvision import transforms
    from transformers import Trainer, TrainingArguments

    exec(IMAGES, {})
    change = transforms.Compose(
        [transforms.RandomResizedCrop(32), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    )
    data = [
        {"pixel_values": change(Image.open(path).convert("RGB")), "labels": int(path.parent.name == "red")}
        for path in sorted(Path("images").rglob("*.png"))
    ]
    assert len(data) == 200
    trainer = Trainer(load(folder, "vit"), TrainingArguments("runs/torchvision", **OPTIONS), train_dataset=data)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_parses(command: str) -> None:
    check_command(command)


def test_every_model_has_its_command() -> None:
    assert [re.findall(r" tiny/(\w+) ", command)[0] for command in TINY] == list(NAMES)


@pytest.mark.skipif(not SCRIPTS, reason="NLP_ADAN_HF_EXAMPLES names no folder with Hugging Face's scripts")
@pytest.mark.parametrize("command", TINY, ids=NAMES)
def test_a_command_of_the_page_runs(folder: Path, command: str) -> None:
    pytest.importorskip("torchvision", exc_type=UNUSABLE)
    exec(IMAGES, {})
    Path("accuracy").mkdir(exist_ok=True)
    Path("accuracy", "accuracy.py").write_text(ACCURACY)
    _, *words = shlex.split(command)
    (script,) = Path(SCRIPTS or "").rglob(words[2])
    words[2] = str(script)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    more = ["--logging_steps", "5", "--use_cpu", "--report_to", "none", "--save_steps", "50"]
    run = subprocess.run([sys.executable, *words, *more], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    output = folder / words[words.index("--output_dir") + 1]
    assert (output / "model.safetensors").is_file()
    states = torch.load(output / "checkpoint-50" / "optimizer.pt", weights_only=True)["state"]
    assert states and all(set(STATE_NAMES) <= set(state) for state in states.values())
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < losses[0]
    if "run_mae" not in command:
        assert json.loads((output / "eval_results.json").read_text())["eval_accuracy"] > 0.8
