"""Tokens from a bundle in Python by ctypes, with neither jax nor numpy.

python generate.py build/native/lib/libgemma3.so bundle 2,17,18 16
"""

import ctypes
import sys
from ctypes import POINTER, byref, c_char_p, c_int32, c_size_t, c_uint32, c_uint64, c_void_p

IGNORE_EOS = 1


class Error(ctypes.Structure):
    _fields_ = [("status", c_int32), ("message", ctypes.c_char * 2036), ("needed", c_uint64)]


# Structs may be shorter than the header's: their sizes say so, and the rest has its defaults.
class Options(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("bundle", c_char_p), ("plugin", c_char_p), ("mesh", c_char_p)]


class Prompt(ctypes.Structure):
    _fields_ = [("tokens", POINTER(c_int32)), ("count", c_size_t)]


class Request(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t), ("prompts", POINTER(Prompt)), ("prompt_size", c_size_t),
        ("prompt_count", c_size_t), ("max_new_tokens", c_uint32), ("logprobs", c_uint32),
        ("sampling", c_void_p), ("sampling_size", c_size_t), ("sampling_count", c_size_t),
        ("stop_tokens", POINTER(c_int32)), ("stop_count", c_size_t), ("chunk", c_uint32),
        ("task", c_int32), ("flags", c_uint64),
    ]  # fmt: skip


class Token(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("prompt", c_uint32), ("index", c_uint32), ("token", c_int32)]


OnToken = ctypes.CFUNCTYPE(c_int32, c_void_p, POINTER(Token))


def main() -> None:
    path, bundle, ids, count = sys.argv[1:]
    gemma3 = ctypes.CDLL(path)
    error, model = Error(), c_void_p()

    def check(status: int) -> None:
        if status:
            print("error:", error.message.decode(), file=sys.stderr)
            sys.exit(status)

    options = Options(ctypes.sizeof(Options), bundle.encode())
    check(gemma3.gemma3_open(byref(options), byref(model), byref(error)))

    numbers = [int(part) for part in ids.split(",")]
    tokens = (c_int32 * len(numbers))(*numbers)
    prompt = Prompt(tokens, len(numbers))
    size = ctypes.sizeof(Prompt)
    request = Request(ctypes.sizeof(Request), ctypes.pointer(prompt), size, 1, int(count))
    request.flags = IGNORE_EOS
    found: list[int] = []

    @OnToken
    def take(_: int | None, token: "ctypes._Pointer[Token]") -> int:
        found.append(token.contents.token)
        return 0

    check(gemma3.gemma3_generate(model, byref(request), take, None, byref(error)))
    gemma3.gemma3_close(model)
    print(*found)


if __name__ == "__main__":
    main()
