"""What the machine can do: which device, and whether it multiplies bfloat16 itself."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from encoders.errors import ModelError

if TYPE_CHECKING:
    from encoders.folder import Precision

CPUINFO = Path("/proc/cpuinfo")
_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


def choose_device(wanted: str) -> torch.device:
    """The device of that name; "auto" is the first CUDA device if there is one, else the CPU. Raises ModelError if there is none."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ModelError(
            f"device = {wanted!r} cannot be used ({reason}); set auto, cpu, or a device of this machine"
        ) from error
    return device


def choose_precision(wanted: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """bf16 for "auto" where the hardware has it, else fp32. Raises ModelError if bf16 is wanted by name and is not there."""
    if wanted == "fp32":
        return "fp32"
    if has_bf16(device):
        return "bf16"
    if wanted == "bf16":
        raise ModelError(
            f"dtype = 'bf16': {device} has no instructions for it, and would be slower than with fp32; set fp32 or auto"
        )
    return "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 itself."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and not _FLAGS.isdisjoint(_cpu_flags(CPUINFO))


def fuses() -> bool:
    """Whether the processor multiplies and adds in one instruction: ARM's do, and x86's with AVX2."""
    return platform.machine().lower() in ("aarch64", "arm64") or "fma" in _cpu_flags(CPUINFO)


def _cpu_flags(path: Path) -> frozenset[str]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())
