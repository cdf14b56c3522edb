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

from bullpy.audio import containers, mpeg
from bullpy.audio.errors import (
    AudioLimitError,
    CorruptAudioError,
    EmptyAudioError,
    FileMissingError,
    NotAudioError,
    StoreError,
)

_SEARCH_BYTES = 64 * 1024
_NOT_AUDIO = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"<", "HTML or XML"),
    (b"{", "JSON"),
)


# How files begin that FFmpeg reads and libsndfile does not, and FFmpeg's name of their demuxer.
_DEMUXERS = (
    (0, b"\x1a\x45\xdf\xa3", "matroska"),  # and WebM
    (0, b"OggS", "ogg"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c", "asf"),  # WMA
    (0, b"caff\x00\x01", "caf"),
    (0, b"wvpk", "wv"),
    (4, b"ftyp", "mov"),  # M4A, MP4, 3GP and QuickTime
    (0, b"\x0b\x77", "ac3"),
)


@dataclass(frozen=True, slots=True)
class Sniffed:
    """What the first bytes tell.

    Attributes:
        size_bytes: Size of the file.
        missing_bytes: How many bytes of audio the header promises beyond the file's end.
        held_bytes: Bytes from the start of the audio to the file's end; 0 when not known.
        ends_inside_frame: Whether it is an MP3 that was surely cut off: see `mpeg`.
        first_frame: Where the frames of an MP3 start that does not tell its length.
        channel_mask: Loudspeaker of each channel; see `containers.Samples`.
        demuxer: FFmpeg's name of the format when libsndfile does not read it, otherwise None.
    """

    size_bytes: int
    missing_bytes: int = 0
    held_bytes: int = 0
    ends_inside_frame: bool = False
    first_frame: int | None = None
    channel_mask: int | None = None
    demuxer: str | None = None


def sniff(path: Path, *, max_bytes: int) -> Sniffed:
    """Find a file's format by its content; its name does not matter.

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
    kind = containers.kind(head)
    if kind is not None:
        return _sniff_chunks(file, size, name, kind)
    for at, magic, demuxer in _DEMUXERS:
        if head.startswith(magic, at):
            return Sniffed(size, demuxer=demuxer)
    start = _after_id3(head, size, name)
    file.seek(start)
    window = file.read(_SEARCH_BYTES)
    if mpeg.starts_with_adts(window):
        return Sniffed(size, demuxer="aac")
    if window[:4] == b"fLaC":
        return Sniffed(size)
    first = mpeg.find_frames(window)
    if first is not None:
        file.seek(max(start, size - mpeg.TAIL_BYTES))
        cut = mpeg.ends_inside_frame(file.read())
        untold = not mpeg.tells_length(window[first:])
        return Sniffed(size, ends_inside_frame=cut, first_frame=start + first if untold else None)
    raise _not_audio(head, name)


def _sniff_chunks(file: BinaryIO, size: int, name: str, kind: str) -> Sniffed:
    samples = containers.find_samples(file, size)
    if samples is None:
        raise CorruptAudioError(
            f"{name!r} is a {kind} file without a readable data chunk.",
            cause="It was cut off inside its header, or the header is damaged.",
            fix="Upload the file again.",
        )
    held = _held_bytes(samples, size, name)
    missing = 0 if samples.length is None else max(0, samples.length - held)
    return Sniffed(size, missing, held, channel_mask=samples.channel_mask)


def _held_bytes(samples: containers.Samples, size: int, name: str) -> int:
    available = size - samples.start
    if samples.length == 0 or available <= 0:
        written = f" although {available} bytes follow" if available > 0 else ""
        raise EmptyAudioError(
            f"{name!r} says that it holds 0 bytes of audio{written}.",
            cause="Its writer never finished the header, or the file was cut off.",
            fix="Export the file again.",
        )
    return available


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


def _not_audio(head: bytes, name: str) -> NotAudioError:
    what = next((text for magic, text in _NOT_AUDIO if head.startswith(magic)), None)
    if what is None and all(0x20 <= byte < 0x7F or byte in b"\t\n\r" for byte in head):
        what = "text"
    return NotAudioError(
        f"{name!r} is not an audio file that can be read here.",
        cause=f"Its content looks like {what}." if what else "Its content is no known format.",
        fix="Send WAV, AIFF, FLAC or MP3; with bullpy[aac] also M4A, AAC, Ogg, WMA and others.",
    )
