"""libgemma3 by ctypes, and a process that serves calls of it: `python binding.py LIBRARY`.

The library runs in a process of its own, since a PJRT plugin and JAX are each a whole XLA. The
process reads one JSON request from stdin (see `serve`) and writes one JSON reply a line.
"""

from __future__ import annotations

import ctypes as c
import hashlib
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np


class Error(c.Structure):
    _fields_ = [("status", c.c_int32), ("message", c.c_char * 2044)]


Log = c.CFUNCTYPE(None, c.c_void_p, c.c_int32, c.c_char_p)


class Options(c.Structure):
    _fields_ = [
        ("size", c.c_size_t), ("bundle", c.c_char_p), ("plugin", c.c_char_p), ("mesh", c.c_char_p),
        ("platform", c.c_char_p), ("cache_dir", c.c_char_p), ("client_options", c.c_char_p),
        ("kernels", c.c_char_p), ("log", Log), ("log_user", c.c_void_p), ("flags", c.c_uint64),
        ("manifest_sha256", c.c_char_p), ("require_signature", c.c_char_p),
        ("opened", c.c_void_p), ("cancel", c.c_void_p),
    ]  # fmt: skip


class Sampling(c.Structure):
    _fields_ = [
        ("temperature", c.c_float), ("top_k", c.c_int32), ("top_p", c.c_float),
        ("min_p", c.c_float), ("seed", c.c_uint32),
    ]  # fmt: skip


class Prompt(c.Structure):
    _fields_ = [
        ("tokens", c.POINTER(c.c_int32)), ("count", c.c_size_t),
        ("pixels", c.POINTER(c.c_float)), ("images", c.c_size_t),
    ]  # fmt: skip


class Request(c.Structure):
    _fields_ = [
        ("size", c.c_size_t), ("prompts", c.POINTER(Prompt)), ("prompt_count", c.c_size_t),
        ("max_new_tokens", c.c_uint32), ("logprobs", c.c_uint32),
        ("sampling", c.POINTER(Sampling)), ("sampling_count", c.c_size_t),
        ("stop_tokens", c.POINTER(c.c_int32)), ("stop_count", c.c_size_t), ("chunk", c.c_uint32),
        ("task", c.c_int32), ("flags", c.c_uint64), ("cancel", c.c_void_p),
    ]  # fmt: skip


class Token(c.Structure):
    _fields_ = [
        ("size", c.c_size_t), ("prompt", c.c_uint32), ("index", c.c_uint32), ("token", c.c_int32),
        ("finish", c.c_int32), ("top_count", c.c_uint32), ("top_tokens", c.POINTER(c.c_int32)),
        ("top_logprobs", c.POINTER(c.c_double)),
    ]  # fmt: skip


OnToken = c.CFUNCTYPE(c.c_int32, c.c_void_p, c.POINTER(Token))


class SessionOptions(c.Structure):
    _fields_ = [
        ("size", c.c_size_t), ("rows", c.c_uint32), ("positions", c.c_uint32),
        ("logprobs", c.c_uint32), ("flags", c.c_uint32), ("sampling", c.POINTER(Sampling)),
        ("sampling_count", c.c_size_t), ("stop_tokens", c.POINTER(c.c_int32)),
        ("stop_count", c.c_size_t),
    ]  # fmt: skip


class Row(c.Structure):
    _fields_ = [("position", c.c_int32), ("token", c.c_int32), ("remaining", c.c_int32)]


class RefusedError(Exception):
    """A call of the library failed: status and message."""


def array(values: list[int]) -> c.Array:
    return (c.c_int32 * len(values))(*values)


def prompts_of(texts: list[list[int]], pixels: str | None = None) -> c.Array:
    """Prompts; the first has the images of the `.npy` file `pixels`, if there is one."""
    found = (Prompt * len(texts))()
    for index, text in enumerate(texts):
        found[index] = Prompt(array(text), len(text), None, 0)
    if pixels is not None:
        values = np.load(pixels)
        found[0].pixels = (c.c_float * values.size)(*values.ravel().tolist())
        found[0].images = len(values)
    return found


