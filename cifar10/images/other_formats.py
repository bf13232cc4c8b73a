"""File formats that are recognised but not supported: other photo formats, videos, archives, lists."""

import codecs
from pathlib import PurePath

_CONVERT = "convert it to JPEG or PNG first"

_KIND_OF_SUFFIX = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC photo"),
    **dict.fromkeys((".avif", ".jxl", ".jp2", ".j2k", ".jpx"), "AVIF, JPEG XL or JPEG 2000 picture"),
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
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a rar archive",
}
_IMAGES_LIKE_TEXT = (b"P1", b"P2", b"P3", b"GIF8")  # plain PNM, and a truncated GIF


def kind_of_name(name: str) -> str | None:
    """Return the kind of file by the extension of `name`: HEIC photo, video, ...; None if it is unknown."""
    return _KIND_OF_SUFFIX.get(PurePath(name).suffix.lower())


def kind_of_photo(start: bytes) -> str | None:
    """Return the kind of photo or video that begins with `start`, and the remedy; None for other files."""
    if start.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"\xff\x0a")):
        return f"a JPEG 2000 or JPEG XL picture, which is not read; {_CONVERT}"
    if start[4:8] != b"ftyp":
        is_other_riff = start.startswith(b"RIFF") and start[8:12] not in (b"WEBP", b"")
        return "a sound or video (RIFF), not a picture" if is_other_riff else None
    brands = {start[8:12], *(start[at : at + 4] for at in range(16, min(len(start), start[3]), 4))}
    if brands & _AVIF_BRANDS:
        return f"an AVIF picture, which is not read; {_CONVERT}"
    if brands & _HEIC_BRANDS:
        return "a HEIC photo, which is not read; convert it to JPEG first (heif-convert, sips, ImageMagick)"
    if b"crx " in brands:
        return f"a raw photo, which is not read; {_CONVERT}"
    return "a video, which is not read; cut pictures out of it first"


def kind_of_collection(start: bytes) -> str | None:
    """Return the kind of archive or text that begins with `start`, and the remedy; None for other files."""
    for signature, name in _ARCHIVES.items():
        if start.startswith(signature):
            return f"{name}; unpack it first, and name the folder"
    if start[257:262] == b"ustar":
        return "a tar archive; unpack it first, and name the folder"
    # the last letter may be incomplete; bytes that are not UTF-8 become surrogates, which are not printable
    text = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(start)
    is_text = text != "" and all(letter.isprintable() or letter in "\t\r\n\ufeff" for letter in text)
    if is_text and not start.startswith(_IMAGES_LIKE_TEXT):
        return "a text file; name the folder of the images it lists, or a glob in quotes such as 'photos/*.png'"
    return None
