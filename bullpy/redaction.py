"""Takes secrets out of text that is shown or stored: reasons of failures, names, command lines."""

from __future__ import annotations

import re

_MASK = "***"

# A password may hold anything: what stands before the last @ of the word is taken for one.
_CREDENTIALS = re.compile(r"(?P<head>[a-z][a-z0-9+.-]*://(?:[^\s/@:]*:)?)\S*@", re.IGNORECASE)
_NAMED = re.compile(
    r"(?P<head>[\w.-]*(?:pass(?:word|wd|phrase)?|secret|token|api[_-]?key|access[_-]?key|app[_-]?key"
    r"|private[_-]?key|credentials?|signature|x-amz-[\w-]+|auth)[\w.-]*[\"']?\s*[=:]\s*)"
    r"(?P<quote>[\"']?)(?!\*\*\*)[^\s\"'&,;)}]+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(?P<head>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_SHAPES = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"  # an access key of AWS
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"  # a JSON web token
    r"|\b(?:sk|pk|rk|ghp|gho|ghs|xox[abp])[-_][A-Za-z0-9_-]{16,}\b"  # keys with telling heads
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    re.DOTALL,
)


def redact(text: str) -> str:
    """The text with passwords in URLs, tokens and keys replaced by `***`."""
    text = _CREDENTIALS.sub(rf"\g<head>{_MASK}@", text)
    text = _BEARER.sub(rf"\g<head>{_MASK}", text)
    text = _NAMED.sub(rf"\g<head>\g<quote>{_MASK}", text)
    return _SHAPES.sub(_MASK, text)
