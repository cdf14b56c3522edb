"""What a verdict tells somebody to type who wants a queue repaired."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bullpy.doctor.look import QueueLook

USUAL_PREFIX = "bull"


def command(queue: QueueLook, name: str, *more: str) -> str:
    """The command that does a repair: `bullpy repair active --queue orders --apply`.

    Args:
        queue: The queue; one with another prefix than the usual needs that said too.
        name: One of `bullpy.repairs.NAMES`.
        more: Further options.
    """
    words = ["bullpy", "repair", name, "--queue", queue.name]
    if queue.prefix != USUAL_PREFIX:
        words += ["--prefix", queue.prefix]
    return shlex.join([*words, *more, "--apply"])
