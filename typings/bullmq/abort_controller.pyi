class AbortSignal:
    aborted: bool
    reason: str | None

class AbortController:
    signal: AbortSignal
    def abort(self, reason: str | None = ...) -> None: ...
