"""Finds out how a text file is encoded."""

import codecs
from pathlib import Path

from medllm.errors import DataError

BLOCK = 1 << 20
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark is the beginning of this one
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def detect_encoding(path: Path) -> str:
    """The encoding of a text file: by its byte order mark, UTF-16 by its zero bytes, UTF-8 if all of it decodes, else cp1252.

    Raises:
        DataError: if it is none of these.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            return encoding
    # Latin text in UTF-16 has a zero in every second byte; a stray NUL in other text is far from that.
    for encoding, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
        if len(zeros) > 4 and zeros.count(0) > len(zeros) / 2:
            return encoding
    for encoding in ("utf-8", "cp1252"):
        if _decodes(path, encoding):
            return encoding
    raise DataError(
        f"{path.name}: neither UTF-8 nor UTF-16 nor cp1252\n    fix: name its encoding: data.encoding=gb18030 or the like"
    )


def _decodes(path: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                decoder.decode(block)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True
