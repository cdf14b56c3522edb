"""What a file is by its first bytes, before any decoder sees it.

Three reasons not to leave this to libsndfile: it calls a text file with an `.mp3` name "not
a regular file", its MP3 decoder writes to the process's standard error while it searches,
and it reads a WAV file that lost its end without a word.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bullpy.audio.errors import (
    AudioLimitError,
    CorruptAudioError,
    EmptyAudioError,
    FileMissingError,
    NotAudioError,
    StoreError,
)

_SEARCH_BYTES = 64 * 1024
_MAX_CHUNKS = 4096
# Sizes that writers of streams put there because they cannot know better.
_UNKNOWN_SIZE = 0x7FFFFF00
_NOT_AUDIO = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x1a\x45\xdf\xa3", "a Matroska or WebM file"),
    (b"OggS", "an Ogg file"),
    (b"<", "HTML or XML"),
    (b"{", "JSON"),
)


@dataclass(frozen=True, slots=True)
class Sniffed:
    """What the first bytes tell.

    Attributes:
        size_bytes: Size of the file.
        missing_bytes: How many bytes of audio the header promises beyond the file's end.
    """

    size_bytes: int
    missing_bytes: int = 0


def sniff(path: Path, *, max_bytes: int) -> Sniffed:
    """Check that a file is WAV, AIFF, FLAC or MP3 by content; its name does not matter.

    Args:
        path: The file.
        max_bytes: Largest accepted size.

    Raises:
        FileMissingError: There is no such file.
        StoreError: It cannot be opened.
        NotAudioError: It is something else, or no regular file.
        EmptyAudioError: It has no bytes, or a header without audio.
        CorruptAudioError: Its header contradicts itself.
        AudioLimitError: It is larger than `max_bytes`.
    """
    try:
        status = path.stat()
        _check_status(path, status, max_bytes)
        with path.open("rb") as file:
            return _sniff(file, status.st_size, path.name)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileMissingError(f"There is no file {path.name!r}.") from error
    except OSError as error:
        raise StoreError(f"{path.name!r} cannot be read ({error.strerror or error}).") from error


def _check_status(path: Path, status: os.stat_result, max_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise NotAudioError(f"{path.name!r} is {kind}.")
    if status.st_size == 0:
        raise EmptyAudioError(f"{path.name!r} has no bytes.", cause="The upload was cut off.")
    if status.st_size > max_bytes:
        raise AudioLimitError(
            f"{path.name!r} has {status.st_size} bytes; at most {max_bytes} are accepted.",
            fix="Raise BULLPY_AUDIO_MAX_BYTES if such files are meant to pass.",
        )


def _sniff(file: BinaryIO, size: int, name: str) -> Sniffed:
    head = file.read(16)
    if head[:4] in (b"RIFF", b"RIFX") and head[8:12] == b"WAVE":
        return _sniff_riff(file, size, name, "little" if head[:4] == b"RIFF" else "big")
    # RF64, Sony Wave64 and AIFF carry 64-bit or big-endian sizes; libsndfile checks those.
    if (head[:4] == b"RF64" and head[8:12] == b"WAVE") or head[:4] == b"riff":
        return Sniffed(size)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return Sniffed(size)
    start = _after_id3(head, size, name)
    file.seek(start)
    window = file.read(_SEARCH_BYTES)
    if window[:4] == b"fLaC" or _find_mpeg_frames(window):
        return Sniffed(size)
    raise _not_audio(head, name)


def _sniff_riff(file: BinaryIO, size: int, name: str, order: str) -> Sniffed:
    """Walk the chunks of a WAV file up to its samples."""
    position = 12
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        header = file.read(8)
        if len(header) < 8:
            break
        length = int.from_bytes(header[4:8], "little" if order == "little" else "big")
        if header[:4] == b"data":
            return _sniff_data(position + 8, length, size, name)
        position += 8 + length + (length & 1)
    raise CorruptAudioError(
        f"{name!r} is a WAV file without a readable data chunk.",
        cause="It was cut off inside its header, or the header is damaged.",
        fix="Upload the file again.",
    )


def _sniff_data(start: int, length: int, size: int, name: str) -> Sniffed:
    available = size - start
    if length == 0 or available <= 0:
        written = f" although {available} bytes follow" if available > 0 else ""
        raise EmptyAudioError(
            f"{name!r} says that it holds 0 bytes of audio{written}.",
            cause="Its writer never finished the header, or the file was cut off.",
            fix="Export the file again.",
        )
    known = length < _UNKNOWN_SIZE
    return Sniffed(size, max(0, length - available) if known else 0)


def _after_id3(head: bytes, size: int, name: str) -> int:
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    length = 0
    for byte in head[6:10]:
        length = length << 7 | byte & 0x7F
    end = 10 + length + (10 if head[5] & 0x10 else 0)
    if end >= size:
        raise CorruptAudioError(
            f"{name!r} starts with an ID3 tag of {length} bytes that fills the whole file.",
            cause="The tag's size is damaged, or the file was cut off inside it.",
        )
    return end


def _find_mpeg_frames(window: bytes) -> bool:
    """Whether two MPEG audio frames follow each other somewhere in the bytes.

    One sync word is no proof: random bytes hold one every few hundred bytes.
    """
    at = window.find(b"\xff")
    while 0 <= at <= len(window) - 4:
        length = _frame_length(window[at : at + 4])
        following = at + length
        if length and following + 4 <= len(window):
            after = window[following : following + 4]
            # Version, layer and rate stay the same through a stream.
            if _frame_length(after) and (after[1] & 0x1E) == (window[at + 1] & 0x1E):
                return True
        elif length and following == len(window):
            return True
        at = window.find(b"\xff", at + 1)
    return False


_BITRATES = {  # kbit/s by (MPEG-1, layer), ISO/IEC 11172-3 2.4.2.3 and 13818-3 2.4.2.3
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def _frame_length(header: bytes) -> int:
    """Bytes of the MPEG audio frame that a header starts; 0 when it is none."""
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
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


def _not_audio(head: bytes, name: str) -> NotAudioError:
    what = next((text for magic, text in _NOT_AUDIO if head.startswith(magic)), None)
    if head[4:8] == b"ftyp":
        what = "an MP4 or M4A file"
    if what is None and all(0x20 <= byte < 0x7F or byte in b"\t\n\r" for byte in head):
        what = "text"
    return NotAudioError(
        f"{name!r} is not an audio file that can be read here.",
        cause=f"Its content looks like {what}." if what else "Its content is no known format.",
        fix="Send WAV, AIFF, FLAC or MP3.",
    )
