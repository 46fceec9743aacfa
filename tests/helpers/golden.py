"""When stored numbers may be compared bit for bit."""

from pathlib import Path

import torch


def processor():
    """What decides the bits: the vendor, the instructions that torch takes, its version."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    vendor = next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "?")
    return f"{vendor} {torch.backends.cpu.get_cpu_capability()} torch {torch.__version__.partition('+')[0]}"
