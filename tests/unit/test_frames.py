"""Frames: whatever way a stream is cut, the same frames come out of it."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bullpy.executors import frames
from bullpy.executors.frames import HEADER, Kind, Splitter

KINDS = st.sampled_from([int(kind) for kind in Kind])
BODIES = st.binary(max_size=300)
STREAMS = st.lists(st.tuples(KINDS, BODIES), max_size=20)


def split(*parts: bytes) -> list[tuple[int, bytes]]:
    """What a splitter gives that is asked after each part."""
    splitter, found = Splitter(), []
    for part in parts:
        splitter.feed(part)
        while (each := splitter.next()) is not None:
            found.append(each)
    return found


@given(STREAMS, st.data())
def test_any_cut_of_any_stream_gives_the_same_frames(
    stream: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    whole = b"".join(frames.frame(kind, body) for kind, body in stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=20)))
    edges = [0, *cuts, len(whole)]
    parts = [whole[start:end] for start, end in itertools.pairwise(edges)]
    assert split(*parts) == stream


@given(STREAMS)
def test_stream_byte_by_byte(stream: list[tuple[int, bytes]]) -> None:
    whole = b"".join(frames.frame(kind, body) for kind, body in stream)
    assert split(*(bytes([byte]) for byte in whole)) == stream


@given(KINDS, BODIES, st.data())
def test_unfinished_frame_gives_nothing(kind: int, body: bytes, data: st.DataObject) -> None:
    whole = frames.frame(kind, body)
    assert split(whole[: data.draw(st.integers(0, len(whole) - 1))]) == []


@given(KINDS, BODIES, BODIES)
def test_two_parts_come_out_as_they_went_in(kind: int, head: bytes, rest: bytes) -> None:
    ((found, body),) = split(frames.frame_of_two(kind, head, rest))
    assert found == kind
    assert frames.two_of(body) == (head, rest)


@given(st.integers(0, 255).filter(lambda kind: kind not in set(Kind)), BODIES)
def test_what_is_no_frame_is_refused(kind: int, body: bytes) -> None:
    with pytest.raises(ValueError, match="no kind of frame"):
        split(frames.frame(kind, body))


def test_all_kinds_fit_into_their_byte_and_differ() -> None:
    for kind in Kind:
        assert split(frames.frame(kind)) == [(kind, b"")]
    assert len({int(kind) for kind in Kind}) == len(Kind)


def test_worker_and_child_speak_from_different_ranges() -> None:
    assert {kind for kind in Kind if kind < 10} == {
        *(Kind.INIT, Kind.JOB, Kind.STOP, Kind.REPLY, Kind.FORK, Kind.SIGNAL)
    }


def test_frame_of_megabytes_in_the_middle_of_small_ones() -> None:
    large = bytes(5_000_000)
    stream = frames.frame(1, b"a") + frames.frame(2, large) + frames.frame(3, b"b")
    parts = [stream[start : start + 65536] for start in range(0, len(stream), 65536)]
    assert split(*parts) == [(1, b"a"), (2, large), (3, b"b")]


def test_body_stays_when_the_next_is_fed() -> None:
    splitter = Splitter()
    splitter.feed(frames.frame(1, b"first") + frames.frame(2, b"second"))
    first = splitter.next()
    splitter.feed(frames.frame(3, b"third"))
    assert first == (1, b"first")
    assert splitter.next() == (2, b"second")
    assert splitter.next() == (3, b"third")
    assert splitter.next() is None


def test_length_is_the_longest_that_the_header_holds() -> None:
    assert HEADER.unpack(HEADER.pack(1, frames.LONGEST)) == (1, frames.LONGEST)
    with pytest.raises(struct.error):
        HEADER.pack(1, frames.LONGEST + 1)
