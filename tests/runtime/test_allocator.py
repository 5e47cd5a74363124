"""What the C library does with freed memory; on another one than glibc both functions say that they cannot."""

import subprocess
import sys

import pytest

from hessgnn.runtime import allocator

LINES = """
import sys
from pathlib import Path
from hessgnn.runtime.allocator import {function}

def resident():
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024

{before}
blocks = [bytearray(100_000) for _ in range(2000)]  # 190 MiB, each below the size that is mapped on its own
last = bytearray(100_000)
full = resident()
del blocks
{after}
print(full - resident())
"""


def freed(function, before="", after=""):
    """MiB that go back to the system, in a process of its own."""
    code = LINES.format(function=function, before=before, after=after)
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not allocator.release_freed_memory(), reason="the C library is not glibc")
def test_freed_memory_goes_back_when_asked_to():
    assert freed("release_freed_memory") < 50
    assert freed("release_freed_memory", after="assert release_freed_memory()") > 150


def test_another_c_library_is_told(monkeypatch):
    monkeypatch.setattr(allocator.ctypes.util, "find_library", lambda name: None)
    assert not allocator.keep_freed_memory()
    assert not allocator.release_freed_memory()
