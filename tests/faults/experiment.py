"""An experiment of the fault bench: it makes faults on purpose, and returns what each of them broke.

`bench.py` lists the experiments, `test_faults.py` runs their short form, `benchmarks/faults.py` runs all of it.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Trial:
    """One fault that was made."""

    fault: str
    """What was done, with its moment or kind: "SIGKILL after 1.3 s"."""
    problem: str = ""
    """What went wrong: the claim that does not hold, with the value that was seen. Empty if the fault was survived."""
    obstacle: str = ""
    """Why this machine cannot make the fault. Then it counts neither as tried nor as survived."""


Run = Callable[[int, Path], Iterable[Trial]]
"""Number of faults to make, and an empty folder to work in -> that many trials. The same faults every time."""


@dataclass(frozen=True)
class Experiment:
    """Faults of one kind, and the claim that the program survives them."""

    row: str
    """Of the table of results: C1, C2, ..."""
    name: str
    """Words separated by underscores; no two experiments have the same."""
    claim: str
    """What holds after each fault, in one sentence."""
    run: Run
    short: int
    """Number of faults in the tests."""
    full: int
    """Number of faults in the bench."""
    control: Run | None = None
    """The same faults and the same check, without what protects from them: at least one trial must show a problem."""
    is_quick: bool = False
    """Whether the short form takes about a second, so that it belongs to the default tests."""
    obstacle: Callable[[], str] = str
    """Returns why the experiment cannot be made on this machine, or ""."""


def sample(kinds: Iterable[str], number: int, seed: int = 0) -> list[str]:
    """Return `number` of the `kinds`, in their order: all of them, or those that the seed chooses."""
    kinds = list(kinds)
    chosen = set(random.Random(seed).sample(range(len(kinds)), min(number, len(kinds))))
    return [kind for index, kind in enumerate(kinds) if index in chosen]
