"""Searches everything a study leaves for identifiers, also where a plain search of files would not see them."""

from __future__ import annotations

import base64
import binascii
import bz2
import gzip
import html
import io
import json
import lzma
import re
import sqlite3
import struct
import tempfile
import urllib.parse
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as parquet

_PNG = b"\x89PNG\r\n\x1a\n"
_COMPRESSED = ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ", lzma))
#: A page that embeds a picture; a stream of a PDF, which is mostly compressed.
_EMBEDDED = re.compile(rb"base64,([A-Za-z0-9+/\s]+=*)")
_STREAM = re.compile(rb"stream\r?\n(.*?)endstream", re.DOTALL)
#: Archives within archives are looked into so often.
DEPTH = 4
#: Shorter pieces of base64 may come about by chance.
_SHORTEST_BASE64 = 7
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{%d,}" % _SHORTEST_BASE64)


def find(folders: Iterable[Path], secrets: Iterable[str]) -> list[str]:
    """Where a secret stands: ``file: secret`` of every find, in any case and any usual encoding.

    Looks at names of files and folders, at where links point to, and at files as they are; inside gzip, bz2, xz, zip
    (and what is one, such as npz), PDF and pictures that pages embed, in any nesting; at the texts and profiles of PNG,
    at columns and metadata of Parquet, at tables of SQLite. Snakemake names files by base64 of what they are about.
    """
    wanted = {secret: (_folded(secret), _wide(secret), _in_base64(secret)) for secret in secrets}
    found = []
    for folder in folders:
        for path in folder.rglob("*"):
            contents = [_Searched.of(content) for content in _contents(path, folder)]
            found += [
                f"{path.relative_to(folder)}: {secret}"
                for secret, forms in wanted.items()
                if any(content.has(*forms) for content in contents)
            ]
    return found


@dataclass(frozen=True)
class _Searched:
    """Content as forms of secrets are looked for: in lower case, every second byte of that, what may be base64."""

    lower: bytes
    halves: tuple[bytes, bytes]
    base64: bytes

    @classmethod
    def of(cls, content: bytes) -> _Searched:
        lower = content.lower()
        return cls(lower, (lower[::2], lower[1::2]), b"\n".join(_BASE64.findall(content)))

    def has(self, folded: Iterable[bytes], wide: Mapping[bytes, Iterable[bytes]], exact: Iterable[bytes]) -> bool:
        return (
            any(form in self.lower for form in folded)
            or any(self._has_wide(narrow, forms) for narrow, forms in wide.items())
            or any(form in self.base64 for form in exact)
        )

    def _has_wide(self, narrow: bytes, forms: Iterable[bytes]) -> bool:
        # Where zeros are, as in much of an image, a search for what has them takes ten times as long.
        return any(narrow in half for half in self.halves) and any(form in self.lower for form in forms)


def _spellings(secret: str) -> set[str]:
    """A secret and, of eight digits, the ways to write a date; numbers also without what separates their parts."""
    texts = {secret}
    if re.fullmatch(r"(19|20)\d{6}", secret):
        year, month, day = secret[:4], secret[4:6], secret[6:]
        texts |= {f"{year}-{month}-{day}", f"{day}.{month}.{year}", f"{day}/{month}/{year}", f"{month}/{day}/{year}"}
    elif len(joined := re.sub(r"\W", "", secret)) >= 8 and joined.isdigit():
        texts.add(joined)
    return texts


def _texts(secret: str) -> set[str]:
    """As texts, tables, pages and addresses write it."""
    # bytes.lower, which folds what is searched, knows no letters beyond ASCII.
    texts = {case for text in _spellings(secret) for case in (text, text.lower(), text.upper())}
    texts |= {json.dumps(text)[1:-1] for text in texts}
    texts |= {html.escape(text) for text in texts}
    return texts | {quote(text) for text in texts for quote in (urllib.parse.quote, urllib.parse.quote_plus)}


