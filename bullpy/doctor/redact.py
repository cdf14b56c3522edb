"""What the doctor takes out of all that it shows; see `bullpy.redaction`."""

from bullpy.redaction import redact

__all__ = ["redact"]
