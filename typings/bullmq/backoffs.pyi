from typing import Any

class Backoffs:
    @staticmethod
    def normalize(backoff: Any) -> dict[str, Any] | None: ...