def _folded(secret: str) -> set[bytes]:
    forms = {text.encode(code, "ignore").lower() for text in _texts(secret) for code in ("utf-8", "latin-1")}
    return {form for form in forms if len(form) > 2}


def _wide(secret: str) -> dict[bytes, set[bytes]]:
    """In UTF-16, by the bytes of every second place, without the zeros between them."""
    wide: dict[bytes, set[bytes]] = defaultdict(set)
    for text in _texts(secret):
        for form in (text.encode(code).lower() for code in ("utf-16-le", "utf-16-be")):
            if len(form) > 2:
                wide[max(form[::2], form[1::2])].add(form)
    return wide


def _in_base64(secret: str) -> set[bytes]:
    """As it stands within longer base64: three ways, by the place at which it begins."""
    forms = set()
    for text in {case for spelt in _spellings(secret) for case in (spelt, spelt.lower(), spelt.upper())}:
        plain = text.encode()
        for before in range(3):
            code = base64.b64encode(b"\0" * before + plain)
            # Digits that belong to bytes before or behind are left out.
            form = code[(0, 2, 3)[before] : len(code) - (0, 3, 2)[(before + len(plain)) % 3]]
            forms |= {form, form.replace(b"+", b"-").replace(b"/", b"_")}
    return {form for form in forms if len(form) >= _SHORTEST_BASE64}


def _contents(path: Path, folder: Path) -> Iterator[bytes]:
    relative = str(path.relative_to(folder))
    yield relative.encode("utf-8", "surrogateescape")
    yield _from_base64("".join(path.relative_to(folder).parts[1:]))
    if path.is_symlink():
        yield str(path.readlink()).encode("utf-8", "surrogateescape")
    if path.is_file():
        yield from _unpacked(path.read_bytes(), DEPTH)


def _unpacked(content: bytes, depth: int) -> Iterator[bytes]:
    """Content and whatever is packed in it."""
    yield content
    if depth == 0:
        return
    for magic, opener in _COMPRESSED:
        if content.startswith(magic):
            yield from _unpacked(opener.decompress(content), depth - 1)
    if content.startswith(b"PK\3\4"):
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            for member in packed.infolist():
                yield member.filename.encode() + member.comment + member.extra
                yield from _unpacked(packed.read(member), depth - 1)
    if content.startswith(_PNG):
        yield from _png_texts(content)
    if content.startswith(b"PAR1"):
        table = parquet.read_table(io.BytesIO(content))
        yield repr(table.schema.metadata).encode()
        yield "\n".join(str(value) for column in table.columns for value in column.to_pylist()).encode()
    if content.startswith(b"SQLite format 3\0"):
        yield from (part for cell in _cells(content) for part in _unpacked(cell, depth - 1))
    if content.startswith(b"%PDF"):
        for stream in _STREAM.findall(content):
            yield from _inflated(stream)
    for code in _EMBEDDED.findall(content):
        yield from _unpacked(_from_base64(code.decode()), depth - 1)


def _cells(database: bytes) -> Iterator[bytes]:
    """Texts and bytes of all tables: those longer than a page lie in pieces."""
    with tempfile.NamedTemporaryFile(suffix=".sqlite") as file:
        file.write(database)
        file.flush()
        tables = sqlite3.connect(f"file:{file.name}?mode=ro&immutable=1", uri=True)
        names = [name for (name,) in tables.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in names:
            for row in tables.execute(f'SELECT * FROM "{name}"'):
                yield from (str(cell).encode() if not isinstance(cell, bytes) else cell for cell in row)
        tables.close()


def _inflated(stream: bytes) -> Iterator[bytes]:
    try:
        yield zlib.decompress(stream)
    except zlib.error:  # of another kind
        return


def _from_base64(name: str) -> bytes:
    try:
        return base64.b64decode(name.replace("-", "+").replace("_", "/") + "=" * (-len(name) % 4))
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
