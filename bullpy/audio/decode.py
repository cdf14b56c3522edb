"""Samples of an audio file, block by block, in bounded memory.

WAV, AIFF, FLAC and MP3 are decoded by libsndfile, through soundfile; all else by `libav`. Four
habits of libsndfile and soundfile are worked around here:

- soundfile seeks back to where it is after every read of a seekable file. In an MP3 with a
  variable bit rate that seek is not exact, and the samples are silently wrong. A file that
  says it cannot seek is read straight through.
- The length of an MP3 that does not tell it is taken from the bit rate of the first frame, and
  with a variable bit rate most of the file may lie behind that. Such a file is read behind a
  frame that tells a very large length.
- The frame count in a header may be unknown, absurd or a lie. It is a hint for progress and
  never decides how much memory is allocated or how much is read.
- What other programs put behind the last frame of a FLAC, tags or padding, is an error to its
  decoder. No more is asked for than the header's frames: libsndfile never gives more.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol

import numpy as np

from bullpy import errors
from bullpy.audio import mpeg
from bullpy.audio.chunks import CHUNK_FRAMES
from bullpy.audio.errors import (
    AudioLimitError,
    CorruptAudioError,
    DecoderMissingError,
    EmptyAudioError,
    StoreError,
)
from bullpy.audio.settings import AudioSettings
from bullpy.audio.sniff import Sniffed, sniff
from bullpy.audio.untold import BehindLength, behind_length

try:
    import soundfile
except (ImportError, OSError) as error:  # OSError: the wheel without its libsndfile
    raise errors.MissingExtraError("soundfile", "audio") from error

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_FRAMES = CHUNK_FRAMES
"""Frames read at a time: a chunk, so that each piece of decoding makes one."""

_BIT_DEPTHS = {
    "PCM_S8": 8,
    "PCM_U8": 8,
    "PCM_16": 16,
    "PCM_24": 24,
    "PCM_32": 32,
    "FLOAT": 32,
    "DOUBLE": 64,
}
# Encoders pad; what a gapless tag and the decoder count may differ by a few frames.
_SLACK_FRAMES = 4 * 1152
# Where a cut shows only in the frame count: WAV has sizes in bytes, FLAC fails.
_CUT_SILENTLY = frozenset({"MP3", "MP4", "ASF", "CAF", "MATROSKA", "OGG", "WAVPACK"})
_FLAC = b"fLaC\0\0\0\x22"  # how a FLAC begins: its mark, and the header of its STREAMINFO


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """What the header says.

    Attributes:
        container: `WAV`, `FLAC`, `MP3` and the like.
        codec: libsndfile's subtype, such as `PCM_16` or `MPEG_LAYER_III`, or FFmpeg's name of
            the codec in capitals, such as `AAC`.
        sample_rate: Hz.
        channels: Count.
        bit_depth: Bits of a sample; None for lossy codecs, where there is no such thing.
        frames: The header's frame count; None when unknown or impossible.
        size_bytes: Size of the file.
        missing_bytes: Bytes of audio that the header promises beyond the file's end.
        held_bytes: Bytes from the start of the audio to the file's end; 0 when not known.
        ends_inside_frame: Whether it is an MP3 whose last frame is not whole.
        channel_mask: Loudspeaker of each channel; see `containers.Samples`.
    """

    container: str
    codec: str
    sample_rate: int
    channels: int
    bit_depth: int | None
    frames: int | None
    size_bytes: int
    missing_bytes: int
    held_bytes: int = 0
    ends_inside_frame: bool = False
    channel_mask: int | None = None


class Decoder(Protocol):
    """What decodes: a `soundfile.SoundFile`, or a `libav.LibavDecoder`."""

    def buffer_read_into(
        self,
        buffer: NDArray[np.float32] | NDArray[np.int16],
        dtype: Literal["float32", "int16"],
    ) -> int:
        """Fill a buffer of shape (frames, channels); returns the frames read, 0 at the end."""
        ...


class AudioFile:
    """An open file. `blocks()` reads it once, from start to end."""

    def __init__(
        self,
        file: Decoder,
        info: AudioFormat,
        settings: AudioSettings,
        descriptor: int | None,
    ) -> None:
        self._file = file
        self._descriptor = descriptor
        self._settings = settings
        self.format = info
        self.frames_read = 0
        self.replaced = 0
        self.unread_bytes = 0

    def blocks(
        self, block_frames: int = BLOCK_FRAMES, *, integers: bool = False
    ) -> Iterator[NDArray[np.float32] | NDArray[np.int16]]:
        """Blocks of shape (frames, channels), full scale being 1.

        The array is reused: it holds its values until the next block is asked for. Samples
        that are NaN or infinite become 0 and are counted in `replaced`, since a single one
        would make every level of the file meaningless. At the end `unread_bytes` tells how much
        of an MP3 or FLAC lies behind the length that it tells, where its decoder stops.

        Args:
            block_frames: Frames of a block; the last one is shorter.
            integers: Give 16-bit files as int16, full scale being 2^15: the same samples
                without the decoder's slow conversion.

        Raises:
            CorruptAudioError: The data is damaged, or no audio scaled to full scale.
            StoreError: The disk failed.
            EmptyAudioError: There is not a single frame.
            AudioLimitError: The audio is longer than allowed.
        """
        shape = (block_frames, self.format.channels)
        if integers and self.format.codec == "PCM_16":
            whole = np.empty(shape, np.int16)
            while count := self._read(whole, "int16"):
                yield whole[:count]
        else:
            buffer = np.empty(shape, np.float32)
            while count := self._read(buffer, "float32"):
                block = buffer[:count]
                self._clean(block)
                yield block
        if self.frames_read == 0:
            raise EmptyAudioError(
                "The file holds no samples.", cause="It was cut off, or nothing was recorded."
            )
        self.unread_bytes = self._unread_bytes()

    @property
    def seconds_read(self) -> float:
        """Seconds of audio that `blocks` has given so far."""
        return self.frames_read / self.format.sample_rate

    @property
    def share_read(self) -> float:
        """How much of the file was read, 0 to 1: by bytes, since a frame count may be a lie.

        Where the decoder opened the file by its name, by the header's frame count; 0 when
        there is none.
        """
        if self._descriptor is not None:
            position = os.lseek(self._descriptor, 0, os.SEEK_CUR)
            return min(1.0, position / max(1, self.format.size_bytes))
        return min(1.0, self.frames_read / self.format.frames) if self.format.frames else 0.0

    def missing_seconds(self) -> float:
        """Seconds that the header promised and the file did not hold; call it at the end."""
        info = self.format
        if info.missing_bytes:
            return self.seconds_read * info.missing_bytes / info.held_bytes
        if info.container in _CUT_SILENTLY and info.frames is not None:
            missing = info.frames - self.frames_read
            if missing > max(_SLACK_FRAMES, info.frames // 100):
                return missing / info.sample_rate
        return 0.0

    def _unread_bytes(self) -> int:
        """As `blocks` says; joined files, for one, tell the length of the first."""
        container = self.format.container
        if container not in ("MP3", "FLAC") or self._descriptor is None:
            return 0
        position = os.lseek(self._descriptor, 0, os.SEEK_CUR)
        unread = self.format.size_bytes - position
        if unread < max(mpeg.TAIL_BYTES, self.format.size_bytes // 100):
            return 0  # padding of the encoder, tags
        if container == "FLAC":
            return unread if self._flac_follows(position) else 0
        following = os.read(self._descriptor, 4 * mpeg.TAIL_BYTES)
        os.lseek(self._descriptor, position, os.SEEK_SET)
        return unread if mpeg.find_frames(following) is not None else 0

    def _flac_follows(self, position: int) -> bool:
        """Whether another FLAC begins about there; the decoder has read ahead a little."""
        assert self._descriptor is not None
        start = max(0, position - mpeg.TAIL_BYTES)
        around = os.pread(self._descriptor, 5 * mpeg.TAIL_BYTES, start)
        if start == 0:
            around = around.partition(_FLAC)[2]  # the file's own
        return _FLAC in around

    def _read(
        self,
        buffer: NDArray[np.float32] | NDArray[np.int16],
        dtype: Literal["float32", "int16"],
    ) -> int:
        """Fill the buffer; returns the frames read, 0 at the end."""
        if self.format.container == "FLAC" and self.format.frames is not None:
            buffer = buffer[: self.format.frames - self.frames_read]
        try:
            count = self._file.buffer_read_into(buffer, dtype=dtype)
        except soundfile.SoundFileError as error:
            raise CorruptAudioError(
                f"The audio is damaged after {self.seconds_read:.2f} s ({_text(error)}).",
                cause="The file was cut off or changed on its way.",
                fix="Upload the file again.",
                seconds=self.seconds_read,
            ) from error
        self.frames_read += count
        self._check_duration()
        return count

    def _check_duration(self) -> None:
        if self.seconds_read > self._settings.max_duration:
            raise AudioLimitError(
                f"The audio is longer than {self._settings.max_duration:g} s.",
                fix="Raise BULLPY_AUDIO_MAX_DURATION if such files are meant to pass.",
            )

    def _clean(self, block: NDArray[np.float32]) -> None:
        # NaN fails every comparison, so this one also catches it.
        if -self._settings.max_level <= block.min() and block.max() <= self._settings.max_level:
            return
        bad = ~np.isfinite(block)
        self.replaced += int(np.count_nonzero(bad))
        block[bad] = 0.0
        peak = float(np.abs(block).max())
        if peak > self._settings.max_level:
            raise CorruptAudioError(
                f"A sample is {peak:g} times full scale.",
                cause="The file holds numbers that are not audio scaled to full scale 1.",
                fix="Export the file again, as integers or as floats around full scale 1.",
                seconds=self.seconds_read,
            )


@contextmanager
def open_audio(path: Path, settings: AudioSettings) -> Generator[AudioFile]:
    """Open a file after looking at its first bytes and at its header.

    Raises:
        NotAudioError: It is something else.
        DecoderMissingError: Its decoder, `bullpy[aac]`, is not installed.
        EmptyAudioError: It has no audio.
        CorruptAudioError: Its header is damaged.
        AudioLimitError: Size, channels or rate are outside the settings' limits.
        StoreError: It cannot be opened.
    """
    sniffed = sniff(path, max_bytes=settings.max_bytes)
    with ExitStack() as stack:
        if sniffed.demuxer is not None:
            raw = stack.enter_context(_raw(path))
            decoder, info = _from_libav(raw, path.name, sniffed, settings, stack)
            _check_limits(info, path.name, settings)
            yield AudioFile(decoder, info, settings, raw.fileno())
            return
        file, descriptor = _opened(path, sniffed.first_frame, stack)
        info = AudioFormat(
            container=file.format,
            codec=file.subtype,
            sample_rate=file.samplerate,
            channels=file.channels,
            bit_depth=_bit_depth(file),
            frames=_plausible(file, sniffed, settings),
            size_bytes=sniffed.size_bytes,
            missing_bytes=sniffed.missing_bytes,
            held_bytes=sniffed.held_bytes,
            ends_inside_frame=sniffed.ends_inside_frame,
            channel_mask=_mask(file, sniffed.channel_mask),
        )
        _check_limits(info, path.name, settings)
        yield AudioFile(file, info, settings, descriptor)


def _opened(
    path: Path, first_frame: int | None, stack: ExitStack
) -> tuple[_Sequential, int | None]:
    """The file, and the descriptor through which it is read, whose position tells progress.

    Args:
        path: The file.
        first_frame: See `Sniffed`.
        stack: Closes it.
    """
    raw = stack.enter_context(_raw(path))
    try:
        if first_frame is not None:
            behind = stack.enter_context(behind_length(raw, first_frame))
            return stack.enter_context(_Untold(behind, path.name)), raw.fileno()
        file = stack.enter_context(_Sequential(raw.fileno(), closefd=False))
        return file, raw.fileno()
    except soundfile.SoundFileError:
        pass  # an MP3 that does not begin with a frame is known by its name alone
    try:
        return stack.enter_context(_Sequential(str(path))), None
    except soundfile.SoundFileError as error:
        raise CorruptAudioError(
            f"{path.name!r} cannot be opened as audio ({_text(error)}).",
            cause="Its header is damaged.",
            fix="Upload or export the file again.",
        ) from error


def _raw(path: Path) -> FileIO:
    """The file, without a buffer: its position is how far decoding is."""
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise StoreError(f"{path.name!r} cannot be read ({error.strerror or error}).") from error


def _from_libav(
    raw: BinaryIO, name: str, sniffed: Sniffed, settings: AudioSettings, stack: ExitStack
) -> tuple[Decoder, AudioFormat]:
    try:
        from bullpy.audio import (
            libav,
        )  # FFmpeg's libraries load with the first file that needs them
    except ImportError as error:
        raise DecoderMissingError(
            f"{name!r} is in a format ({sniffed.demuxer}) that PyAV decodes, "
            "which is not installed.",
            fix='Install it with: pip install "bullpy[aac]". Or send WAV, AIFF, FLAC or MP3.',
        ) from error
    return stack.enter_context(libav.open_stream(raw, name, sniffed, settings))


class _Sequential(soundfile.SoundFile):
    """A sound file that is read straight through; see the module's docstring."""

    def seekable(self) -> bool:
        return False


