"""libgemma3 by ctypes, and a process that serves calls of it: `python binding.py LIBRARY`.

The library runs in a process of its own, since a PJRT plugin and JAX are each a whole XLA. The
process reads one JSON request from stdin (see `serve`) and writes one JSON reply a line.
"""

from __future__ import annotations

import ctypes as c
import hashlib
import json
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

from abi_calls import RefusedError, array, prompts_of
from abi_sessions import Sessions
from abi_structs import (
    Error,
    Log,
    OnToken,
    Options,
    Prompt,
    Request,
    Sampling,
    Scoring,
    SessionOptions,
    Sizes,
    Texts,
)

WARNING = 2
"""The least important level of the log that `Library` keeps, unless options say otherwise."""


class Library(Sessions):
    """The functions of one model; each takes and gives what JSON can hold."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.lib.gemma3_version.restype = c.c_char_p
        self.logged: list[str] = []
        self.levels: list[int] = []
        self.log = Log(self._log)
        self.bundle = c.c_void_p()

    def _log(self, _user: Any, level: int, message: bytes) -> None:
        self.levels.append(level)
        self.logged.append(message.decode())

    def options(self, values: dict[str, Any]) -> Options:
        """Texts as named; `opened` takes that of `open_bundle`, `cancel` the shared cancel.

        `pjrt_api` is a path, of a plugin that is loaded here.
        """
        size = values.pop("size", c.sizeof(Options))
        flags, opened = values.pop("flags", 0), values.pop("opened", False)
        cancel = self.cancel if values.pop("cancel", False) else None
        numbers = {"log_level": values.pop("log_level", WARNING)}
        numbers["threads"] = values.pop("threads", 0)
        if path := values.pop("pjrt_api", None):
            get = c.CDLL(path).GetPjrtApi
            get.restype = c.c_void_p
            numbers["pjrt_api"] = get()
        texts = {name: value.encode() for name, value in values.items()}
        bundle = self.bundle if opened else None
        return Options(
            size, log=self.log, flags=flags, opened=bundle, cancel=cancel, **texts, **numbers
        )

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
        self.call("gemma3_bundle_verify_signature", self.bundle, key.encode(), self.cancel)

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
        self.call("gemma3_compile", self.model, c.byref(written), self.cancel)
        return written.value

    def remarks(self) -> Any:
        return self.logged

    def remark_levels(self) -> Any:
        return self.levels

    def sizes(self) -> Any:
        sizes = Sizes(size=c.sizeof(Sizes))
        self.call("gemma3_model_sizes", self.model, c.byref(sizes))
        return {name: getattr(sizes, name) for name, *_ in Sizes._fields_}

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
            size=c.sizeof(Request), prompts=prompts, prompt_size=c.sizeof(Prompt),
            prompt_count=len(texts),
            max_new_tokens=count, logprobs=values.get("logprobs", 0),
            sampling=c.pointer(sampling),
            sampling_size=c.sizeof(Sampling), sampling_count=1, stop_tokens=array(stops),
            stop_count=len(stops), chunk=values.get("chunk", 0),
            flags=1 if values.get("ignore_eos", True) else 0,
            cancel=self.cancel if values.get("cancel") else None,
        )  # fmt: skip
        callback = OnToken(on_token)
        self.call("gemma3_generate", self.model, c.byref(request), callback, None)
        return rows

    def strided(
        self, texts: list[list[int]], count: int, prompt_size: int, timing_size: int, beyond: int
    ) -> Any:
        """Tokens, and bytes of timings, with elements of other sizes than the header's.

        `beyond` is the last byte of each prompt.
        """
        prompts = (c.c_uint8 * (prompt_size * len(texts)))()
        known = [Prompt(array(text), len(text)) for text in texts]
        for index, prompt in enumerate(known):
            place = c.addressof(prompts) + index * prompt_size
            c.memmove(place, c.byref(prompt), min(prompt_size, c.sizeof(Prompt)))
            if beyond:
                prompts[(index + 1) * prompt_size - 1] = beyond
        timings = (c.c_uint8 * (timing_size * len(texts) + 8))(*[0xAA] * (timing_size * 2 + 8))
        tokens: list[list[int]] = [[] for _ in texts]

        def on_token(_user: Any, event: Any) -> int:
            tokens[event.contents.prompt].append(event.contents.token)
            return 0

        request = Request(
            size=c.sizeof(Request),
            prompts=c.cast(prompts, c.POINTER(Prompt)),
            prompt_size=prompt_size,
            prompt_count=len(texts),
            max_new_tokens=count,
            flags=1,
            timings=c.cast(timings, c.c_void_p),
            timing_size=timing_size,
            timing_capacity=len(texts),
        )
        self.call("gemma3_generate", self.model, c.byref(request), OnToken(on_token), None)
        return {"tokens": tokens, "timings": bytes(timings).hex()}

    def encode_images(self, images: int, image_numbers: int, capacity: int) -> Any:
        """Soft tokens of grey images, the last of them and what is behind the last."""
        pixels, soft = (c.c_float * (images * image_numbers))(), (c.c_float * (capacity + 1))()
        soft[capacity] = 7
        sizes = c.c_size_t(images), soft, c.c_size_t(capacity)
        self.call("gemma3_encode_images", self.model, pixels, *sizes, self.cancel)
        return list(soft[capacity - 1 :])

    def few_sizes(self, size: int) -> Any:
        """The first three members of gemma3_sizes, of a caller that knows `size` bytes of it."""
        sizes = Sizes(size=size, sliding_window=-1, layers=-1)
        self.call("gemma3_model_sizes", self.model, c.byref(sizes))
        return [sizes.size, sizes.vocab_size, sizes.sliding_window, sizes.layers]

    def threads(self) -> Any:
        """How many threads this process has."""
        return len(list(Path("/proc/self/task").iterdir()))

    def resident(self) -> Any:
        """Bytes of memory that this process has in use."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def find_plugin(self, platform: str) -> Any:
        found = c.c_void_p()
        self.call("gemma3_find_plugin", platform.encode(), c.byref(found))
        path = c.string_at(found).decode()
        self.lib.gemma3_free(found)
        return path

    def score(self, texts: list[list[int]], **values: Any) -> Any:
        logprobs = (c.c_float * sum(len(text) - 1 for text in texts))()
        losses = (c.c_double * len(texts))()
        scoring = Scoring(
            size=c.sizeof(Scoring),
            prompts=prompts_of(texts),
            prompt_size=c.sizeof(Prompt),
            prompt_count=len(texts),
            logprobs=logprobs,
            logprobs_capacity=values.get("capacity", len(logprobs)),
            losses=losses,
            losses_capacity=len(losses),
            cancel=self.cancel,
        )
        self.call("gemma3_score", self.model, c.byref(scoring))
        return {"logprobs": list(logprobs), "losses": list(losses)}

    def classify(self, texts: list[list[int]], labels: int) -> Any:
        return self._table("gemma3_classify", texts, labels)

    def embed(self, texts: list[list[int]], size: int) -> Any:
        return self._table("gemma3_embed", texts, size)

    def _table(self, name: str, texts: list[list[int]], width: int) -> Any:
        found = (c.c_float * (width * len(texts)))()
        given = Texts(c.sizeof(Texts), prompts_of(texts), c.sizeof(Prompt), len(texts), self.cancel)
        self.call(name, self.model, c.byref(given), found, c.c_size_t(len(found)))
        return [list(found[i * width : (i + 1) * width]) for i in range(len(texts))]

    def strange(self, what: str, **values: Any) -> Any:
        """Opens a session, or makes a request, with members that are `values`."""
        if what == "session":
            options = SessionOptions(**{"size": c.sizeof(SessionOptions), "rows": 1, **values})
            self.call("gemma3_session_open", self.model, c.byref(options), c.byref(c.c_void_p()))
        else:
            room = (Request * 1024)()  # zeros behind it, whatever `size` says
            sound = {"size": c.sizeof(Request), "prompts": prompts_of([[2]]), "prompt_count": 1}
            sound["prompt_size"] = c.sizeof(Prompt)
            room[0] = Request(**{**sound, "max_new_tokens": 1, **values})
            self.call("gemma3_check_request", self.model, room)

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