class Library:
    """The functions of one model; each takes and gives what JSON can hold."""

    def __init__(self, path: str) -> None:
        self.lib = c.CDLL(path)
        self.lib.gemma3_version.restype = c.c_char_p
        self.logged: list[str] = []
        self.log = Log(lambda _user, _level, message: self.logged.append(message.decode()))
        self.lib.gemma3_cancel_new.restype = c.c_void_p
        self.model, self.bundle = c.c_void_p(), c.c_void_p()
        self.cancel = c.c_void_p(self.lib.gemma3_cancel_new())

    def call(self, name: str, *arguments: Any) -> None:
        error = Error()
        status = getattr(self.lib, name)(*arguments, c.byref(error))
        assert status == error.status
        if status:
            raise RefusedError(status, error.message.decode())

    def text(self, name: str, *arguments: Any) -> Any:
        """The JSON that a function gives by its last argument."""
        found = c.c_void_p()
        self.call(name, *arguments, c.byref(found))
        value = json.loads(c.string_at(found).decode())
        self.lib.gemma3_free(found)
        return value

    def options(self, values: dict[str, Any]) -> Options:
        """Texts as named; `opened` takes that of `open_bundle`, `cancel` the shared cancel."""
        size = values.pop("size", c.sizeof(Options))
        flags, opened = values.pop("flags", 0), values.pop("opened", False)
        cancel = self.cancel if values.pop("cancel", False) else None
        texts = {name: value.encode() for name, value in values.items()}
        bundle = self.bundle if opened else None
        return Options(size, log=self.log, flags=flags, opened=bundle, cancel=cancel, **texts)

    def check(self, **values: Any) -> Any:
        report, error = c.c_void_p(), Error()
        status = self.lib.gemma3_check(
            c.byref(self.options(values)), c.byref(report), c.byref(error)
        )
        found = json.loads(c.string_at(report).decode())
        self.lib.gemma3_free(report)
        return {"status": status, "message": error.message.decode(), **found}

    def open(self, **values: Any) -> Any:
        self.call("gemma3_open", c.byref(self.options(values)), c.byref(self.model))

    def close(self) -> Any:
        self.lib.gemma3_close(self.model)
        self.model = c.c_void_p()

    def open_bundle(self, path: str) -> Any:
        self.call("gemma3_bundle_open", path.encode(), c.byref(self.bundle))

    def close_bundle(self) -> Any:
        self.lib.gemma3_bundle_close(self.bundle)
        self.bundle = c.c_void_p()

    def verify_signature(self, key: str) -> Any:
        self.call("gemma3_bundle_verify_signature", self.bundle, key.encode())

    def bundle_file(self, path: str) -> Any:
        """The SHA-256 of a file of the bundle that `open_bundle` opened."""
        found, count = c.c_void_p(), c.c_size_t()
        self.call("gemma3_bundle_file", self.bundle, path.encode(), c.byref(found), c.byref(count))
        contents = c.string_at(found, count.value)
        self.lib.gemma3_free(found)
        return hashlib.sha256(contents).hexdigest()

    def rename(self, source: str, target: str) -> Any:
        """Between calls of the library, as somebody else might: `source` takes the place of it."""
        Path(source).rename(target)

    def write_over(self, source: str, target: str) -> Any:
        """The bytes of `source` are written into file `target`, which then is as long as they."""
        data = Path(source).read_bytes()
        with Path(target).open("r+b") as file:
            file.write(data)
            file.truncate()

    def set_cancel(self, wanted: bool) -> Any:
        self.lib.gemma3_cancel_set(self.cancel) if wanted else self.lib.gemma3_cancel_clear(
            self.cancel
        )

    def info(self) -> Any:
        return self.text("gemma3_model_info", self.model)

    def stats(self) -> Any:
        return self.text("gemma3_model_stats", self.model)

    def compile(self) -> Any:
        written = c.c_uint32()
        self.call("gemma3_compile", self.model, c.byref(written))
        return written.value

    def remarks(self) -> Any:
        return self.logged

    def generate(self, texts: list[list[int]], count: int, **values: Any) -> Any:
        """Of each prompt tokens, finish, and likeliest tokens; finish_at ends a row early."""
        rows: list[dict[str, Any]] = [{"tokens": [], "finish": 0, "top": []} for _ in texts]
        finish_at = values.get("finish_at", -1)

        def on_token(_user: Any, event: Any) -> int:
            token = event.contents
            row = rows[token.prompt]
            assert token.index == len(row["tokens"])
            row["tokens"].append(token.token)
            row["finish"] = token.finish
            if token.top_count:
                row["top"].append(
                    [[token.top_tokens[i], token.top_logprobs[i]] for i in range(token.top_count)]
                )
            return int(len(row["tokens"]) == finish_at)

        sampling = Sampling(**values.get("sampling", {}))
        stops, prompts = values.get("stops", []), prompts_of(texts, values.get("pixels"))
        request = Request(
            size=c.sizeof(Request), prompts=prompts, prompt_count=len(texts),
            max_new_tokens=count, logprobs=values.get("logprobs", 0),
            sampling=c.pointer(sampling), sampling_count=1, stop_tokens=array(stops),
            stop_count=len(stops), chunk=values.get("chunk", 0),
            flags=1 if values.get("ignore_eos", True) else 0,
            cancel=self.cancel if values.get("cancel") else None,
        )  # fmt: skip
        callback = OnToken(on_token)
        self.call("gemma3_generate", self.model, c.byref(request), callback, None, None)
        return rows

    def score(self, texts: list[list[int]]) -> Any:
        logprobs = (c.c_float * sum(len(text) - 1 for text in texts))()
        losses = (c.c_double * len(texts))()
        prompts = prompts_of(texts)
        self.call("gemma3_score", self.model, prompts, c.c_size_t(len(texts)), logprobs, losses)
        return {"logprobs": list(logprobs), "losses": list(losses)}

    def classify(self, texts: list[list[int]], labels: int) -> Any:
        return self._table("gemma3_classify", texts, labels)

    def embed(self, texts: list[list[int]], size: int) -> Any:
        return self._table("gemma3_embed", texts, size)

    def _table(self, name: str, texts: list[list[int]], width: int) -> Any:
        found = (c.c_float * (width * len(texts)))()
        self.call(name, self.model, prompts_of(texts), c.c_size_t(len(texts)), found)
        return [list(found[i * width : (i + 1) * width]) for i in range(len(texts))]

    def strange(self, what: str, **values: Any) -> Any:
        """Opens a session, or makes a request, with members that are `values`."""
        if what == "session":
            options = SessionOptions(**{"size": c.sizeof(SessionOptions), "rows": 1, **values})
            self.call("gemma3_session_open", self.model, c.byref(options), c.byref(c.c_void_p()))
        else:
            room = (Request * 1024)()  # zeros behind it, whatever `size` says
            sound = {"size": c.sizeof(Request), "prompts": prompts_of([[2]]), "prompt_count": 1}
            room[0] = Request(**{**sound, "max_new_tokens": 1, **values})
            self.call("gemma3_check_request", self.model, room)

    def turns(self, turns: list[list[int]], count: int) -> Any:
        """One row that is given one text after another, `count` tokens being drawn after each."""
        session = self._session(1)
        found: list[list[int]] = []

        def on_token(_user: Any, event: Any) -> int:
            found[-1].append(event.contents.token)
            return 0

        callback = OnToken(on_token)
        for text in turns:
            found.append([])
            self.call(
                "gemma3_session_prefill", session, prompts_of([text]), c.c_size_t(1), count,
                callback, None,
            )  # fmt: skip
            self.call("gemma3_session_generate", session, 0, callback, None)
        self.lib.gemma3_session_close(session)
        return found

    def cancelling(
        self, texts: list[list[int]], count: int, chunk: int, cancel_at: int
    ) -> dict[str, Any]:
        """Tokens of rows generated together by a callback that cancels at every `cancel_at`th.

        Calls go on until they are not cancelled any more. `calls` are the tokens told by each.
        """
        session = self._session(len(texts))
        tokens: list[list[int]] = [[] for _ in texts]
        calls: list[int] = []

        def on_token(_user: Any, event: Any) -> int:
            assert event.contents.index == len(tokens[event.contents.prompt])
            tokens[event.contents.prompt].append(event.contents.token)
            calls[-1] += 1
            return 2 if cancel_at and sum(calls) % cancel_at == 0 else 0

        callback = OnToken(on_token)
        steps = [("gemma3_session_prefill", prompts_of(texts), c.c_size_t(len(texts)), count)]
        while steps:
            name, *arguments = steps.pop()
            calls.append(0)
            try:
                self.call(name, session, *arguments, callback, None)
            except RefusedError as refused:
                if refused.args != (3, "cancelled"):
                    raise
            if calls[-1] > 0:
                steps.append(("gemma3_session_generate", chunk))
        self.lib.gemma3_session_close(session)
        return {"tokens": tokens, "calls": calls}

    def cancelled_prefill(self, texts: list[list[int]], more: list[int], after: float) -> Any:
        """Rows of a session that was given texts, then `more` for row 0, cancelled `after` s.

        Then the tokens that row 1 and, begun afresh, row 0 give.
        """
        session, told = self._session(len(texts)), []
        callback = OnToken(lambda _user, event: told.append(event.contents.token) or 0)
        count = c.c_size_t(len(texts))
        prefill = ("gemma3_session_prefill", session)
        self.call(*prefill, prompts_of(texts), count, 3, callback, None)
        timer = threading.Timer(after, self.lib.gemma3_session_cancel, [session])
        timer.start()
        began, status = time.monotonic(), 0
        try:
            self.call(*prefill, prompts_of([more]), c.c_size_t(1), 3, callback, None)
        except RefusedError as refused:
            status = refused.args[0]
        seconds = time.monotonic() - began
        timer.join()
        rows = (Row * len(texts))()
        self.call("gemma3_session_rows", session, rows, count)
        del told[:]
        self.call("gemma3_session_generate", session, 0, callback, None)
        self.call(*prefill, prompts_of([texts[0]]), c.c_size_t(1), 1, callback, None)
        self.lib.gemma3_session_close(session)
        positions = [row.position for row in rows]
        return {"status": status, "seconds": seconds, "positions": positions, "told": told}

    def timed(self, after: float | None, name: str, *arguments: Any, **values: Any) -> Any:
        """How a method ended and in how many seconds; the shared cancel is set `after` some."""
        timer = threading.Timer(after or 0, self.set_cancel, [True])
        if after is not None:
            timer.start()
        began, status = time.monotonic(), 0
        try:
            getattr(self, name)(*arguments, **values)
        except RefusedError as refused:
            status = refused.args[0]
        seconds = time.monotonic() - began
        if after is not None:
            timer.join()
        self.set_cancel(False)
        return {"status": status, "seconds": seconds}

    def _session(self, rows: int) -> c.c_void_p:
        options = SessionOptions(size=c.sizeof(SessionOptions), rows=rows, flags=1)
        session = c.c_void_p()
        self.call("gemma3_session_open", self.model, c.byref(options), c.byref(session))
        return session

    def environment(self, name: str) -> Any:
        """What C code of this process sees of the environment now."""
        getenv = c.CDLL(None).getenv
        getenv.restype = c.c_char_p
        value = getenv(name.encode())
        return None if value is None else value.decode()


def serve(library: Library, requests: list[list[Any]]) -> None:
    """Answer requests [name, arguments, named arguments] in turn."""
    for name, arguments, named in requests:
        try:
            reply = {"value": getattr(library, name)(*arguments, **named)}
        except RefusedError as refused:
            reply = {"refused": list(refused.args)}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    serve(Library(sys.argv[1]), json.load(sys.stdin))
