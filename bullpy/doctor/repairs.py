"""What a verdict tells somebody to type who wants a queue repaired."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bullpy.terminal import repair_command

if TYPE_CHECKING:
    from bullpy.doctor.look import QueueLook


def command(queue: QueueLook, name: str, *more: str) -> str:
    """The command that does a repair: `bullpy repair active --queue orders --apply`.

    Args:
        queue: The queue.
        name: One of `bullpy.repairs.NAMES`.
        more: Further options.
    """
    return repair_command(name, queue.name, queue.prefix, *more)
