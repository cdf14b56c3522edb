"""What can be wrong with an audio file or with the place it comes from.

```
AudioError                 the file, its store, or its reference
├── NotAudioError          no audio format bullpy reads
├── DecoderMissingError    audio whose decoder is not installed
├── CorruptAudioError      audio, but damaged beyond reading
├── EmptyAudioError        audio without a single sample
├── AudioLimitError        more channels, higher rate, longer or larger than allowed
├── ReferenceJobError      the job whose result is the reference has none
│   ├── ReferenceMissingError   no such job, or no result of it any more
│   ├── ReferencePendingError   it has not ended                      (retryable)
│   └── ReferenceFailedError    it has failed
└── StoreError             the store cannot give the file now         (retryable)
    ├── FileKeyError       the fileKey is refused: it is no path below the root
    ├── StoreRefusedError  the store will not give the file, now or later
    └── FileMissingError   no such file, perhaps not yet              (retryable)
        └── FileGoneError  no such file, says a web server
```

`permanent` says whether a retry could ever help: a text file stays a text file.
"""

from __future__ import annotations

from typing import ClassVar

from bullpy import errors


class AudioError(errors.BullpyError):
    """Something is wrong with an audio file or with its store.

    Attributes:
        permanent: True when trying again cannot help.
    """

    code = "audio"
    permanent: ClassVar[bool] = True


class NotAudioError(AudioError):
    """The content is in no audio format that bullpy reads, whatever its name says."""

    code = "not-audio"


class DecoderMissingError(AudioError):
    """The content is audio in a format whose decoder, an extra of bullpy, is not installed."""

    code = "decoder-missing"


class CorruptAudioError(AudioError):
    """The content is audio, but damaged where it cannot be read past.

    Args:
        seconds: How much was decoded before the damage; None when nothing was.
    """

    code = "corrupt-audio"

    def __init__(
        self,
        message: str,
        *,
        cause: str | None = None,
        fix: str | None = None,
        seconds: float | None = None,
    ) -> None:
        super().__init__(message, cause=cause, fix=fix)
        self.seconds = seconds


class EmptyAudioError(AudioError):
    """The file holds no samples."""

    code = "empty-audio"


class AudioLimitError(AudioError):
    """The file is outside the limits of `AudioSettings`."""

    code = "audio-limit"


class ReferenceJobError(AudioError):
    """The job whose result is the reference has none."""

    code = "reference"


class ReferenceMissingError(ReferenceJobError):
    """There is no such job, or its result was removed: waiting does not bring it back."""

    code = "reference-missing"


class ReferencePendingError(ReferenceJobError):
    """The reference job waits or runs; a later attempt may find its result."""

    code = "reference-pending"
    permanent = False


class ReferenceFailedError(ReferenceJobError):
    """The reference job has failed."""

    code = "reference-failed"


class StoreError(AudioError):
    """The store cannot give the file now; a later attempt may work."""

    code = "audio-store"
    permanent = False


class FileKeyError(StoreError):
    """The fileKey is refused: it names nothing below the store's root."""

    code = "file-key"
    permanent = True


class FileMissingError(StoreError):
    """There is no such file; it may still be on its way, so the job is tried again."""

    code = "file-missing"


class FileGoneError(FileMissingError):
    """A web server says that there is no such file: asking again would give the same answer."""

    code = "file-gone"
    permanent = True


class StoreRefusedError(StoreError):
    """The store will not give the file: access refused, or an answer that must not be followed."""

    code = "store-refused"
    permanent = True
