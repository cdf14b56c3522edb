"""A module that is preloaded where no process can be forked any more."""

from __future__ import annotations

import errno
import os


def _refuse() -> int:
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


os.fork = _refuse
