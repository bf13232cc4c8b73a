"""Plural forms in messages."""


def counted(number: int, noun: str) -> str:
    """Return `number` with a noun whose plural ends in s: `1 image`, `1,000 images`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
