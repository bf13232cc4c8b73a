"""The images in a request to `/predict`: a form with files, one encoded image, or JSON with images in base64."""

import asyncio
import base64
import binascii
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from pydantic_core import from_json

from cifar10.serving.http.errors import RequestError
from cifar10.serving.http.form import FormError, TooManyPartsError, files_of_form

_FORM, _JSON, _BYTES = "multipart/form-data", "application/json", "application/octet-stream"
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
_LONGEST_NAME = 200
LARGE_BODY = 2**16
"""Bytes from which JSON and forms are read in another thread, so that other requests are not held up."""
_NEEDED = (
    "send an image as the body (Content-Type: image/png or application/octet-stream), "
    'files in a form (multipart/form-data), or JSON: {"images": ["BASE64", ...]}'
)


class SentImage(NamedTuple):
    """An encoded image, and what the client calls it."""

    name: str
    data: bytes


async def images_of(headers: Mapping[str, str], body: bytes, max_images: int) -> list[SentImage]:
    """Return the images in `body`, at least one.

    Raises:
        RequestError: There are none or too many, or the body is not what its content type says.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not body:
        raise RequestError(400, f"the body is empty; {_NEEDED}")
    if kind == _FORM:
        images = await _read(partial(_form, headers, body, max_images), body)
    elif kind == _JSON:
        images = await _read(partial(_json, body), body)
    elif kind == _BYTES or kind.startswith("image/"):
        images = [SentImage("", body)]
    else:
        raise RequestError(415, f"Content-Type: {kind[:80] or '(none)'} is not known; {_NEEDED}")
    if not images:
        raise RequestError(400, f"there is no image in the body; {_NEEDED}")
    if len(images) > max_images:
        raise RequestError(413, f"{len(images)} images are too many; send at most {max_images} at a time")
    return images


async def _read(read: Callable[[], list[SentImage]], body: bytes) -> list[SentImage]:
    return await asyncio.to_thread(read) if len(body) >= LARGE_BODY else read()


def _form(headers: Mapping[str, str], body: bytes, max_images: int) -> list[SentImage]:
    try:
        files = files_of_form(headers["content-type"], body, max_images)
    except TooManyPartsError as error:
        raise RequestError(413, str(error)) from None
    except FormError as error:
        raise RequestError(400, f"the form cannot be read: {error}") from None
    return [SentImage(_name(name), data) for name, data in files]


def _name(text: str) -> str:
    """Return what a client calls an image, cut to a length that is enough, as text that UTF-8 can hold."""
    return text[:_LONGEST_NAME].encode("utf-8", "replace").decode()


def _json(body: bytes) -> list[SentImage]:
    try:
        values = from_json(body)
    except ValueError as error:
        raise RequestError(400, f"the body is not JSON: {str(error)[:100]}") from None
    given = values.get("images", values.get("image")) if isinstance(values, dict) else None
    given = [given] if isinstance(given, str | dict) else given
    if not isinstance(given, list):
        raise RequestError(422, f"JSON must have the key images, a list of base64; {_NEEDED}")
    return [_from_base64(entry, position) for position, entry in enumerate(given)]


def _from_base64(entry: object, position: int) -> SentImage:
    """Return an image that is given as base64, or as an object with the keys name and data."""
    name, text = "", entry
    if isinstance(entry, dict):
        name, text = entry.get("name", ""), entry.get("data")
    if not isinstance(text, str) or not isinstance(name, str):
        raise RequestError(422, f"image {position} is neither base64 nor an object with the keys name and data")
    if prefix := _DATA_URL.match(text):
        text = text[prefix.end() :]
    try:
        return SentImage(_name(name), base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise RequestError(422, f"image {position} is not valid base64") from None
