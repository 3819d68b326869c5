"""gemma3_text.h by ctypes: its functions load no plugin, so they run in the tests' process.

As a program, `python -m tests.native.text_binding LIBRARY BUNDLE TEXT`, it opens a model, which
loads one, and prints the ids of a text and how the model sees, as JSON.
"""

from __future__ import annotations

import ctypes as c
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .abi_structs import Error, Options

NO_BOS, PARSE_SPECIAL, WHOLE_TEXT, SHOW_SPECIAL, PAN_AND_SCAN = 1, 2, 4, 8, 16


class RefusedError(Exception):
    """A call of the library failed: status and message."""


class StreamOptions(c.Structure):
    _fields_ = [
        ("size", c.c_size_t), ("stop_texts", c.POINTER(c.c_char_p)), ("stop_count", c.c_size_t),
        ("flags", c.c_uint32),
    ]  # fmt: skip


class Vision(c.Structure):
    _fields_ = [
        ("size", c.c_size_t), ("image_size", c.c_uint32), ("tokens_per_image", c.c_uint32),
        ("soft_token_size", c.c_uint32), ("begin_token_id", c.c_int32),
        ("soft_token_id", c.c_int32), ("end_token_id", c.c_int32), ("mean", c.c_float * 3),
        ("deviation", c.c_float * 3),
    ]  # fmt: skip


class PictureBytes(c.Structure):
    _fields_ = [("bytes", c.c_char_p), ("count", c.c_size_t)]


class Pictures(c.Structure):
    _fields_ = [
        ("size", c.c_size_t), ("pictures", c.POINTER(PictureBytes)), ("picture_size", c.c_size_t),
        ("picture_count", c.c_size_t), ("flags", c.c_uint32),
    ]  # fmt: skip


class Message(c.Structure):
    _fields_ = [("role", c.c_char_p), ("content", c.c_char_p)]


class Chat(c.Structure):
    _fields_ = [
        ("size", c.c_size_t), ("messages", c.POINTER(Message)), ("message_size", c.c_size_t),
        ("message_count", c.c_size_t), ("picture_count", c.c_size_t),
        ("crops", c.POINTER(c.c_uint32)),
    ]  # fmt: skip


class TextLibrary:
    """The shared library; its functions refuse with RefusedError, status and message."""

    def __init__(self, path: Path) -> None:
        self.lib = c.CDLL(str(path))

    def call(self, name: str, *arguments: Any) -> None:
        error = Error()
        status = getattr(self.lib, name)(*arguments, c.byref(error))
        assert status == error.status
        if status:
            raise RefusedError(status, error.message.decode())

    def given(self, pointer: c.c_void_p, size: int) -> bytes:
        """The bytes that a function gave, freed; a NUL follows them."""
        value = c.string_at(pointer, size + 1)
        self.lib.gemma3_free(pointer)
        assert value[-1] == 0
        return value[:-1]

    def tokens(self, name: str, *arguments: Any) -> list[int]:
        """The ids that a function gives by its last two arguments."""
        found, count = c.c_void_p(), c.c_size_t()
        self.call(name, *arguments, c.byref(found), c.byref(count))
        return np.frombuffer(self.given(found, 4 * count.value), np.int32).tolist()

    def text(self, name: str, *arguments: Any, more: Sequence[Any] = ()) -> str:
        """The text that a function gives by its arguments before `more`."""
        found, length = c.c_void_p(), c.c_size_t()
        self.call(name, *arguments, c.byref(found), c.byref(length), *more)
        return self.given(found, length.value).decode()

    def tokenizer(self, source: bytes | Path, bos: int = -1) -> NativeTokenizer:
        """From the bytes of a model file, or from a bundle, which is closed again."""
        handle = c.c_void_p()
        if isinstance(source, bytes):
            self.call("gemma3_tokenizer_read", source, c.c_size_t(len(source)), bos,
                      c.byref(handle))  # fmt: skip
        else:
            self.with_bundle(source, lambda bundle: self.call(
                "gemma3_bundle_tokenizer", bundle, c.byref(handle)
            ))  # fmt: skip
        return NativeTokenizer(self, handle)

    def vision(self, bundle: Path) -> Vision:
        found = Vision(c.sizeof(Vision))
        self.with_bundle(
            bundle, lambda handle: self.call("gemma3_bundle_vision", handle, c.byref(found))
        )
        return found

    def of_model(self, bundle: Path) -> tuple[NativeTokenizer, Vision]:
        """Tokenizer and vision of an open model, which is closed again."""
        options, model = Options(c.sizeof(Options), str(bundle).encode()), c.c_void_p()
        self.call("gemma3_open", c.byref(options), c.byref(model))
        handle, vision = c.c_void_p(), Vision(c.sizeof(Vision))
        self.call("gemma3_model_tokenizer", model, c.byref(handle))
        self.call("gemma3_model_vision", model, c.byref(vision))
        self.lib.gemma3_close(model)
        return NativeTokenizer(self, handle), vision

    def with_bundle(self, path: Path, use: Callable[[c.c_void_p], None]) -> None:
        bundle = c.c_void_p()
        self.call("gemma3_bundle_open", str(path).encode(), c.byref(bundle))
        try:
            use(bundle)
        finally:
            self.lib.gemma3_bundle_close(bundle)

    def read_pictures(
        self, vision: Vision, files: Sequence[bytes], flags: int = 0
    ) -> tuple[np.ndarray, list[int]]:
        """Pixels [N,3,S,S] of pictures and crops, and how many crops each picture has."""
        views = (PictureBytes * len(files))(*((data, len(data)) for data in files))
        asked = Pictures(c.sizeof(Pictures), views, c.sizeof(PictureBytes), len(files), flags)
        pixels, images, crops = c.c_void_p(), c.c_size_t(), c.c_void_p()
        self.call(
            "gemma3_read_pictures", c.byref(vision), c.byref(asked), c.byref(pixels),
            c.byref(images), c.byref(crops),
        )  # fmt: skip
        side = vision.image_size
        values = np.frombuffer(self.given(pixels, 12 * images.value * side * side), np.float32)
        counts = np.frombuffer(self.given(crops, 4 * len(files)), np.uint32)
        return values.reshape(images.value, 3, side, side), counts.tolist()


