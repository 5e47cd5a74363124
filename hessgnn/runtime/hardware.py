"""What the numbers were computed on."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def hardware() -> str:
    """The processor and, where there is one, the GPU."""
    names = [_processor()]
    if torch.cuda.is_available():
        names.append(torch.cuda.get_device_name())
    return ", ".join(names)


def _processor() -> str:
    """Model of the processor; the platform's own word where Linux does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
