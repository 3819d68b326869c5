"""Sessions of libgemma3 by ctypes."""

from __future__ import annotations

import ctypes as c
import resource
import threading
import time
from pathlib import Path
from typing import Any

from abi_calls import Caller, RefusedError, array, prompts_of, row_options
from abi_structs import OnToken, Prefill, Prompt, Row, RowOptions, SessionOptions, Step


class Sessions(Caller):
    """What is done with sessions of the model; each session is closed again."""

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
            self.prefill(session, [text], callback, max_new_tokens=count)
            self.call("gemma3_session_generate", session, 0, callback, None, None)
        self.lib.gemma3_session_close(session)
        return found

    def session(self) -> Any:
        """A session of one row, with a prompt whose tokens were told in part, for `step`."""
        self.kept = self._session(1)
        self.prefill(self.kept, [[2, 17]], None, max_new_tokens=9)

    def step(self, step: list[Any]) -> Any:
        """One step of that session, as in `script`."""
        name, arguments, named = step
        callback = OnToken(lambda _user, _event: 0)
        return self._step(self.kept, [[]], callback, name, arguments, named)

    def script(self, rows: int, steps: list[list[Any]], **options: Any) -> Any:
        """Steps of one session, each [name, arguments, named arguments], and what each gave.

        `prefill` and `generate` give the tokens told of each row, `rows` the members of each,
        `decode` the drawn tokens; a step that is refused gives its status, message and needed room.
        """
        session, told = self._session(rows, **options), [[] for _ in range(rows)]
        callback = OnToken(
            lambda _user, event: told[event.contents.prompt].append(event.contents.token) or 0
        )
        found: list[Any] = []
        for name, arguments, named in steps:
            try:
                found.append(self._step(session, told, callback, name, arguments, named))
            except RefusedError as refused:
                found.append(list(refused.args))
        self.lib.gemma3_session_close(session)
        return found

    def _step(
        self,
        session: Any,
        told: list[list[int]],
        callback: Any,
        name: str,
        arguments: list[Any],
        named: dict[str, Any],
    ) -> Any:
        for row in told:
            del row[:]
        match name:
            case "prefill":
                self.prefill(session, *arguments, callback, **named)
                return [list(row) for row in told]
            case "generate":
                self.call("gemma3_session_generate", session, 0, callback, None, self.cancel)
                return [list(row) for row in told]
            case "rows":
                rows = (Row * len(told))()
                size, count = c.c_size_t(c.sizeof(Row)), c.c_size_t(len(told))
                self.call("gemma3_session_rows", session, rows, size, count)
                return [{name: getattr(row, name) for name, *_ in Row._fields_} for row in rows]
            case "decode":
                drawn = (c.c_int32 * len(told))()
                step = Step(size=c.sizeof(Step), cancel=self.cancel, next=drawn)
                step.next_capacity = named.get("capacity", len(drawn))
                if arguments:
                    step.tokens, step.token_count = array(arguments[0]), len(arguments[0])
                self.call("gemma3_session_decode", session, c.byref(step))
                return list(drawn)
            case "restored":  # from here on it is the session that came of the bytes of this one
                count, bytes_of = c.c_size_t(), c.c_void_p()
                self.call("gemma3_session_save", session, c.byref(bytes_of), c.byref(count))
                self.lib.gemma3_session_close(session)
                self.call("gemma3_session_restore", self.model, bytes_of, count, c.byref(session))
                self.lib.gemma3_free(bytes_of)
                return None
            case "starved":
                return self._starved(session)
            case _:  # truncate, reset
                return self.call(f"gemma3_session_{name}", session, *arguments)

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
        while not calls or calls[-1] > 0:
            calls.append(0)
            try:
                if len(calls) == 1:
                    self.prefill(session, texts, callback, max_new_tokens=count)
                else:
                    self.call("gemma3_session_generate", session, chunk, callback, None, None)
            except RefusedError as refused:
                if refused.args[:2] != (3, "cancelled"):
                    raise
        self.lib.gemma3_session_close(session)
        return {"tokens": tokens, "calls": calls}

    def cancelled_prefill(self, texts: list[list[int]], more: list[int], after: float) -> Any:
        """Rows of a session that was given texts, then `more` for row 0, cancelled `after` s.

        Then the tokens that row 1 and, begun afresh, row 0 give.
        """
        session, told = self._session(len(texts)), []
        callback = OnToken(lambda _user, event: told.append(event.contents.token) or 0)
        count = c.c_size_t(len(texts))
        self.prefill(session, texts, callback, max_new_tokens=3)
        timer = threading.Timer(after, self.lib.gemma3_session_cancel, [session])
        timer.start()
        began, status = time.monotonic(), 0
        try:
            self.prefill(session, [more], callback, max_new_tokens=3)
        except RefusedError as refused:
            status = refused.args[0]
        seconds = time.monotonic() - began
        timer.join()
        rows = (Row * len(texts))()
        self.call("gemma3_session_rows", session, rows, c.c_size_t(c.sizeof(Row)), count)
        del told[:]
        self.call("gemma3_session_generate", session, 0, callback, None, None)
        self.prefill(session, [texts[0]], callback, max_new_tokens=1)
        self.lib.gemma3_session_close(session)
        positions = [row.position for row in rows]
        return {"status": status, "seconds": seconds, "positions": positions, "told": told}

    def prefill(self, session: Any, texts: list[list[int]], callback: Any, **values: Any) -> None:
        """Prefills; `rows` are dictionaries of RowOptions, with Sampling and stops as such."""
        rows = [row_options(row) for row in values.pop("rows", [])]
        if rows:
            values["rows"] = (RowOptions * len(rows))(*rows)
        prefill = Prefill(
            c.sizeof(Prefill),
            prompts_of(texts),
            c.sizeof(Prompt),
            len(texts),
            row_size=c.sizeof(RowOptions),
            row_count=len(rows),
            cancel=self.cancel,
            **values,
        )
        self.call("gemma3_session_prefill", session, c.byref(prefill), callback, None)

    def _starved(self, session: Any) -> None:
        """Save the session with no memory left to do so."""
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        count, bytes_of = c.c_size_t(), c.c_void_p()
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(), hard))
        try:
            self.call("gemma3_session_save", session, c.byref(bytes_of), c.byref(count))
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    def _session(self, rows: int, **values: Any) -> c.c_void_p:
        values = {"flags": 1, **values}
        options = SessionOptions(size=c.sizeof(SessionOptions), rows=rows, **values)
        session = c.c_void_p()
        self.call("gemma3_session_open", self.model, c.byref(options), c.byref(session))
        return session
