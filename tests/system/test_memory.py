"""Memory that was freed between small survivors is returned to the system."""

import subprocess
import sys

import pytest

HOLES = """
import ctypes, sys
from cifar10.system.memory import keep_memory_warm, release_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

if not keep_memory_warm():
    sys.exit(3)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
large = []
for _ in range(50):
    block = libc.malloc(8 * 2**20)
    ctypes.memset(block, 1, 8 * 2**20)
    large.append(block)
    libc.malloc(1000)  # stays
for block in large:
    libc.free(block)
kept = resident()
release_memory()
print(int(kept), int(resident()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc and glibc")
def test_memory_between_small_survivors_is_returned() -> None:
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=False)
    if done.returncode == 3:
        pytest.skip("another C library than glibc")
    assert done.returncode == 0, done.stderr
    kept, released = map(int, done.stdout.split())
    assert kept > 400  # megabytes, which the allocator keeps
    assert released < kept - 350
