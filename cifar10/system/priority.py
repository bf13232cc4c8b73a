"""Priority of threads on busy processors."""

import os
import sys
import threading

_NICENESS = 5


def give_way() -> None:
    """Lower the priority of this thread, and of those that it starts from now on, so that others go first.

    On Linux only: elsewhere, a priority is that of a whole process.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(os.getpriority(os.PRIO_PROCESS, thread), _NICENESS))
