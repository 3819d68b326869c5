"""A bundle, loaded: what `gemma3_export.load` gives."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np

from ...artifacts.errors import UsageError
from ...artifacts.manifest import Bucket, Manifest
from ...artifacts.prompts import bundle_prompts
from ..loading.buckets import Shape
from ..loading.bundle import choose_mesh
from ..loading.devices import default_mesh, ensure_devices
from ..loading.model import LoadedModel
from ..loading.start import compile_ahead, hide_xla_log, open_bundle
from ..loading.status import StatusLine
from ..requests.classify import classify_buckets, plan_classify, run_classify
from ..requests.embed import plan_embed, run_embed
from ..requests.generate import (
    buckets_of,
    most_new_tokens,
    plan_request,
    run_request,
    stream_request,
)
from ..requests.request import Completion, OnText, Request, check_prompts
from ..requests.sampling import SamplingParameters
from ..requests.score import ScoreRequest, plan_score, run_score, score_buckets
from ..requests.session import Session
from ..text.chat import Message
from ..text.tokenizer import Tokenizer
from .prompts import Encoded, Image, Prompt, encode, is_conversation
from .request import Sampling, make_request, make_sampling


def load(
    path: str | Path,
    mesh: str | None = None,
    *,
    platform: str | None = None,
    keep_compiled: bool = True,
    require_signature: str | Path | None = None,
) -> Model:
    """Load a bundle for one of its meshes.

    Args:
        path: the bundle's folder.
        mesh: a mesh of the bundle; None for the largest that there are accelerators for, and on
            CPU for one of one device, else the first.
        platform: a platform of the bundle; None for the one JAX runs on.
        keep_compiled: keep compiled programs in the bundle, or in the user's cache folder where
            that cannot be written, and use those kept before.
        require_signature: a public key or root certificate (PEM) that must have signed the bundle.

    Raises:
        UsageError: the bundle cannot run here, or has no such mesh or platform.
        ArtifactError: the bundle is missing, damaged, or not signed by that key.
    """
    if "jax" not in sys.modules:
        hide_xla_log()
    signer = None if require_signature is None else Path(require_signature)
    bundle = open_bundle(Path(path), signer)
    record = choose_mesh(bundle, mesh, platform)
    if platform is not None:
        bundle.programs_for(record.mesh.name, platform)
    ensure_devices(record.mesh)
    if mesh is None:
        record = default_mesh(bundle, platform)
    return Model(LoadedModel(bundle, record, platform, keep_compiled))


class Model:
    """A loaded bundle. Threads may share it; a `Session` of it is for one thread at a time.

    A prompt is a text, a list of token ids, or a conversation: a list of messages with `role` and
    `content`, as transformers take them. One prompt gives one result, a list of prompts a list of
    results in the same order, computed in as few calls as the bundle's batch sizes allow.

    Mistakes raise UsageError, which is a ValueError, before anything is computed.
    """

    def __init__(self, loaded: LoadedModel, status: StatusLine | None = None) -> None:
        """Of a model that is loaded already; `load` loads one.

        With a `status` programs are compiled ahead, and what is done is said there.
        """
        self._loaded = loaded
        self._status = status

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait until nothing is compiled or stored in the background; idempotent."""
        self._loaded.close()

    @property
    def mesh(self) -> str:
        """Name of the mesh it runs on."""
        return self._loaded.record.mesh.name

    @property
    def platform(self) -> str:
        """cpu, cuda or tpu."""
        return self._loaded.platform

    @property
    def variant(self) -> str:
        """`kernels` once a program that calls C++ kernels has been loaded, else `portable`."""
        return self._loaded.variant

    @property
    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer; ArtifactError when the bundle has none."""
        return self._loaded.tokenizer

    @property
    def manifest(self) -> Manifest:
        """What the bundle's manifest.json says."""
        return self._loaded.bundle.manifest

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of a classifier's classes."""
        return tuple(self.manifest.model.labels)

    @overload
    def generate(self, prompt: str, **options: Any) -> Completion: ...
    @overload
    def generate(self, prompt: Sequence[int], **options: Any) -> Completion: ...
    @overload
    def generate(self, prompt: Sequence[Message], **options: Any) -> Completion: ...
    @overload
    def generate(self, prompt: Sequence[Prompt], **options: Any) -> list[Completion]: ...
    def generate(self, prompt: Any, **options: Any) -> Completion | list[Completion]:
        """Go on from a prompt, or from several.

        Args:
            prompt: one prompt or a list of prompts; see the class.
            max_new_tokens: the most tokens to make for each; None is 64, or what fits if less.
            temperature: 0, the default, is greedy: always the likeliest token.
            top_k: draw from this many likeliest tokens; 0 is off.
            top_p: draw from the likeliest tokens that make up this probability; 1 is off.
            min_p: draw from tokens at least this many times as likely as the first; 0 is off.
            seed: the same seed gives the same text, whatever the batch.
            repetition_penalty: makes tokens that are in the text already less likely; 1 is off.
            sampling: instead of those above, `SamplingParameters`, or one for each prompt.
            stop: texts that end a row and are left out of it.
            stop_tokens: token ids that end a row, besides the model's own.
            ignore_eos: go on after the model's own end tokens.
            special: show control tokens in the text.
            logprobs: the number of likeliest tokens to report at each step.
            images: of the one prompt: picture files, or arrays [n,3,size,size].
            pan_and_scan: show long pictures in parts as well as whole.
        """
        encoded, request = self._request(prompt, **options)
        completions = list(self._run(request))
        return completions[0] if encoded.single else completions

    def completions(
        self, prompt: Any, on_text: OnText | None = None, **options: Any
    ) -> Iterator[Completion]:
        """Completions of prompts in their order, as they are done.

        The arguments are those of `generate`, and what is wrong with them is said at once.
        `on_text` is told of new text: the index of its prompt, and what continues the text before.
        """
        _, request = self._request(prompt, **options)
        if on_text is not None:
            _ = self.tokenizer  # a bundle without one has no text
        return self._run(request, on_text)

    def stream(self, prompt: Prompt, **options: Any) -> Iterator[str]:
        """Pieces of the text that goes on from one prompt, whole characters, as they are made.

        The arguments are those of `generate`. What is wrong with them is said at once, not when
        the first piece is asked for. Closing the iterator ends the work.
        """
        encoded, request = self._request(prompt, **options)
        if not encoded.single:
            raise UsageError("prompt: expected one to stream, got a list; use generate")
        _ = self.tokenizer  # a bundle without one has no text
        groups = plan_request(self._loaded, request)
        parts = stream_request(self._loaded, request, groups)
        return (part[1] for part in parts if not isinstance(part, Completion))

    def chat(self, messages: Sequence[Message], **options: Any) -> Completion:
        """The model's answer to a conversation; the arguments are those of `generate`.

        Each message has a `role` (user or assistant, taking turns; system may come first) and a
        `content`: a text, or a list of parts `{"type": "text", "text": ...}` and
        `{"type": "image", "image": path or array}`.
        """
        if not is_conversation(messages):
            raise UsageError("messages: expected dictionaries with role and content")
        return self.generate(messages, **options)

    def score(
        self, text: Any, *, labels: Sequence[Sequence[int]] = (), outputs: Sequence[str] = (),
        images: Sequence[Image] = (),
    ) -> Any:  # fmt: skip
        """How likely a text is, or each of several: a Score, or a list.

        Args:
            text: a prompt or a list of prompts; see the class.
            labels: for each text a label for each token, -100 for none; () scores the text itself.
            outputs: hidden_states, attentions, where the bundle was exported with them.
            images: of the one text.
        """
        encoded = encode(self._loaded.bundle, text, images)
        request = ScoreRequest(encoded.prompts, labels, encoded.images, tuple(outputs))
        groups = plan_score(self._loaded, request)
        self._compile(score_buckets(self._loaded, request, groups), "scoring")
        found = run_score(self._loaded, request, groups)
        return found[0] if encoded.single else found

    def classify(self, text: Any, *, images: Sequence[Image] = ()) -> Any:
        """Logits of a classifier's classes for a text, [C] float32, or for several, [N,C].

        The classes are called `labels`.
        """
        encoded = encode(self._loaded.bundle, text, images, whole=True)
        texts, images = encoded.prompts, encoded.images
        groups = plan_classify(self._loaded, texts, images)
        self._compile(classify_buckets(self._loaded, texts, images, groups), "classifying")
        found = np.array(run_classify(self._loaded, texts, images, groups), np.float32)
        return found[0] if encoded.single else found

    def embed(self, text: Any, *, task: str | None = None) -> Any:
        """The vector of a text, [E] float32, or of several, [N,E].

        `task` puts the model's prompt of that task, such as query, before each text.
        """
        bundle = self._loaded.bundle
        before = bundle_prompts(bundle).text(task, str(bundle.root))
        encoded = encode(self._loaded.bundle, text, before=before, whole=True)
        groups = plan_embed(self._loaded, encoded.prompts)
        self._compile({group.bucket for group in groups}, "embedding")
        found = np.array(run_embed(self._loaded, encoded.prompts, groups), np.float32)
        return found[0] if encoded.single else found

    def session(
        self,
        rows: int = 1,
        *,
        cache: int | None = None,
        sampling: Sampling | None = None,
        stop_tokens: Sequence[int] = (),
        ignore_eos: bool = False,
        logprobs: int = 0,
    ) -> Session:
        """Rows of token ids that keep their cache between calls; see `Session`.

        Args:
            rows: how many texts grow at the same time.
            cache: positions each can hold; None for the most that the bundle has.
            sampling: of every row, or one for each; None is greedy.
            stop_tokens: end a row, besides the model's own end tokens.
            ignore_eos: go on after those.
            logprobs: the number of likeliest tokens to report at each step.
        """
        grid = self._loaded.grid
        shapes = grid.stepping() if logprobs else grid.generating()
        roomy = [s for s in shapes if s.batch >= rows and (cache is None or s.cache >= cache)]
        if rows < 1 or not roomy:
            there = ", ".join(f"{s.batch} of {s.cache}" for s in sorted(shapes, key=_size))
            wanted = f"{rows} rows" + ("" if cache is None else f" of {cache} positions")
            raise UsageError(
                f"session: {grid.source} has room for rows of positions: {there or 'none'}; got "
                f"{wanted}"
            )
        least = min(s.batch for s in roomy)
        best = [s for s in roomy if s.batch == least]
        shape = max(best, key=_size) if cache is None else min(best, key=_size)
        own = () if ignore_eos else self._loaded.bundle.manifest.model.eos_token_ids
        stops = tuple(dict.fromkeys([*own, *stop_tokens]))
        return Session(self._loaded, shape, sampling or SamplingParameters(), stops, logprobs)

    def _run(self, request: Request, on_text: OnText | None = None) -> Iterator[Completion]:
        groups = plan_request(self._loaded, request)
        doing = "generating" if on_text is None else "reading the prompt"
        self._compile(buckets_of(self._loaded, request, groups), doing)
        return run_request(self._loaded, request, groups, on_text)

    def _request(
        self, prompt: Any, *, max_new_tokens: int | None = None, sampling: Sampling | None = None,
        stop: str | Sequence[str] = (), stop_tokens: Sequence[int] = (), ignore_eos: bool = False,
        special: bool = False, logprobs: int = 0, images: Sequence[Image] = (),
        pan_and_scan: bool = False, **drawing: float | None,
    ) -> tuple[Encoded, Request]:  # fmt: skip
        given = [name for name, value in drawing.items() if value is not None]
        if sampling is not None and given:
            raise UsageError(f"sampling and {', '.join(given)} exclude each other: pass one")
        loaded = self._loaded
        drawn = make_sampling(**drawing)
        encoded = encode(loaded.bundle, prompt, images, pan_and_scan)
        check_prompts(loaded, encoded.prompts)
        return encoded, make_request(
            encoded, drawn if sampling is None else sampling,
            lambda: most_new_tokens(loaded, encoded.prompts, logprobs, encoded.images),
            max_new_tokens=max_new_tokens, stop=(stop,) if isinstance(stop, str) else tuple(stop),
            stop_tokens=stop_tokens, ignore_eos=ignore_eos, special=special, logprobs=logprobs,
        )  # fmt: skip

    def _compile(self, buckets: Iterable[Bucket], doing: str) -> None:
        """Where somebody watches, compile programs at once and say so, then what follows."""
        if self._status is not None:
            compile_ahead(self._loaded, buckets, self._status)
            self._status.say(doing)


def _size(shape: Shape) -> tuple[int, int]:
    return shape.batch, shape.cache
