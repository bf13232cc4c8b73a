"""Files that are not images: photos and videos of other formats, archives, lists."""

import codecs
from pathlib import PurePath

_CONVERT = "convert it to JPEG or PNG first"

_KIND_OF_SUFFIX = {
    **dict.fromkeys((".jxl", ".jp2", ".j2k", ".jpx"), "JPEG XL or JPEG 2000 picture"),
    **dict.fromkeys(
        (".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw"), "raw photo"
    ),
    **dict.fromkeys((".psd", ".xcf", ".svg", ".eps", ".ico"), "drawing"),
    **dict.fromkeys((".mov", ".mp4", ".m4v", ".avi", ".mkv", ".webm", ".3gp", ".mts"), "video"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"), "archive"),
}
_HEIC_BRANDS = frozenset([b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"])
_AVIF_BRANDS = frozenset([b"avif", b"avis"])
_ARCHIVES = {
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "an empty zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\0": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"ustar": "a tar archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a rar archive",
}
_IMAGES_LIKE_TEXT = (b"P1", b"P2", b"P3", b"GIF8", b"II*\0", b"MM\0*", b"RIFF")  # plain PNM, and truncated others
_MOST_FOREIGN = 0.3  # part of the characters of a text that may be bytes of another encoding than UTF-8


def kind_of_name(name: str) -> str | None:
    """Return the kind of file by the extension of `name`: HEIC photo, video, ...; None if it is unknown."""
    return _KIND_OF_SUFFIX.get(PurePath(name).suffix.lower())


def is_heic(start: bytes) -> bool:
    """Return whether a file that begins with `start` is a HEIC photo, as telephones make them."""
    return not _brands(start).isdisjoint(_HEIC_BRANDS) and _brands(start).isdisjoint(_AVIF_BRANDS)


def kind_of_photo(start: bytes) -> str | None:
    """Return the kind of photo or video that begins with `start`, and the remedy; None for other files."""
    if start.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"\xff\x0a")):
        return f"a JPEG 2000 or JPEG XL picture, which is not read; {_CONVERT}"
    if start[4:8] != b"ftyp":
        is_other_riff = start.startswith(b"RIFF") and start[8:12] not in (b"WEBP", b"")
        return "a sound or video (RIFF), not a picture" if is_other_riff else None
    brands = _brands(start)
    if brands & _AVIF_BRANDS:
        return "damaged: an AVIF header that cannot be read"
    if brands & _HEIC_BRANDS:
        return "damaged: a HEIC header that cannot be read"
    if b"crx " in brands:
        return f"a raw photo, which is not read; {_CONVERT}"
    return "a video, which is not read; cut pictures out of it first"


def kind_of_collection(start: bytes) -> str | None:
    """Return `text` for text, the kind of archive that begins with `start`, and the remedy; None for other files."""
    for signature, name in _ARCHIVES.items():
        if start.startswith(signature, 257 if signature == b"ustar" else 0):
            return f"{name}; unpack it first, and name the folder"
    return "text" if _is_text(start) and not start.startswith(_IMAGES_LIKE_TEXT) else None


def _is_text(start: bytes) -> bool:
    # the last letter may be incomplete; bytes that are not UTF-8 become surrogates: old file names in a list
    text = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(start)
    foreign = sum("\udc80" <= letter <= "\udcff" for letter in text)
    plain = sum(letter.isprintable() or letter in "\t\r\n\0\ufeff" for letter in text)
    return text.strip("\0") != "" and plain + foreign == len(text) and foreign <= _MOST_FOREIGN * len(text)


def _brands(start: bytes) -> set[bytes]:
    """Return the brands of an ISO base media file, none for other files."""
    if start[4:8] != b"ftyp":
        return set()
    return {start[8:12], *(start[at : at + 4] for at in range(16, min(len(start), start[3]), 4))}
