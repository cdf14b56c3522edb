from typing import Any

from bullmq.job import Job
from bullmq.queue_keys import QueueKeys

class Scripts:
    prefix: str
    queueName: str
    keys: dict[str, str]
    commands: dict[str, Any]
    queue_keys: QueueKeys
    def toKey(self, name: str) -> str: ...
    def encodeOpts(self, opts: dict[str, Any]) -> dict[str, Any]: ...
    async def addJob(self, job: Job, pipe: Any = ...) -> Any: ...
    def addParentJob(self, job: Job, pipe: Any = ...) -> Any: ...
    def retryJobArgs(
        self, job_id: str, lifo: bool, token: str, opts: dict[str, Any] = ...
    ) -> tuple[list[str], list[Any]]: ...
    async def moveToWaitingChildren(
        self, job_id: str, token: str, opts: dict[str, Any]
    ) -> bool | None: ...
    def moveToFinishedArgs(
        self,
        job: Job,
        val: Any,
        propVal: str,
        shouldRemove: Any,
        target: str,
        token: str,
        fetchNext: bool = ...,
        fields_to_update: dict[str, Any] | None = ...,
    ) -> tuple[list[str], list[Any]]: ...
    def remove(self, job_id: str, remove_children: bool) -> Any: ...
    def finishedErrors(self, opts: dict[str, Any]) -> Exception: ...
