"""Derive seeds from several numbers, so that random numbers are keyed by seed, epoch and position."""

_MASK = 2**64 - 1


def fold_in(*numbers: int) -> int:
    """Return a seed below 2^63 that depends on every bit of every number and on their order.

    The finalizer of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014). NumPy's
    SeedSequence takes ten times as long, which matters at every step.
    """
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1
