"""Settings of the memory allocator: keep freed memory for the next step, or share it between decoding threads.

glibc returns every freed block above 32 MB to the kernel and takes the next one anew, page fault by page fault: for the
default recipe on two CPU cores that was 730 faults an image, and between 6 and 36 % of the processor time
(benchmarks/results/memory_xeon-2-5ghz_2026-11-21.md).
"""

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # parameters of mallopt(3)
_NEVER = -1


def keep_memory_warm() -> bool:
    """Tell the C library to hold on to freed memory; must run before the first large tensor.

    Returns:
        Whether it could be told: other C libraries than glibc have no such setting, and need none.
    """
    return _set_options({_MMAP_MAX: 0, _TRIM_THRESHOLD: _NEVER})


def share_memory_between_threads() -> bool:
    """Tell the C library to let all threads take from one pool; must run before they start.

    By default each thread of glibc keeps what it has freed for itself: after some pictures of 50 megapixels that was
    0.3 GB that the others could not use.

    Returns:
        Whether it could be told.
    """
    return _set_options({_ARENA_MAX: 1})


def _set_options(options: dict[int, int]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(mallopt(option, value) for option, value in options.items())
