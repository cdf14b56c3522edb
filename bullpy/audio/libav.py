"""Samples of AAC, ALAC, Opus, Vorbis, WMA and the like, through FFmpeg's libraries in PyAV.

What libsndfile does not read comes from here (extra `bullpy[aac]`). FFmpeg can do far more than
is wanted from a file that a stranger sent, so it is given little freedom:

- The demuxer is the one that the first bytes call for (`sniff`), never one that FFmpeg guesses:
  a playlist or a list of files to join is not even looked at as such.
- It reads through a file object that is open already. Whatever the content names beside it, a
  path or an address, cannot be opened: there is no protocol that it may use.
- Only decoders of `CODECS` are ever started, also while the streams are probed. A video in the
  file is not decoded.

Encoder delay: what an MP4's edit list, Opus's and Vorbis's pre-skip or a Matroska header names
is left out, at the start and, in MP4, at the end. Plain AAC (ADTS), WMA and AC-3 do not say how
much their encoder put in front, so those frames (some 20 to 50 ms) are measured.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, BinaryIO, Literal, NoReturn

import av
import av.error
import numpy as np
from av.audio.stream import AudioStream
from av.stream import Discard, Disposition

from bullpy.audio.decode import AudioFormat
from bullpy.audio.errors import CorruptAudioError, EmptyAudioError, NotAudioError, StoreError
from bullpy.audio.settings import AudioSettings
from bullpy.audio.sniff import Sniffed

if TYPE_CHECKING:
    from av.audio.fifo import AudioFifo
    from av.audio.frame import AudioFrame
    from av.container import InputContainer
    from av.stream import Stream
    from numpy.typing import NDArray

CODECS = (
    *("aac", "aac_latm", "ac3", "alac", "eac3", "flac", "mp2", "mp3", "mp3float", "opus"),
    *("libopus", "speex", "libspeex", "tta", "vorbis", "libvorbis", "wavpack"),
    *("wmalossless", "wmapro", "wmav1", "wmav2"),
    *("pcm_alaw", "pcm_f32be", "pcm_f32le", "pcm_f64be", "pcm_f64le", "pcm_mulaw"),
    *("pcm_s16be", "pcm_s16le", "pcm_s24be", "pcm_s24le", "pcm_s32be", "pcm_s32le"),
    *("pcm_s8", "pcm_u8"),
)
"""FFmpeg's names of the decoders that may run."""
CONTAINERS = {
    "aac": "AAC",
    "ac3": "AC3",
    "asf": "ASF",
    "caf": "CAF",
    "matroska": "MATROSKA",
    "mov": "MP4",
    "ogg": "OGG",
    "wv": "WAVPACK",
}
"""FFmpeg's names of the demuxers that may run, and what a report calls the container."""

# Bit of each loudspeaker in the channel mask of WAVEFORMATEXTENSIBLE, by FFmpeg's names.
_SPEAKERS = {
    name: 1 << bit
    for bit, name in enumerate(
        [
            *("FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC", "SL", "SR"),
            *("TC", "TFL", "TFC", "TFR", "TBL", "TBC", "TBR"),
        ]
    )
}
# Their length is an estimate from the bit rate.
_NO_LENGTH = frozenset({"aac", "ac3"})
# A stream may end this many frames after its edit list: less than one frame of any AAC.
_TAIL_FRAMES = 2047
_ALAC_DEPTH = 17  # where ALAC's magic cookie, in its MP4 box, has the bits of a sample
# What PyAV raises for damaged files: FFmpeg's errors, and what Python makes of sizes and rates
# that do not exist.
_DAMAGE = (av.error.FFmpegError, ValueError, ArithmeticError, MemoryError)
_DURATION = re.compile(r"(\d{1,4}):(\d\d):(\d\d(?:\.\d{1,9})?)", re.ASCII)
_SCALES = {"u8": 2.0**-7, "s16": 2.0**-15, "s32": 2.0**-31, "s64": 2.0**-63}