class _Untold(_Sequential):
    """An MP3 that does not tell its length; raises what its disk raised."""

    def __init__(self, behind: BehindLength, name: str) -> None:
        self._behind, self._path_name = behind, name
        try:
            super().__init__(behind)
        finally:
            behind.check(name)

    def buffer_read_into(
        self, buffer: object, dtype: Literal["float64", "float32", "int32", "int16"]
    ) -> int:
        try:
            return super().buffer_read_into(buffer, dtype=dtype)
        finally:
            self._behind.check(self._path_name)


def _check_limits(info: AudioFormat, name: str, settings: AudioSettings) -> None:
    if not 1 <= info.channels <= settings.max_channels:
        raise AudioLimitError(
            f"{name!r} has {info.channels} channels; 1 to {settings.max_channels} are accepted."
        )
    if not settings.min_rate <= info.sample_rate <= settings.max_rate:
        raise AudioLimitError(
            f"{name!r} has a sample rate of {info.sample_rate} Hz; "
            f"{settings.min_rate} to {settings.max_rate} Hz are accepted."
        )


def _plausible(file: _Sequential, sniffed: Sniffed, settings: AudioSettings) -> int | None:
    longest = settings.max_duration * file.samplerate
    told = sniffed.first_frame is None
    return file.frames if told and 0 < file.frames <= longest else None


def _mask(file: _Sequential, mask: int | None) -> int | None:
    # A damaged file may have two `fmt ` chunks, and the decoder went by the other one.
    return mask if mask is not None and mask.bit_count() == file.channels else None


def _bit_depth(file: _Sequential) -> int | None:
    return _BIT_DEPTHS.get(file.subtype)


def _text(error: Exception) -> str:
    # Without libsndfile's prefix, which holds the path: users of the API read these texts.
    known = isinstance(error, soundfile.LibsndfileError)
    text = (error.error_string if known else str(error)).strip().rstrip(".")
    text = text.removeprefix("Error : ")
    # The decoder's own words for "this is no MP3"; no reader could guess that.
    return "no decodable MP3 data" if "not a regular file" in text else text
