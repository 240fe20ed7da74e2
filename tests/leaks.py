"""Searches everything a study leaves for identifiers, also where a plain search of files would not see them."""

from __future__ import annotations

import base64
import binascii
import bz2
import gzip
import lzma
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as parquet

_PNG = b"\x89PNG\r\n\x1a\n"


def find(folders: Iterable[Path], secrets: Iterable[str]) -> list[str]:
    """Where a secret stands: ``file: secret`` of every find, in any case and any usual encoding.

    Looks at names of files and folders, at files as they are, inside gzip, bz2 and xz, at the texts and profiles of
    PNG, at columns and metadata of Parquet, and at where links point to. Snakemake names files by base64 of what they
    are about.
    """
    wanted = {secret: _written(secret) for secret in secrets}
    found = []
    for folder in folders:
        for path in folder.rglob("*"):
            contents = [content.lower() for content in _contents(path, folder)]
            found += [
                f"{path.relative_to(folder)}: {secret}"
                for secret, forms in wanted.items()
                if any(form in content for content in contents for form in forms)
            ]
    return found


def _written(secret: str) -> set[bytes]:
    """A secret as texts write it, in lower case; eight digits of a date also as ISO 8601 writes them."""
    texts = {secret.lower()}
    if len(secret) == 8 and secret.isdigit():
        texts.add(f"{secret[:4]}-{secret[4:6]}-{secret[6:]}")
    forms = {text.encode(code, "ignore") for text in texts for code in ("utf-8", "latin-1", "utf-16-le")}
    return {form for form in forms if len(form) > 2}


def _contents(path: Path, folder: Path) -> Iterator[bytes]:
    relative = str(path.relative_to(folder))
    yield relative.encode("utf-8", "surrogateescape")
    yield _from_base64("".join(path.relative_to(folder).parts[1:]))
    if path.is_symlink():
        yield str(path.readlink()).encode("utf-8", "surrogateescape")
    if not path.is_file():
        return
    content = path.read_bytes()
    yield content
    for magic, opener in ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ", lzma)):
        if content.startswith(magic):
            yield opener.decompress(content)
    if content.startswith(_PNG):
        yield from _png_texts(content)
    if content.startswith(b"PAR1"):
        table = parquet.read_table(path)
        yield repr(table.schema.metadata).encode()
        yield "\n".join(str(value) for column in table.columns for value in column.to_pylist()).encode()


def _from_base64(name: str) -> bytes:
    try:
        return base64.b64decode(name + "=" * (-len(name) % 4), altchars=b"-_")
    except (binascii.Error, ValueError):
        return b""


def _png_texts(content: bytes) -> Iterator[bytes]:
    """Chunks of a PNG that hold no pixels, compressed ones in plain."""
    place = len(_PNG)
    while place < len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        chunk = content[place + 8 : place + 8 + length]
        if kind != b"IDAT":
            yield kind + chunk
        if kind in (b"zTXt", b"iCCP"):
            yield zlib.decompress(chunk[chunk.index(b"\0") + 2 :])
        if kind == b"iTXt" and chunk[chunk.index(b"\0") + 1] == 1:
            start = chunk.index(b"\0", chunk.index(b"\0", chunk.index(b"\0") + 3) + 1) + 1
            yield zlib.decompress(chunk[start:])
        place += length + 12
