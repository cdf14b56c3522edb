"""How much each channel counts in loudness, by the loudspeaker that it feeds."""

from __future__ import annotations

_SIDE = 1.41  # ITU-R BS.1770-5 Annex 1 Table 4: 60 to 120 degrees off the centre

# Bits of WAVEFORMATEXTENSIBLE's channel mask; channels come in the order of their bits.
_LFE = 0x8
_BACK_PAIR = 0x10 | 0x20
_SIDE_PAIR = 0x200 | 0x400

_WEIGHTS: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    2: (1.0, 1.0),
    3: (1.0, 1.0, 1.0),  # L R C
    4: (1.0, 1.0, _SIDE, _SIDE),  # L R Ls Rs
    5: (1.0, 1.0, 1.0, _SIDE, _SIDE),  # L R C Ls Rs
    6: (1.0, 1.0, 1.0, 0.0, _SIDE, _SIDE),  # L R C LFE Ls Rs
    7: (1.0, 1.0, 1.0, 0.0, 1.0, _SIDE, _SIDE),  # L R C LFE Cs Ls Rs
    8: (1.0, 1.0, 1.0, 0.0, 1.0, 1.0, _SIDE, _SIDE),  # L R C LFE Lb Rb Ls Rs
}
"""Where the file does not name its loudspeakers: the usual order of WAV and FLAC files."""


def channel_weights(channels: int, mask: int | None) -> tuple[float, ...]:
    """Weight of each channel (BS.1770-5 Annex 1 Tables 3 and 4).

    The side pair has 1.41. So has the back pair where there is no side pair: it stands at
    110 degrees then, as the surrounds of 5.1 (ITU-R BS.775); beside a side pair it stands
    further back, and has 1. The low-frequency channel has 0, every other one 1.

    Args:
        channels: Count, 1 to 8.
        mask: Channel mask with one bit for each channel; None when the file has none.
    """
    if mask is None:
        return _WEIGHTS[channels]
    surround = _SIDE_PAIR if mask & _SIDE_PAIR else _BACK_PAIR
    return tuple(_weight(bit, surround) for bit in _bits(mask))


def _bits(mask: int) -> list[int]:
    return [1 << place for place in range(mask.bit_length()) if mask >> place & 1]


def _weight(bit: int, surround: int) -> float:
    if bit == _LFE:
        return 0.0
    return _SIDE if bit & surround else 1.0
