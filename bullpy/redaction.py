"""Takes secrets out of text that is shown or stored: reasons of failures, names, command lines.

The text may be anybody's, and long: each pattern goes over it once, and begins only where a word
does, or the time would grow with the square of a word's length.
"""

from __future__ import annotations

import re

_MASK = "***"

_WORD = re.compile(r"\S++")
_USER = re.compile(r"[^/@:]*:")
_NAMED = re.compile(
    r"(?P<head>(?:pass(?:word|wd|phrase)?|secret|token|api[_-]?key|access[_-]?key|app[_-]?key"
    r"|private[_-]?key|credentials?|signature|x-amz-|auth)[\w.-]{0,64}"
    # JSON inside of JSON has its quotes escaped.
    r"(?:\\*[\"'])?\s*[=:]\s*)(?P<quote>(?:\\*[\"'])?)(?!\*\*\*)[^\s\"'\\&,;)}]+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(?P<head>\b(?:bearer|basic)\s++)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_SHAPES = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"  # an access key of AWS
    r"|\beyJ[\w-]{8,2000}+(?:\.[\w-]*)+"  # a JSON web token
    r"|\b(?:sk|pk|rk|ghp|gho|ghs|xox[abp])[-_][A-Za-z0-9_-]{16,}\b"  # keys with telling heads
    r"|-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    re.DOTALL,
)


def redact(text: str) -> str:
    """The text with passwords in URLs, tokens and keys replaced by `***`."""
    if "://" in text:
        text = _WORD.sub(_without_credentials, text)
    text = _BEARER.sub(rf"\g<head>{_MASK}", text)
    text = _NAMED.sub(rf"\g<head>\g<quote>{_MASK}", text)
    return _SHAPES.sub(_MASK, text)


def _without_credentials(found: re.Match[str]) -> str:
    """A word without the password of the URL in it."""
    word = found[0]
    start, end = word.find("://") + len("://"), word.rfind("@")
    if "://" not in word or end < start:
        return word
    user = _USER.match(word, start, end)
    # A password may hold anything: what stands before the last @ of the word is taken for one.
    return f"{word[: user.end() if user else start]}{_MASK}{word[end:]}"
