"""Takes comments out of compressed images: JPEG, JPEG-LS and JPEG 2000 may hold any text beside their pixels."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydicom.encaps import encapsulate, generate_frames

from analysis.errors import DataError

_JPEG, _JPEG_2000 = b"\xff\xd8", b"\xff\x4f"
_END = b"\xff\xd9"
_MOST_RUN_LENGTH_PARTS = 15
_START_OF_SCAN, _START_OF_TILE, _END_OF_IMAGE = 0xDA, 0x90, 0xD9
#: Segments of applications, and comments (ITU-T T.81, table B.1; T.87; T.800, table A.2).
_SPOKEN = {_JPEG: {*range(0xE0, 0xF0), 0xFE}, _JPEG_2000: {0x64}}
#: What ends the coded data of a scan: a marker, but for those of restarts. In JPEG-LS, a byte under 0x80 is data after
#: 0xFF, in JPEG only 0x00, and no other of these is a marker.
_MARKER = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")


def without_comments(data: bytes, n_frames: int) -> bytes:
    """Encapsulated pixel data without comments and without what follows the end of an image.

    Parameters
    ----------
    data
        Value of PixelData.
    n_frames
        How many frames are in it.

    Raises
    ------
    DataError
        If a frame is not whole, or of an unknown compression.
    """
    made: bytes = encapsulate([_silent(frame) for frame in generate_frames(data, number_of_frames=n_frames)])
    return made


def _silent(frame: bytes) -> bytes:
    start = frame[:2]
    if start not in _SPOKEN:
        # Run lengths have no place for text; their head tells first how many parts follow.
        if 1 <= int.from_bytes(frame[:4], "little") <= _MOST_RUN_LENGTH_PARTS:
            return frame
        raise DataError("pixel data of a compression that is not known here; export the series uncompressed")
    try:
        silent = start + b"".join(_kept(frame, start))
    except IndexError as error:
        raise DataError("compressed pixel data is cut or damaged; export the series again") from error
    return silent + b"\0" * (len(silent) % 2)


def _kept(frame: bytes, start: bytes) -> Iterator[bytes]:
    """Segments that are not spoken, with the coded data that follows them, and the end of the image."""
    place = 2
    while True:
        while frame[place] == frame[place + 1] == 0xFF:  # may fill the space before a marker
            place += 1
        marker = frame[place + 1]
        if frame[place] != 0xFF:
            raise IndexError(place)
        if marker == _END_OF_IMAGE:
            yield _END
            return
        if marker == _START_OF_TILE and start == _JPEG_2000:
            yield frame[place : frame.rindex(_END) + 2] if _END in frame[place:] else frame[place:]
            return
        end = place + 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
        if marker == _START_OF_SCAN and start == _JPEG:
            found = _MARKER.search(frame, end)
            if not found:
                raise IndexError(end)
            end = found.start()
        if marker not in _SPOKEN[start]:
            yield frame[place:end]
        if end <= place + 2:
            raise IndexError(end)
        place = end
