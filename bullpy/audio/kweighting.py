"""The K-weighting filter of ITU-R BS.1770-5, for any sample rate, in plain numpy.

numpy has no recursive filter, and a Python loop over samples is hopeless. So the filter is
written in state-space form and run on rows of `ROW` samples at once:

    response to a row's own samples      one matrix product
    the state that each row leaves       one matrix product
    the state that each row starts with  a scan over rows, itself done `GROUP` rows at a time

This is the same filter, not an approximation: the state is carried exactly, and results
differ from a sample-by-sample loop by rounding only.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROW = 64
GROUP = 32
_STATES = 4


class KWeighting:
    """K-weighting of every channel, with its state kept between blocks.

    Args:
        rate: Sample rate, Hz.
        channels: Channel count.
    """

    def __init__(self, rate: int, channels: int) -> None:
        a, b, c, d = _state_space(k_weighting_sections(rate))
        powers = [np.eye(_STATES)]
        for _ in range(ROW):
            powers.append(a @ powers[-1])
        impulse = np.array([d, *(float(c @ powers[i] @ b) for i in range(ROW - 1))])
        lag = np.arange(ROW)[None, :] - np.arange(ROW)[:, None]
        # Row vectors times matrices: everything below is stored transposed.
        self._response = np.where(lag >= 0, impulse[np.maximum(lag, 0)], 0.0)
        self._from_state = np.stack([c @ powers[i] for i in range(ROW)], axis=1)
        self._to_state = np.stack([powers[ROW - 1 - i] @ b for i in range(ROW)])
        self._scan_rows, self._scan_start = _scan_matrices(powers[ROW])
        self._state = np.zeros((channels, _STATES))
        self._ended = False

    def process(self, samples: NDArray[np.float64]) -> NDArray[np.float64]:
        """Filter the next block.

        Args:
            samples: Shape (channels, frames), contiguous. The frame count is a multiple of
                `ROW * GROUP`; only the last block of a stream may have another one.

        Returns:
            The filtered block, of the same shape.

        Raises:
            ValueError: Another block came after one of odd length.
        """
        if self._ended:
            raise ValueError("a block after the last one")
        channels, frames = samples.shape
        span = ROW * GROUP
        if frames % span:
            self._ended = True
            samples = np.pad(samples, ((0, 0), (0, -frames % span)))
        rows = samples.reshape(-1, ROW)
        states = self._row_states((rows @ self._to_state).reshape(channels, -1, GROUP * _STATES))
        filtered = rows @ self._response
        filtered += states.reshape(-1, _STATES) @ self._from_state
        return filtered.reshape(channels, -1)[:, :frames]

    def _row_states(self, left: NDArray[np.float64]) -> NDArray[np.float64]:
        """The state at the start of every row, from what each row alone leaves behind."""
        scanned = left @ self._scan_rows
        for group in range(scanned.shape[1]):
            scanned[:, group] += self._state @ self._scan_start
            self._state = scanned[:, group, -_STATES:].copy()
        return scanned[:, :, :-_STATES]


def k_weighting_sections(rate: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The two biquads as (b0, b1, b2, a1, a2): a high shelf, then a high-pass.

    BS.1770-5 tabulates the coefficients at 48 kHz only. These analogue prototypes with a
    bilinear transform are libebur128's; at 48 kHz they give the table to 1e-15, elsewhere
    they keep the curve: within 0.05 dB from 32 kHz up, 0.5 dB at 8 kHz.
    """
    k = math.tan(math.pi * 1681.974450955533 / rate)
    q = 0.7071752369554196
    high = 10 ** (3.999843853973347 / 20)
    band = high**0.4996667741545416
    norm = 1 + k / q + k * k
    shelf = (
        (high + band * k / q + k * k) / norm,
        2 * (k * k - high) / norm,
        (high - band * k / q + k * k) / norm,
        2 * (k * k - 1) / norm,
        (1 - k / q + k * k) / norm,
    )
    k = math.tan(math.pi * 38.13547087602444 / rate)
    q = 0.5003270373238773
    norm = 1 + k / q + k * k
    return shelf, (1.0, -2.0, 1.0, 2 * (k * k - 1) / norm, (1 - k / q + k * k) / norm)


def _state_space(
    sections: tuple[tuple[float, ...], tuple[float, ...]],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]:
    """Two biquads in series (transposed direct form II) as x' = A x + B u, y = C x + D u."""
    (p0, p1, p2, pa1, pa2), (q0, q1, q2, qa1, qa2) = sections
    # The first section's output p0*u + x0 is the input of the second.
    a = np.array(
        [
            [-pa1, 1.0, 0.0, 0.0],
            [-pa2, 0.0, 0.0, 0.0],
            [q1 - qa1 * q0, 0.0, -qa1, 1.0],
            [q2 - qa2 * q0, 0.0, -qa2, 0.0],
        ]
    )
    b = np.array(
        [p1 - pa1 * p0, p2 - pa2 * p0, (q1 - qa1 * q0) * p0, (q2 - qa2 * q0) * p0],
    )
    return a, b, np.array([q0, 0.0, 1.0, 0.0]), q0 * p0


def _scan_matrices(
    step: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrices that give a group's row states, and the state after it.

    The first acts on what the group's rows leave behind, the second on the state before it;
    `step` carries a state across one row.
    """
    powers = [np.eye(_STATES)]
    for _ in range(GROUP):
        powers.append(step @ powers[-1])
    rows = np.zeros((GROUP, _STATES, GROUP + 1, _STATES))
    start = np.zeros((_STATES, GROUP + 1, _STATES))
    for end in range(GROUP + 1):
        start[:, end] = powers[end].T
        for row in range(end):
            rows[row, :, end] = powers[end - 1 - row].T
    width = (GROUP + 1) * _STATES
    return rows.reshape(GROUP * _STATES, width), start.reshape(_STATES, width)
