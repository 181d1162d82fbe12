"""JSON text: the only form in which a user's values cross the border between runtime and store.

A store never looks inside a payload. It keeps the text and gives the same text back, so everything
that `encode_json` accepts survives every store alike: `null` (an absent payload is `None`, not
`"null"`), NUL, lone surrogates, integers of any size, key order. The text is ASCII.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, NewType, NoReturn, Protocol, TypeAlias

from .errors import ConfigurationError, InvalidArgumentError, InvalidPayloadError

__all__ = ["JsonCodec", "JsonText", "JsonValue", "PayloadCodec", "decode_json", "encode_json"]

JsonText = NewType("JsonText", str)
"""ASCII text of one JSON document, as `encode_json` writes it."""

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

_MAX_DEPTH = 200
"""Levels of nesting. Far above real data, far below where a decoder in another language gives up."""

_MAX_INT_BITS = 13_000
"""Python refuses to read decimal integers of more than 4,300 digits (`sys.int_info`)."""

_MAX_PATH = 400
"""Characters of a path in an error: a value nested 200 levels deep has a long one."""


def encode_json(value: object, argument: str = "payload") -> JsonText:
    """Write a value as JSON text that decodes to an equal value.

    Args:
        value: `None`, booleans, integers, finite floats, strings, lists, tuples (they come back as
            lists) and dicts with string keys.
        argument: The name of the argument, for the error.

    Raises:
        InvalidPayloadError: JSON cannot carry the value exactly; `path` says where.
    """
    try:
        _check(value, 0)
    except _UncarriableError as error:
        path = "$" + "".join(reversed(error.path))
        raise InvalidPayloadError(argument, _shorten(path), error.problem) from None
    return JsonText(_ENCODER.encode(value))


def decode_json(text: JsonText) -> Any:
    """Read JSON text back into a fresh value."""
    try:
        value, end = _DECODER.raw_decode(text)
    except ValueError:
        return json.loads(text)  # with space before it, or damaged: this says where
    return value if end == len(text) else json.loads(text)


_ENCODER = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), allow_nan=False)
_DECODER = json.JSONDecoder()


def check_json_text(argument: str, text: object) -> None:
    """Refuse what cannot be the work of `encode_json`, cheaply: the document itself is not parsed."""
    if not isinstance(text, str) or not text:
        raise InvalidArgumentError(argument, "must be JSON text from encode_json()")
    if not text.isascii() or "\0" in text:
        raise InvalidArgumentError(argument, "JSON text must be escaped to ASCII; use encode_json()")


def check_is_json(argument: str, text: str) -> None:
    """Refuse text that is not one JSON document, or one that not everybody could read back.

    Some databases parse what they keep and others do not; so it is parsed here.
    """
    # With few brackets it cannot be nested deeply, so most documents need no scan.
    if text.count("[") + text.count("{") > _MAX_TEXT_DEPTH and _depth(text) > _MAX_TEXT_DEPTH:
        raise InvalidArgumentError(argument, f"is JSON text that is nested deeper than {_MAX_TEXT_DEPTH} levels")
    try:
        _STRICT.decode(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(argument, f"is no JSON text: {error}") from None


def _depth(text: str) -> int:
    depth = deepest = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_MAX_TEXT_DEPTH = 250
"""Text from elsewhere may be nested a little deeper than what `encode_json` writes: the log wraps values once."""
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"')
_BRACKETS = re.compile(r"[\[\]{}]")
_STRICT = json.JSONDecoder(parse_constant=_no_constant)


class _UncarriableError(Exception):
    """An error that collects the path on its way up, so that values which can be carried cost nothing for it."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        self.path: list[str] = []


def _check(value: object, depth: int) -> None:
    # Exact types, not isinstance(): a subclass (an IntEnum, say) would come back as something else.
    kind = type(value)
    if value is None or kind is str or kind is bool:
        return
    if kind is int or kind is float:
        _check_number(value)  # type: ignore[arg-type]  # kind is int or float
    elif depth > _MAX_DEPTH:
        raise _UncarriableError(f"nested deeper than {_MAX_DEPTH} levels")
    elif kind is list or kind is tuple:
        _check_items(value, depth + 1)  # type: ignore[arg-type]  # kind is list or tuple
    elif kind is dict:
        _check_members(value, depth + 1)  # type: ignore[arg-type]  # kind is dict
    else:
        raise _UncarriableError(f"{_a(kind)} cannot be carried as JSON")


