"""What every store can do, and what it tells and asks while it does it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


def _never() -> bool:
    return False


def _nobody(_share: float) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Watch:
    """Who looks on while a file is fetched. Both are called in the caller's thread.

    Attributes:
        should_stop: Asked about fifty times a second; True ends the download.
        on_share: Takes the share of the file that has arrived, 0 to 1, when it rose.
    """

    should_stop: Callable[[], bool] = _never
    on_share: Callable[[float], None] = _nobody


UNWATCHED = Watch()


class Store(Protocol):
    """Anything that can make the file of a fileKey readable on this machine."""

    def fetch(self, file_key: str, watch: Watch = UNWATCHED) -> AbstractContextManager[Path]:
        """A context manager that gives a local path, valid until it is left.

        Raises:
            FileKeyError: The key is refused.
            FileMissingError: There is no such file (yet).
            FileGoneError: There is none, and there will be none.
            StoreRefusedError: The store will not give it.
            StoreError: It cannot be had now.
            AudioLimitError: It is larger than accepted.
            errors.JobCancelledError: `watch.should_stop` said True.
        """
        ...

    def version(self, file_key: str, watch: Watch = UNWATCHED) -> str | None:
        """What changes whenever the file's content does, without reading it.

        None where the store cannot promise that. Raises what `fetch` raises.
        """
        ...
