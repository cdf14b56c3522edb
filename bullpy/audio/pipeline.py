"""Decoding and the passes over one file, shared between threads.

There is one step that makes chunks (it decodes), and steps that take them: a pass or two. Each
step meets the chunks in order and never runs twice at a time, but different steps run beside
each other: a thread takes whichever step is ready. So a second thread helps whatever the
format costs: beside a slow decoder it does all passes, beside a fast one they are divided.
Results do not depend on the number of threads.

Decoder and kernel release the interpreter lock while they work.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from bullpy.audio.chunks import SLOTS, Chunk

_AHEAD = SLOTS - 1  # chunks that may be unfinished while the next one is written
_POLL = 0.02  # seconds after which a waiting caller looks whether it should stop

Step = Callable[[Chunk], None]


def run(
    source: Iterator[Chunk | None],
    steps: Sequence[Step],
    *,
    threads: int,
    on_turn: Callable[[], None],
) -> None:
    """Give every chunk to every step.

    Args:
        source: Gives the chunks; None when there was work but no chunk came of it.
        steps: Each takes the chunks in order.
        threads: How many work, the calling one included.
        on_turn: Called in the calling thread, between pieces of work and while it waits for
            others; what it raises ends the run.

    Raises:
        BaseException: What the source, a step or `on_turn` raised first. No thread is left
            running then.
    """
    if threads < 2:
        for chunk in source:
            on_turn()
            if chunk is not None:
                for step in steps:
                    step(chunk)
                    on_turn()
        return
    shared = _Shared(source, steps)
    helpers = [
        threading.Thread(target=shared.help, name=f"bullpy-audio-{number}", daemon=True)
        for number in range(1, threads)
    ]
    try:
        for helper in helpers:
            helper.start()
        while shared.work(timeout=_POLL):
            on_turn()
    finally:
        shared.stop()
        for helper in helpers:
            if helper.ident is not None:
                helper.join()
    shared.raise_error()
    on_turn()


class _Shared:
    """What the threads of one run share; everything is guarded by one condition."""

    def __init__(self, source: Iterator[Chunk | None], steps: Sequence[Step]) -> None:
        self._source = source
        self._steps = steps
        self._chunks: dict[int, Chunk] = {}
        self._made = 0
        self._next = [0] * len(steps)  # the chunk that each step takes next
        self._busy = [False] * len(steps)
        self._decoding = False
        self._exhausted = False
        self._stopped = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def help(self) -> None:
        """Work until there is nothing left."""
        while self.work(timeout=None):
            pass

    def work(self, timeout: float | None) -> bool:
        """Do one piece of work, or wait for one.

        Args:
            timeout: Longest wait, seconds.

        Returns:
            False when the run is over.
        """
        with self._changed:
            if self._over():
                return False
            piece = self._piece()
            if piece is None:
                self._changed.wait(timeout)
                return True
        try:
            piece()
        except BaseException as error:  # noqa: BLE001 (raised again by the calling thread)
            with self._changed:
                self._error = self._error or error
        with self._changed:
            self._changed.notify_all()
        return True

    def stop(self) -> None:
        """Let the threads end after what they are at."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def raise_error(self) -> None:
        """Raise what a thread met, if any."""
        if self._error is not None:
            raise self._error

    def _over(self) -> bool:
        done = self._exhausted and not self._decoding and min(self._next) == self._made
        return self._stopped or self._error is not None or done

    def _piece(self) -> Callable[[], None] | None:
        """What to do next: decode as long as there is room, else the step furthest behind."""
        room = self._made - min(self._next) < _AHEAD
        if room and not self._decoding and not self._exhausted:
            self._decoding = True
            return self._decode
        ready = [
            number
            for number, busy in enumerate(self._busy)
            if not busy and self._next[number] < self._made
        ]
        if not ready:
            return None
        number = min(ready, key=self._next.__getitem__)
        self._busy[number] = True
        chunk = self._chunks[self._next[number]]
        return lambda: self._take(number, chunk)

    def _decode(self) -> None:
        ended = object()
        chunk = next(self._source, ended)
        with self._changed:
            self._decoding = False
            if isinstance(chunk, Chunk):
                self._chunks[self._made] = chunk
                self._made += 1
            elif chunk is ended:
                self._exhausted = True

    def _take(self, number: int, chunk: Chunk) -> None:
        self._steps[number](chunk)
        with self._changed:
            self._busy[number] = False
            self._next[number] += 1
            finished = min(self._next) - 1
            self._chunks.pop(finished, None)
