"""Keeps memory that a step has used for the next step.

glibc returns every freed block above 32 MB to the kernel and takes the next one anew, page fault by page fault: for the
default recipe on two CPU cores that was 730 faults an image, and between 6 and 36 % of the processor time
(benchmarks/results/memory_xeon-2-5ghz_2026-11-21.md).
"""

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of mallopt(3)
_NEVER = -1


def keep_memory_warm() -> bool:
    """Tell the C library to hold on to freed memory; must run before the first large tensor.

    Returns:
        Whether it could be told: other C libraries than glibc have no such setting, and need none.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, _NEVER))
