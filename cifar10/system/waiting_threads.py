"""How PyTorch's threads wait for each other."""

import os

_SPINS = 10_000  # some hundred microseconds


def let_waiting_threads_sleep() -> None:
    """Let a thread that waits for others sleep after a fraction of a millisecond; call it before PyTorch is imported.

    GNU's OpenMP, which PyTorch for Linux uses, lets it spin for milliseconds by default. Beside other processes it then
    takes processor time from the threads that it waits for.
    https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(_SPINS))