def _check_items(items: Sequence[object], depth: int) -> None:
    index = 0
    try:
        for index, item in enumerate(items):  # noqa: B007  # the last one is for the path
            _check(item, depth)
    except _UncarriableError as error:
        error.path.append(f"[{index}]")
        raise


def _check_members(members: dict[object, object], depth: int) -> None:
    for key, item in members.items():
        if type(key) is not str:
            raise _UncarriableError(f"key {key!r} is {_a(type(key))}, not a str")
        try:
            _check(item, depth)
        except _UncarriableError as error:
            error.path.append(f".{key}")
            raise


def _check_number(value: int | float) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _UncarriableError(f"{value!r} is not a JSON number")
    elif value.bit_length() > _MAX_INT_BITS:
        raise _UncarriableError("an integer of over 4,000 digits cannot be read back")


def _shorten(path: str) -> str:
    return path if len(path) <= _MAX_PATH else f"{path[: _MAX_PATH // 2]}…{path[-_MAX_PATH // 2 :]}"


def _a(kind: type) -> str:
    return f"{'an' if kind.__name__[:1] in 'aeiouAEIOU' else 'a'} {kind.__name__}"


class PayloadCodec(Protocol):
    """The two ways between a user's values and JSON text.

    One codec serves inputs, step results, signals and outputs. It must be deterministic enough that
    decoding gives an equal value, and `decode` must accept everything that an earlier version of it wrote.
    """

    def encode(self, value: Any, argument: str) -> str | bytes | bytearray:
        """Write a value as JSON; raise `InvalidPayloadError` naming `argument` when it cannot be carried.

        Text in UTF-8 will do, as `str` or as bytes: what is not ASCII is escaped before it is kept, which does not
        change the value. Anything but one JSON document is an `InvalidPayloadError`.
        """
        ...

    def decode(self, text: JsonText) -> Any:
        """Read a value that `encode` wrote."""
        ...


class JsonCodec:
    """The default codec: plain JSON values, nothing revived, nothing executed."""

    def encode(self, value: Any, argument: str) -> JsonText:
        """Write a plain JSON value."""
        return encode_json(value, argument)

    def decode(self, text: JsonText) -> Any:
        """Read a plain JSON value."""
        return decode_json(text)


class ExactCodec(Protocol):
    """A codec of which the runtime knows that it writes what a store takes. Made by `exact_codec`."""

    def encode(self, value: Any, argument: str) -> JsonText:
        """Write a value."""
        ...

    def decode(self, text: JsonText) -> Any:
        """Read a value."""
        ...


def exact_codec(codec: PayloadCodec | None) -> ExactCodec:
    """Put a check behind a codec of the user's; the default one needs none.

    Raises:
        ConfigurationError: It is no codec.
    """
    if codec is None or type(codec) is JsonCodec:
        return JsonCodec()
    if isinstance(codec, type) or not all(callable(getattr(codec, name, None)) for name in ("encode", "decode")):
        raise ConfigurationError(f"codec must be an object with encode() and decode(), not {codec!r}")
    return _CheckedCodec(codec)


class _CheckedCodec:
    """A user's codec, made to write JSON text in ASCII; an error says what is wrong with what it wrote."""

    def __init__(self, codec: PayloadCodec) -> None:
        self._codec = codec
        self.decode = codec.decode

    def encode(self, value: Any, argument: str) -> JsonText:
        text = self._text(self._codec.encode(value, argument), argument)
        if not text.isascii():
            text = _NOT_ASCII.sub(_escaped, text)
        try:
            check_is_json(argument, text)
        except InvalidArgumentError as error:
            raise self._refusal(argument, f"something that {error.problem}") from None
        return JsonText(text)

    def _text(self, written: object, argument: str) -> str:
        if isinstance(written, str):
            return str.__str__(written)
        if not isinstance(written, bytes | bytearray | memoryview):
            raise self._refusal(argument, f"{_a(type(written))} and no JSON text")
        try:
            return bytes(written).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._refusal(argument, f"bytes that are not UTF-8: {error}") from None

    def _refusal(self, argument: str, problem: str) -> InvalidPayloadError:
        return InvalidPayloadError(argument, "$", f"the codec {type(self._codec).__name__} wrote {problem}")


_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")


def _escaped(match: re.Match[str]) -> str:
    # Outside strings neither these characters nor their escapes are valid JSON.
    return json.dumps(match[0])[1:-1]
