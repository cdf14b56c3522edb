from typing import Any

optsEncodeMap: dict[str, str]

def optsFromJSON(rawOpts: dict[str, Any]) -> dict[str, Any]: ...

class Job:
    id: str
    name: str
    data: Any
    opts: dict[str, Any]
    queue: Any
    backend: Any
    queueQualifiedName: str
    progress: Any
    timestamp: int
    delay: int
    priority: int
    attempts: int
    attemptsMade: int
    attemptsStarted: int
    stalledCounter: int
    removeOnComplete: Any
    removeOnFail: Any
    processedOn: int
    finishedOn: int
    returnvalue: Any
    deferredFailure: str | None
    failedReason: str | None
    repeatJobKey: str | None
    token: str | None
    parentKey: str | None
    parent: dict[str, Any] | None
    stacktrace: list[str]
    deduplication_id: str | None
    discarded: bool
    def __init__(
        self, queue: Any, name: str, data: Any, opts: dict[str, Any] = ..., job_id: str | None = ...
    ) -> None: ...
    def getState(self) -> Any: ...
    async def changePriority(self, opts: dict[str, Any]) -> None: ...
    async def moveToDelayed(self, timestamp: int, token: str) -> None: ...
