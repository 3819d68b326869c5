"""What messages call the arguments of an export: here as in Python, on a command line as flags."""

from __future__ import annotations

from ..artifacts.errors import argument

MESH = argument("meshes", "--mesh")
CHECKPOINT, OUT = map(argument, ("checkpoint", "out"))
BATCH, PREFILL, CACHE, GENERATE = map(argument, ("batch", "prefill", "cache", "generate"))
PLATFORM = argument("platforms", "--platform")
DTYPE, KV_DTYPE, QUANTIZE = map(argument, ("dtype", "kv_dtype", "quantize"))
IMAGES, PROGRAMS, OUTPUTS = map(argument, ("images", "programs", "outputs"))
NO_IMAGES = argument("images=()", "--images 0")
SAVED_MODEL = argument("saved_model", "--format savedmodel")
SLOTS = argument("slots", "--stateful-slots")
ALLOW_NONFINITE = argument("allow_nonfinite")
WITH_GOLDENS, WITH_KERNELS = map(argument, ("goldens", "kernels"))