@dataclass
class NativeTokenizer:
    """A tokenizer of the library, closed by the last reference to it."""

    library: TextLibrary
    handle: c.c_void_p

    def __del__(self) -> None:
        self.library.lib.gemma3_tokenizer_close(self.handle)

    @property
    def size(self) -> int:
        found = c.c_size_t()
        self.library.call("gemma3_tokenizer_size", self.handle, c.byref(found))
        return found.value

    def piece(self, token: int) -> tuple[str, int]:
        found, kind = c.c_void_p(), c.c_int32()
        self.library.call("gemma3_tokenizer_piece", self.handle, token, c.byref(found),
                          c.byref(kind))  # fmt: skip
        value = c.string_at(found).decode()
        self.library.lib.gemma3_free(found)
        return value, kind.value

    def token(self, piece: str) -> int:
        found = c.c_int32()
        self.library.call("gemma3_tokenizer_token", self.handle, piece.encode(), c.byref(found))
        return found.value

    def encode(self, text: str | bytes, flags: int = 0) -> list[int]:
        data = text if isinstance(text, bytes) else text.encode()
        length = c.c_size_t(len(data))
        return self.library.tokens("gemma3_encode", self.handle, data, length, flags)

    def decode(self, tokens: Sequence[int], flags: int = 0) -> str:
        array = (c.c_int32 * len(tokens))(*tokens)
        return self.library.text("gemma3_decode", self.handle, array, c.c_size_t(len(tokens)),
                                 flags)  # fmt: skip

    def chat(
        self, messages: Sequence[tuple[str, str]], pictures: int = 0, crops: Sequence[int] = ()
    ) -> list[int]:
        views = (Message * len(messages))(*((r.encode(), t.encode()) for r, t in messages))
        counts = (c.c_uint32 * len(crops))(*crops) if crops else None
        chat = Chat(
            c.sizeof(Chat), views, c.sizeof(Message), len(messages), pictures or len(crops), counts
        )
        return self.library.tokens("gemma3_chat_prompt", self.handle, c.byref(chat))

    def stream(self, stops: Sequence[str] = (), flags: int = 0) -> NativeStream:
        texts = (c.c_char_p * len(stops))(*(stop.encode() for stop in stops))
        options = StreamOptions(c.sizeof(StreamOptions), texts, len(stops), flags)
        handle = c.c_void_p()
        self.library.call("gemma3_text_stream_open", self.handle, c.byref(options), c.byref(handle))
        return NativeStream(self.library, handle)


@dataclass
class NativeStream:
    """A text stream of the library, with the methods of `TextStream`."""

    library: TextLibrary
    handle: c.c_void_p
    stopped: bool = False

    def __del__(self) -> None:
        self.library.lib.gemma3_text_stream_close(self.handle)

    def push(self, token: int) -> str:
        stopped = c.c_int32(-1)
        text = self.library.text(
            "gemma3_text_stream_push", self.handle, token, more=(c.byref(stopped),)
        )
        self.stopped = {0: False, 1: True}[stopped.value]
        return text

    def close(self) -> str:
        return self.library.text("gemma3_text_stream_flush", self.handle)


def main(library: str, bundle: str, text: str) -> None:
    tokenizer, vision = TextLibrary(Path(library)).of_model(Path(bundle))
    print(json.dumps({"tokens": tokenizer.encode(text), "vision": bytes(vision).hex()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
