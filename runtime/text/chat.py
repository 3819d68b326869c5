"""Conversations as Gemma writes them: turns of users and of the model, between control tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...artifacts.errors import UsageError

Message = Mapping[str, Any]
"""`role` (user, assistant or system) and `content`: a text, or parts of text and images."""

IMAGE = "<start_of_image>"
"""What a text has where an image is to stand, as in transformers."""

_ROLES = {"user": "user", "assistant": "model", "model": "model"}


@dataclass(frozen=True)
class Turn:
    """What one side says; `speaker` is `user` or `model`, as Gemma calls them."""

    speaker: str
    text: str


def read_turns(messages: Sequence[Message]) -> tuple[list[Turn], list[Any]]:
    """The turns of a conversation that the model is to continue, and the images in them, in order.

    As Gemma's chat template has it: what the system says stands before the first text of the user,
    an empty line between them; users and the model take turns, users first; white space around a
    text is dropped.

    Raises:
        UsageError: names the message that is wrong.
    """
    images: list[Any] = []
    system, turns = "", []
    for number, message in enumerate(messages, 1):
        where = f"message {number}"
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise UsageError(f"{where}: expected a dictionary with role and content, got {message}")
        role, text = message["role"], _text_of(where, message["content"], images)
        if role == "system" and number == 1:
            system = text
            continue
        if role not in _ROLES:
            expected = "user or assistant" + (" (system comes first)" if role == "system" else "")
            raise UsageError(f"{where}: expected role {expected}, got {role!r}")
        expected = "model" if len(turns) % 2 else "user"
        if _ROLES[role] != expected:
            wanted = "user" if expected == "user" else "assistant"
            raise UsageError(
                f"{where}: expected role {wanted}, got {role!r}: users and the model take turns"
            )
        turns.append(Turn(expected, text))
    if not turns or turns[-1].speaker != "user":
        raise UsageError("messages: expected the last one from the user: the model is to answer it")
    if system:
        first = turns[0]
        turns[0] = Turn(first.speaker, f"{system.strip()}\n\n{first.text.strip()}")
    return turns, images


def _text_of(where: str, content: Any, images: list[Any]) -> str:
    """The text of a message; its images are added to `images`."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise UsageError(f"{where}: expected content of text or a list of parts, got {content!r}")
    text = ""
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            text += part["text"]
        elif kind == "image" and "image" in part:
            images.append(part["image"])
            text += IMAGE
        else:
            raise UsageError(
                f'{where}: expected parts {{"type": "text", "text": ...}} or '
                f'{{"type": "image", "image": ...}}, got {part!r}'
            )
    return text