@contextmanager
def open_stream(
    file: BinaryIO, name: str, sniffed: Sniffed, settings: AudioSettings
) -> Generator[tuple[LibavDecoder, AudioFormat]]:
    """Open the audio of a file, of several streams the one that FFmpeg holds for the main one.

    Args:
        file: The file at its start, unbuffered: its position tells how far reading is.
        name: What errors call it.
        sniffed: What its first bytes say; `demuxer` is not None.
        settings: Limits of the duration.

    Raises:
        NotAudioError: There is no audio in it, or in a coding that is not read.
        EmptyAudioError: There is no frame in it.
        CorruptAudioError: It is damaged at its start.
        StoreError: The disk failed.
    """
    assert sniffed.demuxer is not None
    source = _Input(file)
    with closing(_container(source, name, sniffed.demuxer)) as container:
        stream = _stream(container, name)
        decoder = LibavDecoder(source, container, stream, name)
        first = decoder.first
        codec = stream.codec_context.name
        length = None if sniffed.demuxer in _NO_LENGTH else _length(container, stream)
        rate = first.sample_rate
        known = length is not None and 0 < length <= settings.max_duration
        frames = round(length * rate) if known and length is not None else None
        if sniffed.demuxer == "mov":
            decoder.ends_at = frames
        yield (
            decoder,
            AudioFormat(
                container=CONTAINERS[sniffed.demuxer],
                codec=codec.upper(),
                sample_rate=rate,
                channels=first.layout.nb_channels,
                bit_depth=_bit_depth(codec, stream.codec_context.extradata, first),
                frames=frames,
                size_bytes=sniffed.size_bytes,
                missing_bytes=0,
                channel_mask=_channel_mask(first),
            ),
        )


