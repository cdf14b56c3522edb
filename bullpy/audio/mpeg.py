"""Headers of MPEG audio frames: is this an MP3 or AAC, how long is it, does it end with a frame?

Sources: ISO/IEC 11172-3 section 2.4 and ISO/IEC 13818-3 section 2.4. The frames that tell a
length are no standard: Xing's stands behind the side information of an empty first frame,
Fraunhofer's VBRI 32 bytes behind that frame's header.
"""

from __future__ import annotations

import struct

TAIL_BYTES = 16 * 1024
"""Bytes at a file's end that hold several frames of any bit rate."""

_MOST_FRAMES = 1 << 24  # 4 days at 48 kHz; times 1152 samples it still fits 64 bits
_CHAIN = 4  # frames in a row that are no accident
_BITRATES = {  # kbit/s by (MPEG-1, layer), ISO/IEC 11172-3 2.4.2.3 and 13818-3 2.4.2.3
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def find_frames(window: bytes) -> int | None:
    """Where two MPEG audio frames follow each other in the bytes; None when nowhere.

    One sync word is no proof: random bytes hold one every few hundred bytes.
    """
    at = window.find(b"\xff")
    while 0 <= at <= len(window) - 4:
        length = frame_length(window[at : at + 4])
        following = at + length
        if length and following + 4 <= len(window):
            after = window[following : following + 4]
            # Version, layer and rate stay the same through a stream.
            if frame_length(after) and (after[1] & 0x1E) == (window[at + 1] & 0x1E):
                return at
        elif length and following == len(window):
            return at
        at = window.find(b"\xff", at + 1)
    return None


def starts_with_adts(window: bytes) -> bool:
    """Whether two AAC frames follow each other from the start, ISO/IEC 13818-7 6.2."""
    at = 0
    for _ in range(2):
        header = window[at : at + 7]
        # Sync word, layer 0, a sample rate that exists; the length counts the header.
        if len(header) < 7 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0:
            return False
        length = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
        if header[2] >> 2 & 15 > 12 or length < 7:
            return False
        at += length
        if at == len(window):
            return True
    return True


def tells_length(frame: bytes) -> bool:
    """Whether a file's first frame holds the number of frames, and no audio.

    Args:
        frame: The frame, and whatever follows.
    """
    at = 4 + _side_bytes(frame)
    return frame[at : at + 4] in (b"Xing", b"Info") or frame[36:40] == b"VBRI"


def length_frame(frame: bytes) -> bytes:
    """A frame that tells that as many frames follow as it can say; b"" for other layers than III.

    Args:
        frame: The file's first frame, or its header: version, rate and channels come from it.
    """
    if _layer(frame) != 3:
        return b""
    # No checksum; 128 kbit/s in MPEG-1, 64 in MPEG-2: room for what follows.
    header = bytes([0xFF, frame[1] | 1, frame[2] & 0x0C | (0x90 if _is_mpeg1(frame) else 0x80)])
    header += frame[3:4]
    text = header + bytes(_side_bytes(frame)) + b"Xing" + struct.pack(">II", 1, _MOST_FRAMES)
    return text.ljust(frame_length(header), b"\0")


def ends_inside_frame(tail: bytes) -> bool:
    """Whether a file was surely cut off: its last frame is not whole.

    False says nothing: a file cut between two frames ends like a whole one, and behind tags
    or junk no frame is last.

    Args:
        tail: The last `TAIL_BYTES` of the file.
    """
    at = tail.find(b"\xff")
    while at >= 0:
        frames, end = _chain(tail, at)
        if frames >= _CHAIN:
            return end > len(tail)
        at = tail.find(b"\xff", at + 1)
    return False


def _layer(header: bytes) -> int:
    return 4 - (header[1] >> 1 & 3)


def _is_mpeg1(header: bytes) -> bool:
    return header[1] >> 3 & 3 == 3


def _side_bytes(header: bytes) -> int:
    """Bytes of the side information that follows the header of a layer III frame."""
    mono = header[3] >> 6 == 3
    if _is_mpeg1(header):
        return 17 if mono else 32
    return 9 if mono else 17


def _chain(tail: bytes, at: int) -> tuple[int, int]:
    """How many frames follow each other from a position on, and where the last one ends."""
    first = tail[at : at + 4]
    frames = 0
    while at + 4 <= len(tail):
        header = tail[at : at + 4]
        same = (header[1] ^ first[1]) & 0x1E == 0 and (header[2] ^ first[2]) & 0x0C == 0
        length = frame_length(header) if same else 0
        if not length:
            break
        frames += 1
        at += length
    return frames, at


def frame_length(header: bytes) -> int:
    """Bytes of the MPEG audio frame that a header starts; 0 when it is none."""
    version, layer = header[1] >> 3 & 3, _layer(header)
    bitrate, rate = header[2] >> 4, header[2] >> 2 & 3
    if header[0] != 0xFF or header[1] & 0xE0 != 0xE0 or version == 1 or layer == 4:
        return 0
    if bitrate in (0, 15) or rate == 3:
        return 0
    bits = _BITRATES[version == 3, layer][bitrate - 1] * 1000
    hertz, padding = _RATES[version][rate], header[2] >> 1 & 1
    if layer == 1:
        return (12 * bits // hertz + padding) * 4
    factor = 72 if layer == 3 and version != 3 else 144
    return factor * bits // hertz + padding
