"""Settings of the memory allocator: keep freed memory for the next step, or share it between decoding threads.

glibc returns every freed block above 32 MB to the kernel and requests the next one again, page fault by page fault. For
the default recipe on two CPU cores these were 730 faults per image, and between 6 and 36 % of the processor time
(benchmarks/results/memory_xeon-2-5ghz_2026-11-21.md).
"""

import ctypes
import gc

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # parameters of mallopt(3)
_NEVER = -1


def keep_memory_warm() -> bool:
    """Let the C library keep freed memory; call it before the first large tensor.

    Returns:
        Whether it was set: other C libraries than glibc have no such setting, and need none.
    """
    return _set_options({_MMAP_MAX: 0, _TRIM_THRESHOLD: _NEVER})


def release_memory() -> bool:
    """Return freed memory to the system; call it between parts of a program that hold different large tensors.

    Without it, four short trainings one after the other took 11.7 GB, and one of them 3.4 GB: small tensors that
    outlive a part divide the memory that it has freed.

    Returns:
        Whether some memory was returned.
    """
    gc.collect()
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError, TypeError):
        return False


def share_memory_between_threads() -> bool:
    """Let all threads of the C library share one pool of memory; call it before they start.

    By default each thread of glibc keeps the memory that it has freed: after some images of 50 megapixels these were
    0.3 GB that other threads could not use.

    Returns:
        Whether it was set.
    """
    return _set_options({_ARENA_MAX: 1})


def _set_options(options: dict[int, int]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(mallopt(option, value) for option, value in options.items())
