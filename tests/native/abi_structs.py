"""The structs of gemma3.h by ctypes."""

from __future__ import annotations

import ctypes as c


class Error(c.Structure):
    _fields_ = [("status", c.c_int32), ("message", c.c_char * 2036), ("needed", c.c_uint64)]


Log = c.CFUNCTYPE(None, c.c_void_p, c.c_int32, c.c_char_p)


class Options(c.Structure):
    _fields_ = [
        ("size", c.c_size_t),
        ("bundle", c.c_char_p),
        ("plugin", c.c_char_p),
        ("mesh", c.c_char_p),
        ("platform", c.c_char_p),
        ("cache_dir", c.c_char_p),
        ("client_options", c.c_char_p),
        ("kernels", c.c_char_p),
        ("log", Log),
        ("log_user", c.c_void_p),
        ("flags", c.c_uint64),
        ("manifest_sha256", c.c_char_p),
        ("require_signature", c.c_char_p),
        ("opened", c.c_void_p),
        ("cancel", c.c_void_p),
        ("pjrt_api", c.c_void_p),
        ("log_level", c.c_int32),
        ("threads", c.c_uint32),
    ]


class Sampling(c.Structure):
    _fields_ = [
        ("temperature", c.c_float),
        ("top_k", c.c_int32),
        ("top_p", c.c_float),
        ("min_p", c.c_float),
        ("seed", c.c_uint32),
        ("repetition_penalty", c.c_float),
    ]


class Prompt(c.Structure):
    _fields_ = [
        ("tokens", c.POINTER(c.c_int32)),
        ("count", c.c_size_t),
        ("pixels", c.POINTER(c.c_float)),
        ("images", c.c_size_t),
    ]


class Request(c.Structure):
    _fields_ = [
        ("size", c.c_size_t),
        ("prompts", c.POINTER(Prompt)),
        ("prompt_size", c.c_size_t),
        ("prompt_count", c.c_size_t),
        ("max_new_tokens", c.c_uint32),
        ("logprobs", c.c_uint32),
        ("sampling", c.POINTER(Sampling)),
        ("sampling_size", c.c_size_t),
        ("sampling_count", c.c_size_t),
        ("stop_tokens", c.POINTER(c.c_int32)),
        ("stop_count", c.c_size_t),
        ("chunk", c.c_uint32),
        ("task", c.c_int32),
        ("flags", c.c_uint64),
        ("cancel", c.c_void_p),
        ("timings", c.c_void_p),
        ("timing_size", c.c_size_t),
        ("timing_capacity", c.c_size_t),
    ]


class Token(c.Structure):
    _fields_ = [
        ("size", c.c_size_t),
        ("prompt", c.c_uint32),
        ("index", c.c_uint32),
        ("token", c.c_int32),
        ("finish", c.c_int32),
        ("top_count", c.c_uint32),
        ("top_tokens", c.POINTER(c.c_int32)),
        ("top_logprobs", c.POINTER(c.c_double)),
    ]


OnToken = c.CFUNCTYPE(c.c_int32, c.c_void_p, c.POINTER(Token))


class SessionOptions(c.Structure):
    _fields_ = [
        ("size", c.c_size_t),
        ("rows", c.c_uint32),
        ("positions", c.c_uint32),
        ("logprobs", c.c_uint32),
        ("flags", c.c_uint32),
        ("sampling", c.POINTER(Sampling)),
        ("sampling_size", c.c_size_t),
        ("sampling_count", c.c_size_t),
        ("stop_tokens", c.POINTER(c.c_int32)),
        ("stop_count", c.c_size_t),
    ]


class Row(c.Structure):
    _fields_ = [
        ("position", c.c_int32),
        ("token", c.c_int32),
        ("remaining", c.c_int32),
        ("least", c.c_int32),
    ]


class RowOptions(c.Structure):
    _fields_ = [
        ("max_new_tokens", c.c_uint32),
        ("flags", c.c_uint32),
        ("sampling", c.POINTER(Sampling)),
        ("sampling_size", c.c_size_t),
        ("stop_tokens", c.POINTER(c.c_int32)),
        ("stop_count", c.c_size_t),
    ]


class Prefill(c.Structure):
    _fields_ = [
        ("size", c.c_size_t),
        ("prompts", c.POINTER(Prompt)),
        ("prompt_size", c.c_size_t),
        ("prompt_count", c.c_size_t),
        ("max_new_tokens", c.c_uint32),
        ("flags", c.c_uint32),
        ("rows", c.POINTER(RowOptions)),
        ("row_size", c.c_size_t),
        ("row_count", c.c_size_t),
        ("cancel", c.c_void_p),
    ]


class Step(c.Structure):
    _fields_ = [
        ("size", c.c_size_t),
        ("tokens", c.POINTER(c.c_int32)),
        ("token_count", c.c_size_t),
        ("next", c.POINTER(c.c_int32)),
        ("next_capacity", c.c_size_t),
        ("logits", c.POINTER(c.c_float)),
        ("logits_capacity", c.c_size_t),
        ("cancel", c.c_void_p),
    ]


class Scoring(c.Structure):
    _fields_ = [
        ("size", c.c_size_t),
        ("prompts", c.POINTER(Prompt)),
        ("prompt_size", c.c_size_t),
        ("prompt_count", c.c_size_t),
        ("labels", c.c_void_p),
        ("label_size", c.c_size_t),
        ("label_count", c.c_size_t),
        ("logprobs", c.POINTER(c.c_float)),
        ("logprobs_capacity", c.c_size_t),
        ("losses", c.POINTER(c.c_double)),
        ("losses_capacity", c.c_size_t),
        ("hidden_states", c.POINTER(c.c_float)),
        ("hidden_states_capacity", c.c_size_t),
        ("attentions", c.POINTER(c.c_float)),
        ("attentions_capacity", c.c_size_t),
        ("cancel", c.c_void_p),
    ]


class Texts(c.Structure):
    _fields_ = [
        ("size", c.c_size_t),
        ("prompts", c.POINTER(Prompt)),
        ("prompt_size", c.c_size_t),
        ("prompt_count", c.c_size_t),
        ("cancel", c.c_void_p),
    ]


class Sizes(c.Structure):
    _fields_ = [
        ("size", c.c_size_t),
        *(
            (name, c.c_int64)
            for name in (
                "vocab_size",
                "sliding_window",
                "layers",
                "width",
                "heads",
                "labels",
                "embedding_size",
                "image_size",
                "channels",
                "tokens_per_image",
                "soft_token_size",
                "batch",
                "positions",
                "image_positions",
                "stepping_positions",
                "score_positions",
                "classify_positions",
                "embed_positions",
                "devices",
            )
        ),
    ]
