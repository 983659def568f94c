"""What a measured number depends on, in one line."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import sona
from sona import _core


def machine(**versions: str) -> str:
    """Processor, cores, instruction tier, load and versions; ``versions`` names the libraries compared against."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            model = value.strip() if key.strip() == "model name" else model
    load = f"{os.getloadavg()[1]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    libraries = "".join(f", {name} {version}" for name, version in versions.items())
    return (
        f"{model}, {os.cpu_count()} cores, SIMD tier {_core.simd_tier()}, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, sona {sona.__version__}{libraries}, load {load}"
    )
