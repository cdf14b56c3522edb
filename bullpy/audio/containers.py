"""Where the samples of WAV, RF64, Wave64 and AIFF files lie, and how many are promised.

libsndfile reads such a file to its end without a word when the end is missing, and keeps the
positions of loudspeakers to itself. Both stand in the chunks before the samples.

Sources: Multimedia Programming Interface 1.0 (RIFF), EBU Tech 3306 (RF64), Sony Pictures'
Wave64 description, Apple's AIFF 1.3, Microsoft's WAVEFORMATEXTENSIBLE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, Literal

_MAX_CHUNKS = 4096
_EXTENSIBLE = 0xFFFE
_SIZE_IN_DS64 = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Samples:
    """Where the samples lie.

    Attributes:
        start: Their first byte.
        length: Bytes that the header promises; None when its writer did not know.
        channel_mask: Loudspeaker of each channel as WAVEFORMATEXTENSIBLE has it, one bit for
            each; None when the header does not say.
    """

    start: int
    length: int | None
    channel_mask: int | None = None


@dataclass(frozen=True, slots=True)
class _Layout:
    """How chunks of a kind of file are written.

    Attributes:
        name: What users call such a file.
        first: Position of the first chunk.
        order: Byte order.
        id_bytes: Bytes of a chunk's id, of which the first four are its name.
        size_bytes: Bytes of a chunk's size.
        whole: Whether the size counts the chunk's own header.
        align: Chunks start at multiples of this.
        data: Name of the chunk that holds the samples.
        skip: Bytes before the samples in that chunk.
    """

    name: str
    first: int = 12
    order: Literal["little", "big"] = "little"
    id_bytes: int = 4
    size_bytes: int = 4
    whole: bool = False
    align: int = 2
    data: bytes = b"data"
    skip: int = 0


_AIFF = _Layout("AIFF", order="big", data=b"SSND", skip=8)
_LAYOUTS: dict[tuple[bytes, bytes], _Layout] = {
    (b"RIFF", b"WAVE"): _Layout("WAV"),
    (b"RIFX", b"WAVE"): _Layout("WAV", order="big"),
    (b"RF64", b"WAVE"): _Layout("RF64"),
    (b"FORM", b"AIFF"): _AIFF,
    (b"FORM", b"AIFC"): _AIFF,
}
_WAVE64 = _Layout("Wave64", first=40, id_bytes=16, size_bytes=8, whole=True, align=8)


def kind(head: bytes) -> str | None:
    """What users call a file that starts like this; None when it has no chunks.

    Args:
        head: Its first 12 bytes.
    """
    layout = _layout(head)
    return layout.name if layout else None


def find_samples(file: BinaryIO, size: int) -> Samples | None:
    """Walk the chunks up to the samples; None when they are not reached.

    Args:
        file: A file that has a `kind`.
        size: Its size in bytes.
    """
    file.seek(0)
    layout = _layout(file.read(12))
    if layout is None:
        return None
    header_bytes = layout.id_bytes + layout.size_bytes
    position, mask, long_size = layout.first, None, None
    for _ in range(_MAX_CHUNKS):
        if position > size:
            return None
        file.seek(position)
        header = file.read(header_bytes)
        if len(header) < header_bytes:
            return None
        length = int.from_bytes(header[layout.id_bytes :], layout.order)
        length -= header_bytes if layout.whole else 0
        if length < 0:
            return None
        if header[:4] == layout.data:
            start = position + header_bytes + layout.skip
            # EBU Tech 3306: the 32-bit size gives way to the one in ds64.
            if long_size is not None and length == _SIZE_IN_DS64:
                return Samples(start, long_size, mask)
            return Samples(start, _known(length - layout.skip, layout), mask)
        if header[:4] == b"fmt ":
            mask = _channel_mask(file.read(24), layout.order)
        if header[:4] == b"ds64" and layout.name == "RF64":
            long_size = int.from_bytes(file.read(16)[8:], "little")
        end = position + header_bytes + length
        position = end + -end % layout.align
    return None


def _layout(head: bytes) -> _Layout | None:
    if head[:4] == b"riff":  # lower case, then the rest of a GUID
        return _WAVE64
    return _LAYOUTS.get((head[:4], head[8:12]))


def _known(length: int, layout: _Layout) -> int | None:
    """The length, unless it is what writers of streams put there for want of a better one.

    0xFFFFFFFF less a header is FFmpeg's and LAME's, 0x7FFFF000 SoX's, 0x80000000 arecord's.
    """
    unknown = length >= 0xFFFFF000 or 0x7FFFF000 <= length <= 0x80000000
    return None if layout.size_bytes == 4 and unknown else max(0, length)


def _channel_mask(fmt: bytes, order: Literal["little", "big"]) -> int | None:
    """The mask, where it has a loudspeaker for every channel."""
    if len(fmt) < 24 or int.from_bytes(fmt[:2], order) != _EXTENSIBLE:
        return None
    mask = int.from_bytes(fmt[20:24], order)
    return mask if mask.bit_count() == int.from_bytes(fmt[2:4], order) else None
