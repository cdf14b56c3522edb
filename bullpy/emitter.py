"""Events that cannot hurt who emits them."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast, overload

from bullpy import errors

log = logging.getLogger("bullpy.events")

Listener = TypeVar("Listener", bound=Callable[..., Any])


class SafeEmitter:
    """Calls listeners, sync or async, and survives what they do.

    A listener that raises is logged, once per event and kind of error; the job, the worker
    and the other listeners never notice. Async listeners run as tasks that the emitter owns.

    Attributes:
        EVENTS: Names that can be emitted; empty means any. Subscribing to a misspelt name is
            an error instead of silence.
    """

    EVENTS: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self._callbacks: dict[str, list[Callable[..., Any]]] = {}
        self._once: set[tuple[str, Callable[..., Any]]] = set()
        self._listener_tasks: set[asyncio.Task[Any]] = set()
        self._complained: set[tuple[str, str]] = set()

    @overload
    def on(self, event_name: str) -> Callable[[Listener], Listener]: ...
    @overload
    def on(self, event_name: str, function: Listener) -> Listener: ...
    def on(self, event_name: str, function: Callable[..., Any] | None = None) -> Any:
        """Call `function` at each such event; without a function, a decorator.

        Raises:
            errors.ConfigurationError: There is no event of that name.
        """
        if function is None:
            return functools.partial(self.on, event_name)
        if self.EVENTS and event_name.split(":", 1)[0] not in self.EVENTS:
            raise errors.ConfigurationError(
                f"There is no event {event_name!r}.",
                fix=f"Use one of: {', '.join(sorted(self.EVENTS))}.",
            )
        self._callbacks.setdefault(event_name, []).append(function)
        return function

    def once(self, event_name: str, function: Listener) -> Listener:
        """Call `function` at the next such event only."""
        self._once.add((event_name, self.on(event_name, function)))
        return function

    def off(self, event_name: str, function: Callable[..., Any]) -> None:
        """End a subscription; unknown ones are ignored."""
        self._once.discard((event_name, function))
        listeners = self._callbacks.get(event_name, [])
        if function in listeners:
            listeners.remove(function)
        if not listeners:
            self._callbacks.pop(event_name, None)

    def remove_all_listeners(self, event_name: str | None = None) -> None:
        """End all subscriptions, or those to one event."""
        for name in [event_name] if event_name is not None else list(self._callbacks):
            for function in list(self._callbacks.get(name, [])):
                self.off(name, function)

    def listener_count(self, event_name: str) -> int:
        """How many listeners the event has."""
        return len(self._callbacks.get(event_name, ()))

    def emit(self, event_name: str, *args: Any, **kwargs: Any) -> None:
        """Call the event's listeners. Never raises."""
        listeners = self._callbacks.get(event_name)
        if not listeners:
            return
        for function in tuple(listeners):
            if self._once and (event_name, function) in self._once:
                self.off(event_name, function)
            try:
                result = function(*args, **kwargs)
                if result is not None and inspect.isawaitable(result):
                    self._own(event_name, asyncio.ensure_future(result))
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - CancelledError included
                self._complain(event_name, error)

    async def drain_listeners(self) -> None:
        """Wait for async listeners that still run."""
        while self._listener_tasks:
            await asyncio.gather(*self._listener_tasks, return_exceptions=True)

    def _own(self, event_name: str, task: asyncio.Future[Any]) -> None:
        owned = cast("asyncio.Task[Any]", task)
        self._listener_tasks.add(owned)

        def done(finished: asyncio.Task[Any]) -> None:
            self._listener_tasks.discard(finished)
            if not finished.cancelled() and (error := finished.exception()) is not None:
                self._complain(event_name, error)

        owned.add_done_callback(done)

    def _complain(self, event_name: str, error: BaseException) -> None:
        kind = (event_name, type(error).__name__)
        if kind in self._complained:
            log.debug("listener of %r raised again: %s", event_name, errors.describe(error))
            return
        self._complained.add(kind)
        log.error(
            "a listener of %r raised %s; jobs are not affected. Further errors of this kind "
            "are logged at debug level.",
            event_name,
            errors.describe(error),
            exc_info=error,
        )
