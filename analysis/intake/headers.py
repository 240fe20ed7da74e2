"""Reads what the inventory needs of one DICOM file's header, and whether the file is whole; no pixel is decoded.

Plain files are stepped through element by element here, since an archive has millions of them: pydicom, which looks at
every element, reads a fifth as many files a second. What is not plain (another byte order, deflated, several frames,
characters beyond ASCII, no preamble, anything odd) goes through pydicom. Both give the same (tests compare them).
"""

from __future__ import annotations

import io
import logging
import math
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    MRImageStorage,
)

from synthsr.errors import DataError

#: Raised when a header would be read otherwise: what an earlier inventory read is then read again.
VERSION = 2

#: File name endings that promise a DICOM file; a file with one of them that is none is reported.
SUFFIXES = {".dcm", ".dicom", ".ima"}

#: The only elements kept, apart from the places of frames.
TAGS = (
    *("SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyDate", "Modality", "ConversionType"),
    *("SeriesDescription", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge"),
    *("BodyPartExamined", "ScanningSequence", "SequenceVariant", "SequenceName", "AngioFlag", "SliceThickness"),
    *("RepetitionTime", "EchoTime", "InversionTime", "MagneticFieldStrength", "ProtocolName", "ContrastBolusAgent"),
    *("FlipAngle", "DiffusionBValue", "StudyInstanceUID", "SeriesInstanceUID", "StudyID", "ImagePositionPatient"),
    *("ImageOrientationPatient", "SamplesPerPixel", "NumberOfFrames", "Rows", "Columns", "PixelSpacing"),
    *("BitsAllocated", "BurnedInAnnotation", "AcquisitionNumber", "TemporalPositionIdentifier"),
)
#: Multi-frame files say some of this elsewhere, under other names.
_MULTI_FRAME_TAGS = (
    *("EchoPulseSequence", "InversionRecovery", "EchoPlanarPulseSequence", "ContrastBolusAgentSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
_ELSEWHERE = {
    "RepetitionTime": ("RepetitionTime",),
    "EchoTime": ("EchoTime", "EffectiveEchoTime"),
    "InversionTime": ("InversionTime", "InversionTimes"),
    "FlipAngle": ("FlipAngle",),
    "DiffusionBValue": ("DiffusionBValue",),
    "SliceThickness": ("SliceThickness",),
}

#: What places a frame.
PLACE = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")

#: A file of these classes without an image is cut off.
IMAGE_CLASSES = (MRImageStorage, EnhancedMRImageStorage, CTImageStorage, EnhancedCTImageStorage)

UNREADABLE = "not a readable DICOM file"
TRUNCATED = "a file is truncated"
EXECUTABLE = "a file's preamble is that of an executable program"
#: Begin of programs for Linux, Windows and macOS; a TIFF's is legitimate (PS3.10, 7.1).
_PROGRAMS = (b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"#!")

#: A deflated file that inflates to more than this is not read; of the others this much is kept for the header.
MOST_INFLATED_BYTES, MOST_HEADER_BYTES = 1 << 32, 1 << 24
#: Sequences within sequences; standard ones have fewer than ten.
MOST_NESTED = 64
#: Values that are longer belong to no element of :data:`TAGS`.
_LONGEST_VALUE = 1 << 16
_CHUNK_BYTES = 1 << 14

_PIXEL_DATA, _SHARED_GROUPS, _FRAME_GROUPS = 0x7FE00010, 0x52009229, 0x52009230
_ITEM, _ITEM_END, _SEQUENCE_END, _UNDEFINED = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0xFFFFFFFF
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_VRS = _LONG_VRS | frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_KEYWORDS = {int(tag_for_keyword(keyword) or 0): keyword for keyword in TAGS}
_BINARY_KEYWORDS = {keyword: _BINARY[vr] for keyword in TAGS if (vr := dictionary_VR(keyword)) in _BINARY}
_EXPLICIT, _IMPLICIT, _LENGTH = struct.Struct("<HH2sH"), struct.Struct("<HHI"), struct.Struct("<I")

# Both would print values of headers, names among them.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


@dataclass(frozen=True)
class Header:
    """What one file says.

    Attributes
    ----------
    texts
        Values by keyword of :data:`TAGS` as text, several ones separated by ``\\``; empty where there is none.
    frames
        Of a multi-frame file: orientation, position and pixel spacing of each frame, as numbers.
    fault
        What is wrong with the file, or empty.
    """

    texts: dict[str, str]
    frames: list[list[list[float]]] = field(default_factory=list)
    fault: str = ""


class _NotPlainError(Exception):
    """The file is one for pydicom."""


def read(path: Path) -> Header | None:
    """Header of a file; None if it is no DICOM image and does not claim to be one.

    Raises
    ------
    DataError
        If its name or its first bytes promise DICOM, but it is none.
    OSError
        If the system does not let it be read.
    """
    try:
        with path.open("rb", buffering=0) as stream:
            start = stream.read(_CHUNK_BYTES)
            if not promises_dicom(start, path.name):
                return None
            if not _looks_like_dicom(start):
                raise DataError(f"{path}: {UNREADABLE}")
            try:
                header = _read_plain(_Window(stream.fileno(), start))
            except (_NotPlainError, struct.error):
                with path.open("rb") as buffered:
                    header = _read_any(buffered)
            if header and start[128:132] == b"DICM" and start.startswith(_PROGRAMS):
                return Header(header.texts, header.frames, EXECUTABLE)
            return header
    except (DataError, OSError):
        raise
    except Exception as error:  # pydicom raises nearly anything on a damaged file
        raise DataError(f"{path}: {UNREADABLE} ({type(error).__name__})") from error


def numbers(value: Any) -> list[float]:
    """Finite numbers of a text or of an element's value; empty if there are none or one of them is not a number."""
    if value is None or value == "":
        return []
    if isinstance(value, str):
        values: Iterable[Any] = value.split("\\")
    else:
        values = value if hasattr(value, "__iter__") else [value]
    try:
        found = [float(item) for item in values]
    except (TypeError, ValueError):
        return []
    return found if all(map(math.isfinite, found)) else []


def promises_dicom(start: bytes, name: str) -> bool:
    """Whether the begin of a file's content or the end of its name says that it is DICOM."""
    return _looks_like_dicom(start) or Path(name).suffix.lower() in SUFFIXES


def _looks_like_dicom(start: bytes) -> bool:
    """Look for the mark after the preamble, or, for files without preamble, a first element of group 2 or 8."""
    if start[128:132] == b"DICM":
        return True
    return len(start) >= 132 and start[:2] in (b"\x02\0", b"\x08\0") and start[3] == 0


class _Window:
    """A part of a file in memory, moved on as one steps through it."""

    def __init__(self, handle: int, start: bytes) -> None:
        self.handle, self.data, self.begin = handle, start, 0
        self.size = os.fstat(handle).st_size

    def at(self, place: int, length: int) -> int:
        """Index in ``data`` of a place in the file, with ``length`` bytes (fewer at the file's end) behind it."""
        index = place - self.begin
        if index + length > len(self.data) and self.begin + len(self.data) < self.size:
            self.data, self.begin = os.pread(self.handle, max(length, _CHUNK_BYTES), place), place
            return 0
        return index


def _read_plain(window: _Window) -> Header | None:
    """Step through a file of little-endian byte order with one frame."""
    if window.data[128:132] != b"DICM":
        raise _NotPlainError
    meta: dict[int, bytes] = {}
    place = _step(window, 132, is_explicit=True, wanted={0x00020002: "", 0x00020010: ""}, found=meta, until=0x0002FFFF)
    syntax = _ascii(meta.get(0x00020010, b""))
    if _ascii(meta.get(0x00020002, b"")) == MediaStorageDirectoryStorage:
        return None
    if syntax in ("", ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
        raise _NotPlainError
    is_explicit = syntax != ImplicitVRLittleEndian
    found: dict[int, bytes] = {}
    place = _step(window, place, is_explicit=is_explicit, wanted=_KEYWORDS, found=found, until=_PIXEL_DATA - 1)
    texts = dict.fromkeys(TAGS, "")
    for tag, value in found.items():
        keyword = _KEYWORDS[tag]
        if code := _BINARY_KEYWORDS.get(keyword):
            count = len(value) // struct.calcsize(code)
            texts[keyword] = "\\".join(map(str, struct.unpack(f"<{count}{code}", value)))
        else:
            texts[keyword] = _ascii(value)
    index = window.at(place, 12)
    head = window.data[index : index + 12]
    has_pixels = head[:4] == struct.pack("<HH", _PIXEL_DATA >> 16, _PIXEL_DATA & 0xFFFF) and len(head) == 12
    if not has_pixels and place + 8 <= window.size:
        raise _NotPlainError
    is_image = bool(found.get(0x00280010)) or _ascii(meta.get(0x00020002, b"")) in IMAGE_CLASSES
    if not is_image:
        return Header(texts)
    if not has_pixels:
        return Header(texts, fault=f"{TRUNCATED}: it has no pixel data")
    (length,) = _LENGTH.unpack_from(head, 8 if is_explicit else 4)
    there = window.size - place - (12 if is_explicit else 8)
    if length == _UNDEFINED:
        return Header(texts, fault=_encapsulation_fault(window, place + 12))
    return Header(texts, fault=_length_fault(texts, min(length, there)))


def _step(
    window: _Window, place: int, *, is_explicit: bool, wanted: dict[int, str], found: dict[int, bytes], until: int
) -> int:
    """Collect the wanted elements' bytes, from ``place`` on up to tag ``until``; the place of the first one behind."""
    last = 0
    while True:
        index = window.at(place, 12)
        data = window.data
        if index + 8 > len(data):
            return place
        if is_explicit:
            group, element, vr, length = _EXPLICIT.unpack_from(data, index)
            tag, size = group << 16 | element, 8
            if tag > until:
                return place
            if vr in _LONG_VRS:
                (length,) = _LENGTH.unpack_from(data, index + 8)
                size = 12
            elif vr not in _VRS:
                raise _NotPlainError
        else:
            group, element, length = _IMPLICIT.unpack_from(data, index)
            tag, size, vr = group << 16 | element, 8, b""
            if tag > until:
                return place
        if tag <= last or tag in (_SHARED_GROUPS, _FRAME_GROUPS):
            raise _NotPlainError
        last = tag
        if length == _UNDEFINED:
            if vr == b"UN":  # what is in it is implicit
                raise _NotPlainError
            place = _skip_sequence(window, place + size, is_explicit=is_explicit)
            continue
        if tag in wanted:
            if length > _LONGEST_VALUE:
                raise _NotPlainError
            index = window.at(place + size, length)
            found[tag] = window.data[index : index + length]
            if len(found[tag]) < length:
                raise _NotPlainError
        place += size + length


def _skip_sequence(window: _Window, place: int, *, is_explicit: bool) -> int:
    """Place behind a sequence of undefined length that begins at ``place``, whatever is nested in it."""
    depth = 1
    while depth:
        if depth > 2 * MOST_NESTED:
            raise DataError(f"{UNREADABLE} (sequences nested more than {MOST_NESTED} deep)")
        index = window.at(place, 12)
        group, element, length = _IMPLICIT.unpack_from(window.data, index)
        tag = group << 16 | element
        if tag in (_ITEM_END, _SEQUENCE_END):
            depth -= 1
            place += 8
            continue
        size = 8
        if tag != _ITEM and is_explicit:
            _, _, vr, length = _EXPLICIT.unpack_from(window.data, index)
            if vr in _LONG_VRS:
                (length,) = _LENGTH.unpack_from(window.data, index + 8)
                size = 12
            if vr not in _VRS or (vr == b"UN" and length == _UNDEFINED):
                raise _NotPlainError
        if length == _UNDEFINED:
            depth += 1
            length = 0
        place += size + length
    return place


def _ascii(value: bytes) -> str:
    if not value.isascii() or b"\x1b" in value:
        raise _NotPlainError
    return _clean(value.decode("ascii"))


def _clean(text: str) -> str:
    return " ".join(text.replace("\0", " ").split())


def _length_fault(texts: dict[str, str], there: int) -> str:
    """Compare the bytes of uncompressed pixels with what the header promises."""
    defaults = {"Rows": 0, "Columns": 0, "SamplesPerPixel": 1, "BitsAllocated": 16, "NumberOfFrames": 1}
    values = [int((numbers(texts[keyword]) or [default])[0]) for keyword, default in defaults.items()]
    expected = math.prod(value or 1 for value in values) // 8
    if there < expected:
        return f"{TRUNCATED}: {there} bytes of pixel data where {expected} are expected"
    return ""


def _encapsulation_fault(window: _Window, place: int) -> str:
    """Follow the fragments of compressed pixel data to their delimiter."""
    while place + 8 <= window.size:
        index = window.at(place, 8)
        group, element, length = _IMPLICIT.unpack_from(window.data, index)
        tag = group << 16 | element
        if tag == _SEQUENCE_END:
            return ""
        if tag != _ITEM or place + 8 + length > window.size:
            break
        place += 8 + length
    return f"{TRUNCATED}: its compressed pixel data have no end"


def _read_any(stream: BinaryIO) -> Header | None:
    """Read a file with pydicom."""
    tags = [*TAGS, *_MULTI_FRAME_TAGS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        deflated = _deflated(stream)
        if deflated:
            meta, content, fault = deflated
            data = pydicom.filereader.read_dataset(
                io.BytesIO(content), False, True, stop_when=_is_pixel_data, specific_tags=list(map(_tag, tags))
            )
            return _header(data, meta, fault)
        data = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=tags)
        if data.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
            return None
        return _header(data, data.file_meta, _pixel_fault(stream, data))


def _deflated(stream: BinaryIO) -> tuple[FileMetaDataset, bytes, str] | None:
    """Meta information, inflated begin and fault of a deflated file; None if it is none."""
    if stream.read(132)[128:] != b"DICM":
        stream.seek(0)
        return None
    stream.seek(0)
    pydicom.filereader.read_preamble(stream, force=False)
    meta = pydicom.filereader._read_file_meta_info(stream)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        stream.seek(0)
        return None
    # pydicom would inflate all of it, however much that is.
    inflate, kept, total = zlib.decompressobj(-zlib.MAX_WBITS), bytearray(), 0
    try:
        while not inflate.eof:
            if total > MOST_INFLATED_BYTES:
                raise DataError(f"{UNREADABLE} (inflates to more than {MOST_INFLATED_BYTES >> 30} GiB)")
            raw = inflate.unconsumed_tail or stream.read(_CHUNK_BYTES)
            part = inflate.decompress(raw, 1 << 20)
            if not raw and not part:
                return meta, bytes(kept), f"{TRUNCATED}: its deflated content has no end"
            kept += part[: MOST_HEADER_BYTES - len(kept)]
            total += len(part)
    except zlib.error as error:
        raise DataError(f"{UNREADABLE} (cannot be inflated)") from error
    return meta, bytes(kept), ""


def _is_pixel_data(tag: Any, vr: str | None, length: int) -> bool:
    return bool(tag == _PIXEL_DATA)


def _tag(keyword: str) -> Any:
    return pydicom.tag.Tag(keyword)


def _pixel_fault(stream: BinaryIO, data: Dataset) -> str:
    """What is wrong with the pixel data; ``stream`` stands where reading stopped, at their element."""
    if "Rows" not in data and data.file_meta.get("MediaStorageSOPClassUID") not in IMAGE_CLASSES:
        return ""  # a report or the like: the rules see to it
    is_implicit, is_little_endian = data.original_encoding
    order = ">" if is_little_endian is False else "<"
    if stream.read(4) != struct.pack(f"{order}HH", _PIXEL_DATA >> 16, _PIXEL_DATA & 0xFFFF):
        return f"{TRUNCATED}: it has no pixel data"
    if is_implicit:
        (length,) = struct.unpack(f"{order}I", stream.read(4))
    else:
        (length,) = struct.unpack(f"{order}4xI", stream.read(8))
    place = stream.tell()
    if length == _UNDEFINED:
        return _encapsulation_fault(_Window(stream.fileno(), b""), place)
    there = os.fstat(stream.fileno()).st_size - place
    return _length_fault({keyword: _text(data.get(keyword)) for keyword in TAGS}, min(length, there))


def _header(data: Dataset, meta: Dataset, fault: str) -> Header:
    texts = {keyword: _text(data.get(keyword)) for keyword in TAGS}
    if "PerFrameFunctionalGroupsSequence" not in data and "SharedFunctionalGroupsSequence" not in data:
        return Header(texts, fault=fault)
    shared = _first(data, "SharedFunctionalGroupsSequence")
    places = [(data, shared, frame) for frame in data.get("PerFrameFunctionalGroupsSequence") or [Dataset()]]
    for keyword, names in _ELSEWHERE.items():
        texts[keyword] = _text(_find(places[0], *names))
    texts["DiffusionBValue"] = _text(
        max((value for place in places for value in numbers(_find(place, "DiffusionBValue"))), default="")
    )
    texts["ScanningSequence"] = texts["ScanningSequence"] or "\\".join(_multi_frame_sequence(places[0]))
    if agents := data.get("ContrastBolusAgentSequence"):
        texts["ContrastBolusAgent"] = _text(agents[0].get("CodeMeaning")) or "given"
    frames = [[numbers(_find(place, keyword)) for keyword in PLACE] for place in places]
    return Header(texts, frames, fault)


def _multi_frame_sequence(places: Sequence[Dataset]) -> tuple[str, ...]:
    """What multi-frame files say in place of ``ScanningSequence``."""
    echo = {"SPIN": ("SE",), "GRADIENT": ("GR",), "BOTH": ("SE", "GR")}.get(_find(places, "EchoPulseSequence"), ())
    inversion = ("IR",) if _find(places, "InversionRecovery") == "YES" else ()
    planar = ("EP",) if _find(places, "EchoPlanarPulseSequence") == "YES" else ()
    return echo + inversion + planar


def _first(data: Dataset, keyword: str) -> Dataset:
    sequence = data.get(keyword)
    return sequence[0] if sequence else Dataset()


def _find(places: Iterable[Dataset], *keywords: str) -> Any:
    """Value of an element in the header, or one sequence deep in a functional group of a multi-frame file."""
    for place in places:
        for keyword in keywords:
            if place.get(keyword) not in (None, ""):
                return place.get(keyword)
        for element in place:
            if element.VR != "SQ" or not element.value or element.tag.is_private:
                continue
            if element.keyword.endswith("FunctionalGroupsSequence"):
                continue
            for keyword in keywords:
                if element.value[0].get(keyword) not in (None, ""):
                    return element.value[0].get(keyword)
    return None


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return _clean(str(value))
    return "\\".join(_clean(str(item)) for item in value)


def words(text: str) -> tuple[str, ...]:
    """Values of an element with several, in upper case."""
    return tuple(word.strip().upper() for word in text.split("\\")) if text else ()


def is_date(text: str) -> bool:
    """Whether it is a date as DICOM writes it."""
    return bool(re.fullmatch(r"(18|19|20|21)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])", text))
