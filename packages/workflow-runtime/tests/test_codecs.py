"""Codecs of the user's: whatever they write is made what a store takes, or is a clear error of whom it concerns."""

from __future__ import annotations

import json
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import (
    ConfigurationError,
    Context,
    InvalidPayloadError,
    JsonCodec,
    JsonText,
    RunFailedError,
    workflow,
)
from workflow_runtime.testing import run_to_completion

if TYPE_CHECKING:
    from conftest import Lab

VALUE = {"name": "Zoë ☃ 😀", "half": "\udc80", "nul": "a\0b", "quote": '"\\', "nested": [1, {"ключ": None}]}


PAYLOADS = {"input", "payload", "output"}


PAYLOADS = {"input", "payload", "output"}


class Text(str):
    """A string that is none of the usual ones."""


class Writing:
    """Writes what a function makes of the JSON text of a value."""

    def __init__(self, write: Any) -> None:
        self.write = write

    def encode(self, value: Any, argument: str) -> Any:
        text = json.dumps(value, ensure_ascii=False, indent=1)
        return self.write(text) if value == VALUE else text

    def decode(self, text: JsonText) -> Any:
        assert type(text) is str
        assert text.isascii()
        return json.loads(text)


CARRIED: dict[str, Any] = {
    "text that is not ASCII": lambda text: text,
    "bytes": lambda text: json.dumps(json.loads(text.replace("\udc80", "x"))).encode(),
    "bytes that are not ASCII": lambda text: text.replace("\udc80", "x").encode(),
    "a bytearray": lambda text: bytearray(text.replace("\udc80", "x").encode()),
    "a memoryview": lambda text: memoryview(text.replace("\udc80", "x").encode()),
    "a subclass of str": Text,
    "blanks around it": lambda text: f"\n {text}\t\r\n",
}
REFUSED: dict[str, tuple[Any, str]] = {
    "None": (lambda text: None, "a NoneType and no JSON text"),
    "a dict": (json.loads, "a dict and no JSON text"),
    "a number": (lambda text: 5, "an int and no JSON text"),
    "nothing": (lambda text: "", "Expecting value"),
    "half of it": (lambda text: text[: len(text) // 2], "is no JSON text"),
    "two documents": (lambda text: text + text, "Extra data"),
    "NaN": (lambda text: "NaN", "NaN is not JSON"),
    "infinity": (lambda text: '{"a":[-Infinity]}', "-Infinity is not JSON"),
    "Python": (lambda text: "{'a': None}", "is no JSON text"),
    "a plain line break": (lambda text: '"a\nb"', "Invalid control character"),
    "a plain NUL": (lambda text: '"a\0b"', "Invalid control character"),
    "a blank that JSON does not know": (lambda text: "\u00a0" + text, "is no JSON text"),
    "bytes in another encoding": (lambda text: '"é"'.encode("latin-1"), "bytes that are not UTF-8"),
    "bytes with a mark before": (lambda text: b"\xef\xbb\xbf1", "is no JSON text"),
    "too many levels": (lambda text: "[" * 100_000 + "]" * 100_000, "nested deeper than 250 levels"),
    "a number nobody reads back": (lambda text: "1" * 5_000, "is no JSON text"),
}


@workflow()
async def carries(ctx: Context, input: Any) -> Any:
    result = await ctx.step(lambda: input)
    await ctx.emit("out", result)
    signal = await ctx.wait_for_event("go")
    assert result == signal == input
    return result


@pytest.mark.parametrize("written", CARRIED)
async def test_json_text_in_any_form_is_carried(lab: Lab, written: str) -> None:
    """What is not ASCII is escaped, which changes no value; the store and `decode` see plain ASCII text."""
    codec = Writing(CARRIED[written])
    value = json.loads(bytes(text) if isinstance(text := codec.encode(VALUE, "value"), memoryview) else text)
    store = lab.tapped()
    runtime = lab.runtime(carries, store=store, codec=codec)
    handle = await runtime.start_run(carries, VALUE)
    await runtime.deliver_signal(handle.run_id, "go", VALUE)
    assert await run_to_completion(runtime, handle, lab.clock) == value
    calls = [arguments for _, arguments in store.arguments]
    texts = [text for arguments in calls for name, text in arguments.items() if name in PAYLOADS]
    texts += [event.payload for arguments in calls for event in arguments.get("events", ())]
    texts = [text for text in texts if text is not None]
    assert len(texts) >= 5
    assert all(type(text) is str and text.isascii() for text in texts)


async def test_ascii_text_is_kept_as_it_was_written(lab: Lab) -> None:
    """With its blanks, its order and its way to write numbers."""
    text = '{ "b": 1.50,\n  "a": 1e2 }'
    runtime = lab.runtime(carries, codec=Writing(lambda _: text))
    handle = await runtime.start_run(carries, VALUE)
    assert (await handle.load()).input == text


@pytest.mark.parametrize("written", REFUSED)
async def test_what_is_no_json_is_an_error_of_the_step(lab: Lab, written: str) -> None:
    """Not of the worker; it is not tried again, and it names the codec and what it wrote."""
    write, problem = REFUSED[written]

    def give() -> Any:
        lab.ran["step"] += 1
        return VALUE

    @workflow()
    async def fails(ctx: Context, _: Any) -> None:
        await ctx.step(give)

    runtime = lab.runtime(fails, codec=Writing(write))
    handle = await runtime.start_run(fails)
    with pytest.raises(
        RunFailedError, match="InvalidPayloadError: result of step 'give': at \\$: the codec Writing wrote"
    ) as failed:
        await run_to_completion(runtime, handle, lab.clock)
    assert problem in str(failed.value)
    assert lab.ran == {"step": 1}


@pytest.mark.parametrize("written", REFUSED)
async def test_what_is_no_json_is_an_error_of_the_caller(lab: Lab, written: str) -> None:
    """Of an input, a signal, an emitted value and an output: nothing is written."""
    write, problem = REFUSED[written]

    @workflow()
    async def gives(ctx: Context, where: Any) -> Any:
        if where == "emit":
            await ctx.emit("out", VALUE)
        return VALUE

    runtime = lab.runtime(gives, codec=Writing(write))
    run = await runtime.start_run(gives, "emit", run_id="run")
    before = lab.picture()
    for call in (runtime.start_run(gives, VALUE), runtime.deliver_signal("run", "go", VALUE)):
        with pytest.raises(InvalidPayloadError) as refusal:
            await call
        assert problem in str(refusal.value)
    assert lab.picture() == before
    for handle in (run, await runtime.start_run(gives, "output")):
        with pytest.raises(RunFailedError, match="InvalidPayloadError"):
            await run_to_completion(runtime, handle, lab.clock)


@pytest.mark.parametrize("codec", [JsonCodec, 5, "json", json], ids=["class", "number", "text", "module"])
def test_what_is_no_codec_is_refused_at_once(lab: Lab, codec: Any) -> None:
    """A class instead of an object, for instance."""
    with pytest.raises(ConfigurationError, match=r"codec must be an object with encode\(\) and decode\(\)"):
        lab.runtime(carries, codec=codec)


class Sig(StrEnum):
    """Names as a program keeps them."""

    GO = "go"
    RUN = "run"
    MAIL = "mail"


class Old(str):
    """A string with a text of its own, as `class Old(str, Enum)` makes them."""

    def __str__(self) -> str:
        return f"Old.{super().upper()}"

    def __format__(self, spec: str) -> str:
        return str(self)

    __repr__ = __str__


@pytest.mark.parametrize("kind", [Sig, Old])
async def test_names_that_are_subclasses_of_str_work_as_their_string(lab: Lab, kind: Any) -> None:
    """Wherever a name comes in; the store sees nothing but `str`."""
    go, run_id, mail = kind("go"), kind("run"), kind("mail")

    @workflow(id=mail, version=go)
    async def named(ctx: Context, _: Any) -> Any:
        await ctx.step.options(id=mail)(lambda: None)
        await ctx.sleep(timedelta(0), id=run_id)
        await ctx.emit(mail)
        decision = await ctx.approve(go)
        return [await ctx.wait_for_event(go), await ctx.wait_for_event(go, id=go), decision.approved, decision.comment]

    store = lab.tapped()
    runtime = lab.runtime(named, store=store, queues=[mail], owner=go)
    handle = await runtime.start_run(mail, run_id=run_id, queue=mail)
    await runtime.sweep()
    await runtime.deliver_approval(run_id, go, approved=True, decided_by=mail, comment=mail)
    await runtime.deliver_signal(run_id, go, 1, signal_id=mail)
    await runtime.deliver_signal(run_id, go, 2, signal_id=go)
    assert await run_to_completion(runtime, handle, lab.clock) == [1, 2, True, "mail"]
    assert await runtime.attach(run_id).result() == [1, 2, True, "mail"]
    assert await lab.log("run") == [
        "step-completed mail",
        "sleep-started run",
        "sleep-ended run",
        "emitted emit:mail",
        "approval-requested approval:go",
        "approval-received approval:go",
        "wait-started wait:go",
        "signal-received wait:go",
        "wait-started go",
        "signal-received go",
        "run-finished",
    ]
    await runtime.cancel_run(run_id, reason=mail)
    await runtime.terminate_run(run_id, reason=mail)
    await runtime.requeue_run(run_id)
    strings = [value for _, arguments in store.arguments for value in arguments.values() if isinstance(value, str)]
    assert {type(value) for value in strings} == {str}
    kept = [
        part
        for _, arguments in store.arguments
        for event in arguments.get("events", ())
        for part in (event.kind, event.step_id)
    ]
    assert {type(value) for value in kept} <= {str, type(None)}


@pytest.mark.parametrize("kind", [Sig, Old])
async def test_a_store_called_directly_takes_them_too(lab: Lab, kind: Any) -> None:
    """And keeps plain strings."""
    await lab.store().create_run(
        run_id=kind("run"),
        workflow_id=kind("mail"),
        workflow_version=kind("go"),
        input=JsonText(Text("1")),
        operation_id=kind("go"),
        now_ms=0,
    )
    run = await lab.load("run")
    assert {type(value) for value in (run.run_id, run.workflow_id, run.workflow_version, run.input)} == {str}
