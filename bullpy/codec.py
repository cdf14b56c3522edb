"""JSON as Node writes and reads it.

`dumps` gives what `JSON.stringify` would: UTF-8 without escapes, no spaces, `NaN` and
infinities as `null`. It also knows the types that Python processors return: dates, UUIDs,
sets, numpy arrays and scalars, dataclasses, pydantic models. `loads` reads everything Node
can have written, including lone surrogates, which strict parsers refuse.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import deque
from collections.abc import Mapping
from decimal import Decimal
from pathlib import PurePath
from typing import Any, cast

import msgpack
import orjson

from bullpy import errors

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """A value that is JSON already, since it was encoded elsewhere."""

    json: bytes

    @property
    def value(self) -> Any:
        """The value, decoded at each call."""
        return loads(self.json)


def dumps(value: object) -> bytes:
    """Encode a value as compact UTF-8 JSON.

    Dates become ISO 8601 strings, UUIDs and paths strings, sets and arrays lists, dataclasses
    and pydantic models objects (a model's aliases are used, so a camelCase model stays
    camelCase on the wire). Dictionary keys become strings, as in JavaScript.

    Raises:
        errors.EncodingError: The value, or something inside it, has no JSON form; or it
            contains itself.
    """
    try:
        return orjson.dumps(value, default=_default, option=_OPTIONS)
    except orjson.JSONEncodeError as refused:
        return _dumps_slowly(value, refused)


def loads(raw: bytes | str) -> Any:
    """Decode JSON.

    Raises:
        ValueError: The text is not JSON, or not UTF-8.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        # orjson refuses lone surrogates (JavaScript strings may hold them) and NaN.
        if isinstance(raw, bytes):
            raw = raw.decode("utf-8")
        return json.loads(raw)


def pack_for_lua(value: object) -> bytes:
    """Msgpack as the Lua inside Redis unpacks it, which knows one type for text and bytes."""
    return cast("bytes", msgpack.packb(value, use_bin_type=False))


def _default(value: object) -> object:
    """Turn what orjson does not know into what it does."""
    if isinstance(value, set | frozenset):
        return list(cast("set[object]", value))
    if isinstance(value, deque):
        return list(cast("deque[object]", value))
    if isinstance(value, Mapping):
        return dict(cast("Mapping[object, object]", value))
    if isinstance(value, PurePath | Decimal):
        return str(value)
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json", by_alias=True)
    tolist = getattr(value, "tolist", None)
    if callable(tolist):
        return tolist()
    raise errors.EncodingError(
        f"A value of type {type(value).__name__} has no JSON form.",
        fix=_advice(value),
    )


def _advice(value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return "Decode it to text, encode it as base64, or store it and pass a reference."
    return "Return plain dicts, lists, strings, numbers, dates, or a pydantic model."


def _dumps_slowly(value: object, refused: Exception) -> bytes:
    """Encode what orjson refuses but JavaScript has a form for.

    Those are keys that are not strings, integers above 64 bits and lone surrogates.
    """
    if isinstance(refused.__cause__, errors.EncodingError):
        raise refused.__cause__
    try:
        text = json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))
    except RecursionError as endless:
        raise errors.EncodingError(
            "The value is nested too deeply for JSON.",
            cause="It probably contains itself.",
            fix="Return data without cycles.",
        ) from endless
    return _LONE_SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()


def _plain(value: object) -> object:
    """The value rebuilt from what `json` encodes exactly as JavaScript would."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        items = cast("dict[object, object]", value).items()
        return {_key(key): _plain(item) for key, item in items}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("list[object]", value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # As orjson: its fields without those that begin with an underscore.
        names = [item.name for item in dataclasses.fields(value) if item.name[0] != "_"]
        return {name: _plain(getattr(value, name)) for name in names}
    try:
        return loads(orjson.dumps(value, option=_OPTIONS))
    except orjson.JSONEncodeError:
        return _plain(_default(value))


def _key(key: object) -> str:
    if isinstance(key, str):
        return key
    if key is None or isinstance(key, bool):
        return json.dumps(key)
    if isinstance(key, int | float):
        return str(key)
    try:
        text = loads(orjson.dumps(key, option=_OPTIONS))
    except orjson.JSONEncodeError:
        text = None
    if isinstance(text, str):
        return text
    raise errors.EncodingError(
        f"A dictionary key of type {type(key).__name__} has no JSON form.",
        fix="Use strings or numbers as keys.",
    )
