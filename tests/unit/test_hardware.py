"""Peak FLOP/s by the names that drivers give to devices."""

from __future__ import annotations

import pytest

from nlp_adan.training.hardware import peak_flops

KNOWN = {
    "Tesla V100-SXM2-16GB": 125, "Tesla V100-SXM2-32GB": 125, "Tesla V100-PCIE-32GB": 112,
    "Tesla V100S-PCIE-32GB": 130, "Tesla T4": 65, "NVIDIA A10": 125, "NVIDIA A30": 165, "NVIDIA A40": 149.7,
    "NVIDIA RTX A6000": 154.8, "A100-SXM4-40GB": 312, "NVIDIA A100-SXM4-40GB": 312, "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA A100-PCIE-40GB": 312, "NVIDIA A100 80GB PCIe": 312, "NVIDIA L4": 121, "NVIDIA L40S": 362,
    "NVIDIA GeForce RTX 3090": 71, "NVIDIA GeForce RTX 4090": 165.2, "NVIDIA GeForce RTX 5090": 209.5,
    "NVIDIA H100 80GB HBM3": 989.4, "NVIDIA H100 PCIe": 756.5, "NVIDIA H100 NVL": 835.5, "NVIDIA H200": 989.4,
    "NVIDIA H200 NVL": 835.5, "NVIDIA GH200 480GB": 989.4, "NVIDIA B200": 2250,
    "AMD Instinct MI250X": 191.5, "AMD Instinct MI300X": 1307.4, "AMD Instinct MI300X VF": 1307.4,
}  # fmt: skip
# A part of a device, or another one whose name begins alike.
UNKNOWN = (
    "", "NVIDIA A100-SXM-64GB", "NVIDIA H100 80GB HBM2e", "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
    "NVIDIA H100 80GB HBM3 MIG 3g.40gb", "NVIDIA A10G", "NVIDIA A16", "NVIDIA L40", "NVIDIA H20",
    "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 5090 Laptop GPU",
    "NVIDIA GeForce RTX 3090 Ti", "Tesla P100-PCIE-16GB", "NVIDIA GB200", "AMD Instinct MI250X/MI250",
    "Intel(R) Xeon(R) Processor",
)  # fmt: skip


@pytest.mark.parametrize(("name", "tflops"), KNOWN.items())
def test_peak_of_a_device(name: str, tflops: float) -> None:
    assert peak_flops(name) == tflops * 1e12


@pytest.mark.parametrize("name", UNKNOWN)
def test_no_peak_is_better_than_another_devices(name: str) -> None:
    assert peak_flops(name) is None
