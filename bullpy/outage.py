"""An outage in the log: one line when something fails, one when it works again."""

from __future__ import annotations

import logging
import time

from bullpy import errors
from bullpy.logs import RateLimited

SHORT_EVERY = 10.0
"""Seconds between two lines about interruptions that were over at the next attempt."""

_HOPELESS = (
    errors.RedisAuthError,
    errors.RedisTlsError,
    errors.NotRedisError,
    errors.UnsupportedServerError,
)
"""What waiting does not heal is told even in an outage that began with something else."""


class Outage:
    """Tells the log once that something fails, and once that it works again.

    ```python
    outage = Outage(log, "no connection", "connected again", "It is tried again.")
    outage.ended(error)  # no line yet: the next attempt shows whether it is an outage
    outage.failed(error)  # one line, however often it is called
    outage.worked()  # one line, with the seconds in between
    ```

    Args:
        log: Where to.
        lost: How the first line begins; the error follows.
        back: How the last line begins; the seconds follow.
        meanwhile: How the first line ends: what bullpy does until then.
        extra: Fields for both lines.
    """

    def __init__(
        self,
        log: logging.Logger,
        lost: str,
        back: str,
        meanwhile: str,
        extra: dict[str, object] | None = None,
    ) -> None:
        self._log = log
        self._lost = lost
        self._back = back
        self._meanwhile = meanwhile
        self._extra = extra or {}
        self._failing: set[str] = set()
        self._since: float | None = None
        self._reason: errors.RedisError | None = None
        self._told: set[str] = set()
        self._short = RateLimited(SHORT_EVERY)

    @property
    def is_on(self) -> bool:
        """Whether something fails now."""
        return bool(self._failing)

    def ended(self, error: errors.RedisError) -> None:
        """What worked has ended; whether that is an outage shows at the next attempt."""
        if self._since is None:
            self._since = time.monotonic()
            self._reason = error

    def failed(self, error: errors.RedisError, what: str = "") -> None:
        """An attempt failed.

        Args:
            error: Why.
            what: Which of several things; the outage is over when all of them work.
        """
        self.ended(error)
        self._failing.add(what)
        kind = error.code if isinstance(error, _HOPELESS) else ""
        if kind in self._told or (self._told and not kind):
            return
        self._told.add(kind)
        extra = {**self._extra, "code": error.code}
        self._log.warning("%s: %s %s", self._lost, error, self._meanwhile, extra=extra)

    def worked(self, what: str = "", detail: str = "") -> bool:
        """Something works; `detail` ends the line.

        Returns:
            Whether that was the end of an outage, or of a short interruption.
        """
        self._failing.discard(what)
        if self._since is None or self._failing:
            return False
        away = time.monotonic() - self._since
        text = f"{self._back} after {away:.1f} s{detail}"
        if self._told:
            self._log.warning("%s", text, extra=self._extra)
        else:
            reason = self._reason
            self._short.log(
                self._log, logging.WARNING, "", "%s: %s", text, reason, extra=self._extra
            )
        self._since = self._reason = None
        self._told.clear()
        return True