class LibavDecoder:
    """One audio stream, read from start to end; `decode.AudioFile` drives it.

    Attributes:
        first: The first decoded frame, which says more than the header: an HE-AAC stream has
            twice the header's sample rate.
        ends_at: Where the audio ends, frames; what is left of the last block of the codec is
            padding. None when there is no such number.
    """

    def __init__(
        self, source: _Input, container: InputContainer, stream: AudioStream, name: str
    ) -> None:
        self._input = source
        self._name = name
        self._seconds = 0.0
        self._frames = self._decoded(container, stream)
        self._fifo: AudioFifo = av.AudioFifo()
        self._ended = False
        self._given = 0
        self.ends_at: int | None = None
        first = next(self._frames, None)
        if first is None:
            raise EmptyAudioError(
                f"{name!r} holds no samples.", cause="It was cut off, or nothing was recorded."
            )
        self.first = first
        self._rate, self._layout = first.sample_rate, first.layout.name
        self._format = first.format
        self._push(first)

    def buffer_read_into(
        self, buffer: NDArray[np.float32] | NDArray[np.int16], dtype: Literal["float32", "int16"]
    ) -> int:
        """Fill a float32 buffer of shape (frames, channels), full scale being 1.

        Returns:
            The frames written, 0 at the end. Fewer than the buffer holds do not mean the end.

        Raises:
            CorruptAudioError: The data is damaged.
            StoreError: The disk failed.
        """
        assert dtype == "float32", "only what libsndfile calls PCM_16 is read as integers"
        # The last frames are held back until it is known whether they are padding.
        while not self._ended and self._fifo.samples < len(buffer) + _TAIL_FRAMES:
            frame = next(self._frames, None)
            if frame is None:
                self._ended = True
            else:
                self._push(frame)
        count = min(len(buffer), self._available())
        if count <= 0:
            return 0
        frame = self._fifo.read(count)
        assert frame is not None
        _convert(frame, buffer[:count])
        self._given += count
        return count

    def _available(self) -> int:
        samples = self._fifo.samples
        if not self._ended:
            return samples - _TAIL_FRAMES
        if self.ends_at is not None and self.ends_at > 0:
            over = self._given + samples - self.ends_at
            if 0 < over <= _TAIL_FRAMES:
                return samples - over
        return samples

    def _push(self, frame: AudioFrame) -> None:
        same = frame.sample_rate == self._rate and frame.format.name == self._format.name
        if not same or frame.layout.name != self._layout:
            self._fail(
                f"its rate or channels change from {self._rate} Hz, {self._layout} "
                f"to {frame.sample_rate} Hz, {frame.layout.name}"
            )
        self._seconds += frame.samples / self._rate
        frame.pts = None  # gaps in the time stamps are not silence
        self._fifo.write(frame)

    def _decoded(self, container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
        try:
            for packet in container.demux(stream):
                for frame in packet.decode():
                    if frame.is_corrupt:
                        self._fail("a frame is incomplete")
                    if frame.samples:
                        yield frame
        except _DAMAGE as error:
            self._input.check(self._name)
            self._fail(_text(error), error)
        self._input.check(self._name)

    def _fail(self, what: str, error: BaseException | None = None) -> NoReturn:
        raise CorruptAudioError(
            f"The audio of {self._name!r} is damaged after {self._seconds:.2f} s ({what}).",
            cause="The file was cut off or changed on its way.",
            fix="Upload the file again.",
            seconds=self._seconds,
        ) from error


class _Input:
    """A file for PyAV, which prints what a file object raises and goes on."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._failure: OSError | None = None

    def read(self, size: int) -> bytes:
        try:
            return self._raw.read(size)
        except OSError as error:
            self._failure = error
            return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._raw.seek(offset, whence)
        except (OSError, ValueError):
            return -errno.EINVAL  # a damaged file sends its reader to before its start

    def tell(self) -> int:
        return self._raw.tell()

    def check(self, name: str) -> None:
        """Raise when it was the disk that failed."""
        if self._failure is not None:
            raise StoreError(
                f"{name!r} cannot be read ({_text(self._failure)})."
            ) from self._failure


def _container(file: _Input, name: str, demuxer: str) -> InputContainer:
    options = {"protocol_whitelist": "none", "codec_whitelist": ",".join(CODECS)}
    try:
        return av.open(file, mode="r", format=demuxer, container_options=options, io_open=_refuse)
    except _DAMAGE as error:
        file.check(name)
        raise CorruptAudioError(
            f"{name!r} cannot be opened as {CONTAINERS[demuxer]} ({_text(error)}).",
            cause="It was cut off, or its header is damaged.",
            fix="Upload or export the file again.",
        ) from error


def _refuse(url: str, flags: object, options: object) -> NoReturn:
    raise NotAudioError(
        "The file holds no audio of its own, but names other files.",
        cause="It is a playlist, or its samples are elsewhere.",
        fix="Send a file that contains its audio.",
    )


def _stream(container: InputContainer, name: str) -> AudioStream:
    stream = container.streams.best("audio")
    if not isinstance(stream, AudioStream):
        raise NotAudioError(f"{name!r} holds no audio.", fix="Send a file with an audio track.")
    # Against its type, there is no context for a coding that FFmpeg does not know.
    found = getattr(stream.codec_context, "name", "unknown")
    if found not in CODECS:
        raise NotAudioError(
            f"{name!r} holds audio in a coding that is not read ({found}).",
            fix="Send WAV, AIFF, FLAC, MP3, AAC, ALAC, Opus or Vorbis.",
        )
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    return stream


def _length(container: InputContainer, stream: AudioStream) -> float | None:
    """Seconds that the header promises; those of a video say nothing about its sound."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if any(other is not stream and _goes_on(other) for other in container.streams):
        return _tagged_length(stream)
    return None if container.duration is None else container.duration / av.time_base


def _goes_on(stream: Stream) -> bool:
    """Whether it has a length of its own; a cover or a font has none."""
    return stream.type != "attachment" and not stream.disposition & Disposition.attached_pic


def _tagged_length(stream: AudioStream) -> float | None:
    """Seconds by the tag of a Matroska track, which may have a language behind its name."""
    for name, value in stream.metadata.items():
        found = _DURATION.fullmatch(value) if name.partition("-")[0] == "DURATION" else None
        if found:
            hours, minutes, seconds = map(float, found.groups())
            # FFmpeg counts from the start of the file, other writers from that of the track.
            start = float((stream.start_time or 0) * (stream.time_base or 0))
            return hours * 3600 + minutes * 60 + seconds - max(0.0, start)
    return None


def _bit_depth(codec: str, extradata: bytes | None, frame: AudioFrame) -> int | None:
    """Bits of a sample of lossless codings, as far as they are told."""
    if pcm := re.fullmatch(r"pcm_[sfu](\d+)(?:le|be)?", codec):
        return int(pcm[1])
    if codec == "alac" and extradata is not None and len(extradata) > _ALAC_DEPTH:
        return extradata[_ALAC_DEPTH]
    if codec in ("flac", "wavpack", "tta") and frame.format.bits <= 16:
        return frame.format.bits
    return None


def _channel_mask(frame: AudioFrame) -> int | None:
    """Loudspeaker of each channel; None where the file does not say, or in another order."""
    bits = [_SPEAKERS.get(channel.name, 0) for channel in frame.layout.channels]
    known = 0 not in bits and bits == sorted(set(bits))
    return sum(bits) if known else None


def _convert(frame: AudioFrame, out: NDArray[np.float32] | NDArray[np.int16]) -> None:
    """Write a frame of any sample format, full scale being 1, to shape (frames, channels)."""
    samples = frame.to_ndarray()
    name = frame.format.name.removesuffix("p")
    # 64-bit floats beyond what 32 bits hold become infinite, and are counted as such.
    with np.errstate(over="ignore"):
        out[:] = samples.T if frame.format.is_planar else samples.reshape(out.shape)
    if name == "u8":
        out -= 128
    if name in _SCALES:
        out *= out.dtype.type(_SCALES[name])


def _text(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()
