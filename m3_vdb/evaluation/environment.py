"""What figures were measured on: versions, processor, commit."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Final

PACKAGES: Final = (
    *("m3-vdb", "numpy", "tokenizers", "onnxruntime", "openvino", "qdrant-client", "qdrant-edge-py", "pymilvus"),
    *("ir-measures", "bm25s"),
)


def describe_environment() -> dict[str, str]:
    """Package versions, Python, processor, cores, memory and, in a git checkout, the commit."""
    found = {name: version for name in PACKAGES if (version := _version(name))}
    found["python"] = platform.python_version()
    found["processor"] = _processor()
    found["cores"] = str(os.cpu_count() or "unknown")
    if memory := _memory_gib():
        found["memory"] = f"{memory:.0f} GiB"
    if commit := _commit(Path(__file__).parent):
        found["commit"] = commit
    return found


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_gib() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        return 0.0


def _commit(folder: Path) -> str:
    """Short hash of the checkout that the package runs from, "+" where its files differ; "" outside of one."""
    git = shutil.which("git")
    if git is None:
        return ""
    try:
        tracked = [git, "-C", str(folder), "ls-files", "--error-unmatch", "environment.py"]
        if subprocess.run(tracked, capture_output=True, check=False, timeout=10).returncode:
            return ""
        ask = [git, "-C", str(folder), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(ask, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
