"""Takes secrets out of text that is shown or stored: reasons of failures, names, command lines."""

from __future__ import annotations

import re

_MASK = "***"

# Texts come from anybody: each pattern begins at a fixed word, so that long ones take no long time.

# A password may hold anything: what stands before the last @ of the word is taken for one.
_CREDENTIALS = re.compile(r"(?P<head>(?<=[a-z0-9+.-])://(?:[^\s/@:]*:)?)\S*@", re.IGNORECASE)
_NAMED = re.compile(
    r"(?P<head>(?:pass(?:word|wd|phrase)?|secret|token|api[_-]?key|access[_-]?key|app[_-]?key"
    r"|private[_-]?key|credentials?|signature|x-amz-|auth)[\w.-]{0,64}"
    # JSON inside of JSON has its quotes escaped.
    r"(?:\\*[\"'])?\s*[=:]\s*)(?P<quote>(?:\\*[\"'])?)(?!\*\*\*)[^\s\"'\\&,;)}]+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(?P<head>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_SHAPES = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"  # an access key of AWS
    r"|\beyJ[\w-]{8,}(?:\.[\w-]*)+"  # a JSON web token
    r"|\b(?:sk|pk|rk|ghp|gho|ghs|xox[abp])[-_][A-Za-z0-9_-]{16,}\b"  # keys with telling heads
    r"|-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    re.DOTALL,
)


def redact(text: str) -> str:
    """The text with passwords in URLs, tokens and keys replaced by `***`."""
    text = _CREDENTIALS.sub(rf"\g<head>{_MASK}@", text)
    text = _BEARER.sub(rf"\g<head>{_MASK}", text)
    text = _NAMED.sub(rf"\g<head>\g<quote>{_MASK}", text)
    return _SHAPES.sub(_MASK, text)
