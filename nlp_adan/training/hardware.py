"""What a device could compute at best, the denominator of model FLOP/s utilisation (MFU)."""

from __future__ import annotations

import re

# Dense matrix products, float32 accumulation, in TFLOP/s per device as torch counts devices: bfloat16, or float16 where
# there is no bfloat16 (V100, T4). Data sheets print twice the figure where they mean structured sparsity; it is halved
# here. Names are matched whole, without the vendor: a laptop's, a cut-down or a partitioned (MIG) device of a similar
# name is another device, whose peak is not known here.
_PEAK_TFLOPS: tuple[tuple[str, float], ...] = (
    # NVIDIA, "V100 Tensor Core GPU" data sheet, 2020: "deep learning" row, float16.
    (r"V100-SXM[23]-\d+GB(-LS)?", 125),
    (r"V100-PCIE-\d+GB", 112),
    (r"V100S-PCIE-\d+GB", 130),
    # NVIDIA, "T4 Tensor Core GPU" data sheet: mixed precision, float16.
    (r"T4", 65),
    # NVIDIA, data sheets of the A10, A30 and A40: BFLOAT16 Tensor Core (sparse: 250, 330, 299.4).
    (r"A10", 125),
    (r"A30", 165),
    (r"A40", 149.7),
    # NVIDIA, "RTX A6000" data sheet: 309.7 with sparsity.
    (r"RTX A6000", 154.8),
    # NVIDIA, "A100 Tensor Core GPU" data sheet: every form and memory size (sparse: 624).
    (r"A100-(SXM4|PCIE)-(40|80)GB|A100 80GB PCIe", 312),
    # NVIDIA, data sheets of the L4 (sparse: 242) and the L40S (sparse: 733).
    (r"L4", 121),
    (r"L40S", 362),
    # NVIDIA, architecture white papers GA102, Ada and RTX Blackwell, appendix: "Peak BF16 Tensor TFLOPS with FP32
    # Accumulate".
    (r"GeForce RTX 3090", 71),
    (r"GeForce RTX 4090", 165.2),
    (r"GeForce RTX 5090", 209.5),
    # NVIDIA, "H100 Tensor Core GPU" data sheet (sparse: 1,979 SXM, 1,671 NVL); its first edition for PCIe (1,513).
    (r"H100 (80|96)GB HBM3", 989.4),
    (r"H100 PCIe", 756.5),
    (r"H100 NVL", 835.5),
    # NVIDIA, "H200" data sheet (sparse: 1,979 SXM, 1,671 NVL) and "GH200" data sheet (sparse: 1,979).
    (r"H200", 989.4),
    (r"H200 NVL", 835.5),
    (r"GH200 \d+GB", 989.4),
    # NVIDIA, "HGX B200" data sheet: 36 PFLOP/s sparse for eight.
    (r"B200", 2250),
    # AMD, data sheets: MI250X 383 for a module, which is two devices; MI300X.
    (r"Instinct MI250X", 191.5),
    (r"Instinct MI300X( VF)?", 1307.4),
)
_VENDOR = re.compile(r"^(nvidia|tesla|amd|\s)+", re.IGNORECASE)


def peak_flops(device_name: str) -> float | None:
    """Peak FLOP/s of one device, dense bfloat16 (float16 where it has no bfloat16); None where it is not known.

    Args:
        device_name: as `torch.cuda.get_device_name` gives it, such as "NVIDIA A100-SXM4-80GB".
    """
    name = _VENDOR.sub("", device_name.strip())
    for pattern, tflops in _PEAK_TFLOPS:
        if re.fullmatch(pattern, name, re.IGNORECASE):
            return tflops * 1e12
    return None
