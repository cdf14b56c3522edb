"""All passes over one file, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bullpy.audio import chunks, engines, raw
from bullpy.audio.chunks import Chunk, Chunker
from bullpy.audio.errors import EmptyAudioError
from bullpy.audio.passes.levels import LevelPass
from bullpy.audio.passes.spectrum import SpectrumPass
from bullpy.audio.passes.truepeak import TruePeakPass
from bullpy.audio.passes.weighting import WeightingPass
from bullpy.audio.pipeline import Step

if TYPE_CHECKING:
    from bullpy.audio.chunks import Block, Split


@dataclass(frozen=True, slots=True)
class Engine:
    """Who does the arithmetic.

    Attributes:
        name: `c` or `numpy`.
        split: Writes a block as one row per channel.
        weighting: The pass for K-weighted energy.
        levels: The pass for sums, peaks and clipping.
        true_peak: The pass for true peaks.
        spectrum: The pass for the spectrum.
    """

    name: str
    split: Split
    weighting: type[WeightingPass]
    levels: type[LevelPass]
    true_peak: type[TruePeakPass]
    spectrum: type[SpectrumPass]


NUMPY = Engine("numpy", chunks.split, WeightingPass, LevelPass, TruePeakPass, SpectrumPass)


class Measurer:
    """All passes over a stream of blocks of any size; `pipeline.run` drives it.

    Args:
        rate: Sample rate, Hz.
        channels: 1 to 8.
        engine: Who does the arithmetic.
        channel_mask: Loudspeaker of each channel; see `containers.Samples`.
    """

    def __init__(
        self,
        rate: int,
        channels: int,
        engine: Engine = NUMPY,
        channel_mask: int | None = None,
    ) -> None:
        self._rate = rate
        self._channels = channels
        self._channel_mask = channel_mask
        self._chunker = Chunker(rate, channels, engine.split)
        self._weighting = engine.weighting(rate, channels)
        self._levels = engine.levels(rate, channels)
        self._true_peak = engine.true_peak(rate, channels)
        self._spectrum = engine.spectrum(rate, channels)
        self._frames = 0

    def chunks(self, blocks: Iterable[Block]) -> Iterator[Chunk | None]:
        """The chunks that blocks make up; None after a block that completed none.

        Args:
            blocks: Of shape (frames, channels), finite, full scale being 1.
        """
        for block in blocks:
            none = True
            for chunk in self._chunker.push(block):
                none = False
                yield self._counted(chunk)
            if none:
                yield None
        for chunk in self._chunker.finish():
            yield self._counted(chunk)

    def finish(self) -> raw.RawMeasurement:
        """The results, when `steps` were given all chunks. Call it once.

        Raises:
            EmptyAudioError: There was none.
        """
        if not self._frames:
            raise EmptyAudioError("There are no samples.")
        return raw.RawMeasurement(
            rate=self._rate,
            channels=self._channels,
            frames=self._frames,
            channel_mask=self._channel_mask,
            cells=self._levels.result(self._weighting.result()),
            blocks=self._levels.blocks(),
            clipping=self._levels.clipping(),
            true_peaks=self._true_peak.result(),
            spectrum=self._spectrum.result(),
        )

    @property
    def steps(self) -> tuple[Step, ...]:
        """What has to be given every chunk, in order; they do not depend on each other.

        The two short passes are one step, about as long as the others: each handing-over costs
        a thread a wait for the interpreter.
        """
        return self._spectrum.push, self._true_peak.push, self._push_sums

    def _push_sums(self, chunk: Chunk) -> None:
        self._weighting.push(chunk)
        self._levels.push(chunk)

    def _counted(self, chunk: Chunk) -> Chunk:
        self._frames += chunk.frames
        return chunk


def engine(environ: Mapping[str, str] | None = None) -> Engine:
    """The engine that runs here; see `engines.chosen`.

    Raises:
        errors.ConfigurationError: `BULLPY_AUDIO_KERNEL` is wrong or cannot be satisfied.
    """
    name, _ = engines.chosen(environ)
    if name == "numpy":
        return NUMPY
    from bullpy.audio.kernel import passes

    return Engine(
        "c",
        passes.split,
        passes.KernelWeightingPass,
        passes.KernelLevelPass,
        passes.KernelTruePeakPass,
        passes.KernelSpectrumPass,
    )
