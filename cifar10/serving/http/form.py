"""Files in a form, `multipart/form-data` (RFC 7578)."""

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_EXTENDED_NAME = re.compile(r"filename\*\s*=\s*\"?(?:[\w-]*'[^']*')?([^;\"]*)", re.ASCII | re.IGNORECASE)
_OF_FILES = (b"image/", b"application/octet-stream")


class FormError(ValueError):
    """The form cannot be read; the message says why."""


class TooManyPartsError(FormError):
    """The form has more parts than are taken."""


def files_of_form(kind: str, body: bytes, most_files: int) -> list[tuple[str, bytes]]:
    """Return the name and content of each file, in their order.

    A part without a file name is a file as well if its type is one of images, or if it is not text; the name is "".
    Text fields are passed over.

    Args:
        kind: Content-Type of the form, with its boundary.
        body: The form.
        most_files: And text fields, that are taken.

    Raises:
        FormError: It cannot be read, ends too early, or has too many parts.
    """
    boundary = parse_options_header(kind)[1].get(b"boundary")
    if not boundary:
        raise FormError("its boundary is missing in the Content-Type")
    form = _Form(most_files)
    try:
        MultipartParser(boundary, form.callbacks()).write(body)
    except FormParserError as error:
        raise FormError(f"{error}; check its boundary") from None
    if not form.has_ended:
        raise FormError("it ends too early: its last boundary is missing")
    return form.files


class _Form:
    """Collects the files while the parser reads the form, which it tells by calls.

    Args:
        most_files: And text fields, that are taken.
    """

    def __init__(self, most_files: int) -> None:
        self.files: list[tuple[str, bytes]] = []
        self.has_ended = False
        self._most_files = most_files
        self._num_fields = 0
        self._headers: dict[bytes, bytes] = {}
        self._header, self._value, self._content = bytearray(), bytearray(), bytearray()

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._check_headers,
            "on_part_data": lambda data, start, end: self._content.extend(data[start:end]),
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._headers, self._content = {}, bytearray()

    def _end_header(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _check_headers(self) -> None:
        if b"name" not in parse_options_header(self._headers.get(b"content-disposition"))[1]:
            raise FormError("a part has no Content-Disposition with a name")

    def _end_part(self) -> None:
        name, content = _file_name(self._headers[b"content-disposition"]), bytes(self._content)
        if name is not None or _is_file(self._headers.get(b"content-type", b""), content):
            self.files.append((name or "", content))
        else:
            self._num_fields += 1
        for kind, number in (("files", len(self.files)), ("fields", self._num_fields)):
            if number > self._most_files:
                raise TooManyPartsError(f"Too many {kind}; send at most {self._most_files} at a time")

    def _end(self) -> None:
        self.has_ended = True


def _file_name(disposition: bytes) -> str | None:
    """Return `filename`, or else `filename*`, which is percent-encoded UTF-8; None if there is neither."""
    given = parse_options_header(disposition)[1].get(b"filename")
    if given is not None:
        return _text(given)
    found = _EXTENDED_NAME.search(disposition.decode("latin-1"))
    return unquote(found[1]) if found else None


def _is_file(kind: bytes, content: bytes) -> bool:
    if kind.strip().lower().startswith(_OF_FILES):
        return True
    try:
        return "\0" in content.decode()
    except UnicodeDecodeError:
        return True


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")
