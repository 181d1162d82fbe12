"""Payloads: what goes in comes out, exactly; what cannot is refused with its path; the codec is the user's choice."""

from __future__ import annotations

import enum
import json
import math
from collections import OrderedDict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workflow_runtime import (
    Context,
    InvalidArgumentError,
    InvalidPayloadError,
    JsonText,
    decode_json,
    encode_json,
    workflow,
)
from workflow_runtime.payloads import check_json_text
from workflow_runtime.testing import run_to_completion

if TYPE_CHECKING:
    from conftest import Lab

# With lone surrogates and NUL, which hypothesis leaves out of its texts by default.
texts = st.text(st.characters(codec=None, exclude_categories=()))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def same(one: object, other: object) -> bool:
    """Equal in value, type, sign of zero, and order of keys."""
    return repr(one) == repr(other)


@given(values)
def test_every_json_value_comes_back_equal(value: Any) -> None:
    """Numbers keep their type and every digit, texts every code point, dicts their order."""
    text = encode_json(value)
    assert same(decode_json(text), value)
    assert text.isascii()
    assert "\0" not in text
    check_json_text("payload", text)


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -0.0, 2**53 + 1, -(2**3000), 5e-324, 1e308, "", "null", "{}", "\0", "\udc80\ud83d", "☃", [], {}],
    ids=repr,
)
def test_values_that_often_get_lost(value: Any) -> None:
    """One by one, because each has a store that breaks it."""
    assert same(decode_json(encode_json(value)), value)


def test_tuples_become_lists() -> None:
    """The one change there is."""
    assert decode_json(encode_json({"a": (1, (2,), [])})) == {"a": [1, [2], []]}


def test_returned_values_are_fresh() -> None:
    """Decoding twice gives two values that share nothing."""
    text = encode_json({"a": []})
    decode_json(text)["a"].append(1)
    assert decode_json(text) == {"a": []}


class Colour(enum.IntEnum):
    RED = 1


class Name(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "path", "problem"),
    [
        ([1, {"a": {2}}], "$[1].a", "a set cannot be carried as JSON"),
        ({"a": ({"b": object()},)}, "$.a[0].b", "an object cannot be carried as JSON"),
        ([math.nan], "$[0]", "nan is not a JSON number"),
        ({"x": {"y": -math.inf}}, "$.x.y", "-inf is not a JSON number"),
        ({"x": {1: 2}}, "$.x", "key 1 is an int, not a str"),
        ({Name("x"): 1}, "$", "key 'x' is a Name, not a str"),
        (Colour.RED, "$", "a Colour cannot be carried as JSON"),
        ([Name("x")], "$[0]", "a Name cannot be carried as JSON"),
        (OrderedDict(a=1), "$", "an OrderedDict cannot be carried as JSON"),
        (b"", "$", "a bytes cannot be carried as JSON"),
        ([10**4_000], "$[0]", "an integer of over 4,000 digits cannot be read back"),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)
def test_what_cannot_be_carried_exactly_is_refused_with_its_path(value: Any, path: str, problem: str) -> None:
    """Rather than changed on the way: an enum would come back as a number."""
    with pytest.raises(InvalidPayloadError) as refusal:
        encode_json(value, "input")
    assert (refusal.value.argument, refusal.value.path) == ("input", path)
    assert str(refusal.value) == f"input: at {path}: {problem}"


def test_depth_is_bounded_and_cycles_end() -> None:
    """200 levels come back; more, and what contains itself, is refused instead of overflowing a stack."""
    deep: Any = 0
    for _ in range(200):
        deep = [deep]
    assert decode_json(encode_json(deep)) == deep
    cycle: list[Any] = []
    cycle.append({"again": cycle})
    for value in ([[deep]], cycle):
        with pytest.raises(InvalidPayloadError, match="nested deeper than 200 levels") as refusal:
            encode_json(value)
        assert len(str(refusal.value)) < 1_000


@pytest.mark.parametrize("text", ["", "é", "a\0", b"1", None, 5])
def test_text_that_encode_json_has_not_written(text: Any) -> None:
    """A store refuses it cheaply, without parsing."""
    with pytest.raises(InvalidArgumentError, match="payload"):
        check_json_text("payload", text)


class TaggingCodec:
    """A codec that wraps every value, so that a forgotten use of it shows."""

    def encode(self, value: Any, argument: str) -> JsonText:
        if value == "refused":
            raise InvalidPayloadError(argument, "$", "not by this codec")
        return JsonText(json.dumps({"tagged": value}))

    def decode(self, text: JsonText) -> Any:
        return json.loads(text)["tagged"]


async def test_codec_serves_every_value_of_the_user(lab: Lab) -> None:
    """Input, results, signals, emitted payloads, output; and nothing that is the engine's own."""

    async def pass_on(value: Any) -> Any:
        return value

    @workflow()
    async def everything(ctx: Context, input: Any) -> Any:
        await ctx.now()
        await ctx.sleep(timedelta(hours=1))
        result = await ctx.step(pass_on, input)
        await ctx.emit("found", result)
        decision = await ctx.approve("yes")
        return [input, result, await ctx.wait_for_event("go"), decision.approved]

    runtime = lab.runtime(everything, codec=TaggingCodec())
    handle = await runtime.start_run(everything, "in", run_id="run")
    await runtime.deliver_signal("run", "go", "signal")
    await runtime.deliver_approval("run", "yes", approved=True)
    assert await run_to_completion(runtime, handle, lab.clock) == ["in", "in", "signal", True]
    run = await lab.load("run")
    assert (run.input, run.output) == ('{"tagged": "in"}', '{"tagged": ["in", "in", "signal", true]}')
    payloads = {event.kind: str(event.payload) for event in await lab.events("run")}
    assert payloads["step-completed"] == '{"tagged": "in"}'
    assert payloads["emitted"] == '{"name":"found","value":{"tagged": "in"}}'
    assert "tagged" not in payloads["value-recorded"] + payloads["approval-received"]


async def test_codec_that_refuses_is_bad_input(lab: Lab) -> None:
    """Before anything is written, as with the default one; a step's result fails without retry."""

    async def refused() -> str:
        lab.ran["refused"] += 1
        return "refused"

    @workflow()
    async def works(ctx: Context, _: Any) -> Any:
        return await ctx.step(refused)

    runtime = lab.runtime(works, codec=TaggingCodec())
    before = lab.picture()
    with pytest.raises(InvalidPayloadError, match="input: at \\$: not by this codec"):
        await runtime.start_run(works, "refused")
    assert lab.picture() == before
    handle = await runtime.start_run(works)
    with pytest.raises(Exception, match="result of step 'refused': at \\$: not by this codec"):
        await run_to_completion(runtime, handle, lab.clock)
    assert lab.ran == {"refused": 1}
