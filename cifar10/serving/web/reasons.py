"""Why an image cannot be used, in the language of the visitor."""

import re

from cifar10.serving.web.language import Language

_REASONS = (
    (r"empty file", "empty"),
    (r"too large: (?P<size>\d+ x \d+) pixels, the limit is (?P<limit>\d+) megapixels", "too_many_pixels"),
    (r"too large: the limit is (?P<limit>\d+) megapixels", "too_many"),
    (r"too large: .*limit (?:is|of) (?P<limit>\d+) MiB", "too_large"),
    (r"too large for the memory that is left", "memory"),
    (r"not a PNG, JPEG.*", "no_image"),
    (r"a raw photo.*|a video.*|a JPEG 2000.*|a sound or video.*", "raw"),
    (r"damaged: .*", "damaged"),
    (r"not an address.*", "not_address"),
    (r"it is in a private network.*", "private"),
    (r"the server responds with (?P<detail>.*)", "status"),
    (r"cannot be fetched: (no connection|the server .*|it takes more .*)", "silent"),
    (r"cannot be fetched: .*", "not_fetched"),
)
"""Reasons of `ImageError` -> keys of the texts."""


def reason_in_words(reason: str, language: Language) -> str:
    """Return the reason of an `ImageError` as a sentence; one that is not known is returned as it is."""
    for pattern, key in _REASONS:
        if found := re.fullmatch(pattern, reason, re.DOTALL):
            return language(f"reasons.{key}", **found.groupdict())
    return language("reasons.other", detail=reason)
