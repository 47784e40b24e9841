"""The default of precision and compilation on devices that need not be here."""

from __future__ import annotations

import pytest
import torch

from nlp_adan.training.precision import Device, chosen_precision, detect_device

AMPERE = Device("cuda", bf16_supported=True, capability=(8, 0), has_triton=True)
TURING = Device("cuda", bf16_supported=False, capability=(7, 5), has_triton=True)
INSTINCT = Device("cuda", bf16_supported=True, capability=None, has_triton=True)
WITHOUT_TRITON = Device("cuda", bf16_supported=True, capability=(9, 0), has_triton=False)


@pytest.mark.parametrize(
    ("device", "shards_parameters", "bf16", "torch_compile", "why"),
    [
        (AMPERE, False, True, True, "bfloat16, compiled"),
        (AMPERE, True, True, False, "sharded"),
        (TURING, False, False, False, "no bfloat16"),
        (INSTINCT, False, True, False, "none of NVIDIA's"),
        (WITHOUT_TRITON, False, True, False, "no triton"),
        (Device("cpu"), False, False, False, "cpu"),
        (Device("mps", bf16_supported=True), False, False, False, "mps"),
    ],
)
def test_choice(device: Device, shards_parameters: bool, bf16: bool, torch_compile: bool, why: str) -> None:
    found = chosen_precision(device, shards_parameters=shards_parameters)
    assert (found.bf16, found.torch_compile) == (bf16, torch_compile)
    assert why in found.reason


def test_detects_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU stands in by the answers of torch that are asked for."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if name == "triton" else None)
    monkeypatch.setattr(torch.version, "hip", None)
    assert detect_device() == Device("cuda", bf16_supported=True, capability=(9, 0), has_triton=True)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert detect_device().capability is None


def test_detects_a_machine_without_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert detect_device() == Device("cpu")
