"""Audio analysis: loudness, true peak, levels, stereo image and spectrum of one file.

The first processor plugin of bullpy. It uses the public API only, and needs the extra
`bullpy[audio]` (numpy and soundfile).

```python
from bullpy.audio import analyze

report = analyze("song.flac")
print(report.loudness.integrated, report.true_peak.max_dbtp)
```

Names load on first use, so importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bullpy.audio.analysis import analyze
    from bullpy.audio.errors import (
        AudioError,
        AudioLimitError,
        CorruptAudioError,
        DecoderMissingError,
        EmptyAudioError,
        FileGoneError,
        FileKeyError,
        FileMissingError,
        NotAudioError,
        ReferenceFailedError,
        ReferenceJobError,
        ReferenceMissingError,
        ReferencePendingError,
        StoreError,
        StoreRefusedError,
    )
    from bullpy.audio.job import AudioJob, process_audio
    from bullpy.audio.report import AudioReport
    from bullpy.audio.settings import AudioSettings
    from bullpy.audio.stores.local import LocalStore

__all__ = [
    "AudioError",
    "AudioJob",
    "AudioLimitError",
    "AudioReport",
    "AudioSettings",
    "CorruptAudioError",
    "DecoderMissingError",
    "EmptyAudioError",
    "FileGoneError",
    "FileKeyError",
    "FileMissingError",
    "LocalStore",
    "NotAudioError",
    "ReferenceFailedError",
    "ReferenceJobError",
    "ReferenceMissingError",
    "ReferencePendingError",
    "StoreError",
    "StoreRefusedError",
    "analyze",
    "process_audio",
]

_MODULES = {
    "analyze": "analysis",
    "AudioJob": "job",
    "process_audio": "job",
    "AudioReport": "report",
    "AudioSettings": "settings",
    "LocalStore": "stores.local",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'errors')}")
    value: object = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
