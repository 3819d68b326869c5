"""Text to token ids and back, with the SentencePiece model of a bundle."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from ...artifacts.errors import ArtifactError, UsageError, argument
from ...artifacts.tokenizer_model import (
    MAX_PIECE_BYTES,
    TokenizerModelError,
    check_tokenizer_model,
    repeated_piece,
)

# Pieces that steer the model. Written out in a prompt they stay text, whatever type the
# tokenizer file gives them.
START_OF_TURN = "<start_of_turn>"
END_OF_TURN = "<end_of_turn>"
_STEERING_PIECES = (
    "<pad>", "<eos>", "<bos>", "<unk>", START_OF_TURN, END_OF_TURN,
    "<start_of_image>", "<end_of_image>", "<image_soft_token>",
)  # fmt: skip

_REPLACEMENT = "\ufffd"
_SPACE = "\u2581"  # how SentencePiece writes a space


def check_text(what: str, text: str) -> None:
    """Raise UsageError for a text that UTF-8 cannot write, as bytes of a command line may be."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        # Bytes that are not UTF-8 reach Python as halves of surrogates.
        quoted = re.sub(r"(?<!\\)\\udc([89a-f][0-9a-f])", r"\\x\1", repr(text))
        raise UsageError(f"{what}: expected text in UTF-8, got {quoted}") from error


class Tokenizer:
    """A SentencePiece model: ids of texts and chats, texts of ids."""

    def __init__(self, content: bytes, path: Path, bos_token_id: int) -> None:
        """From the contents of a model file; `path` is how errors call it.

        Raises:
            ArtifactError: it is no such file, or one that asks for more than the runtimes do.
        """
        self.path = path
        self._bos = bos_token_id
        try:
            check_tokenizer_model(content)
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=content)
        except TokenizerModelError as error:
            raise self._unusable(str(error)) from error
        except RuntimeError as error:  # from SentencePiece
            reason = repeated_piece(content) or "is not a readable SentencePiece model"
            raise self._unusable(reason) from error
        self._steering = self._find_steering()

    def _unusable(self, reason: str) -> ArtifactError:
        return ArtifactError(f"tokenizer {self.path} {reason}; export the bundle again")

    def _find_steering(self) -> dict[str, int]:
        """Ids of the steering pieces that the model has."""
        ids = {piece: self._processor.piece_to_id(piece) for piece in _STEERING_PIECES}
        unknown = self._processor.unk_id()
        return {
            piece: token
            for piece, token in ids.items()
            if token != unknown or self._processor.id_to_piece(token) == piece
        }

    @property
    def size(self) -> int:
        """Number of pieces; the model may have more ids, which decode to nothing."""
        return self._processor.get_piece_size()

    def encode(self, text: str, add_bos: bool) -> list[int]:
        """Ids of `text`, after <bos> if asked. Text never becomes a steering token."""
        ids = self._encode(text)
        return [self._bos, *ids] if add_bos else ids

    def chat(self, text: str) -> list[int]:
        """Ids of a conversation in which the user has said `text` and the model is to answer.

        Gemma's chat format: <bos><start_of_turn>user, newline, the text without surrounding white
        space, <end_of_turn>, newline, <start_of_turn>model, newline.
        """
        return self.conversation([self._encode(f"user\n{text.strip()}")])

    def conversation(self, turns: Sequence[Sequence[int]]) -> list[int]:
        """Ids of a conversation that the model is to continue.

        <bos>, then each turn between <start_of_turn> and <end_of_turn> with a newline after it,
        then <start_of_turn>model and a newline. `turns` are the ids of each: who speaks (`user` or
        `model`), a newline, and the text.
        """
        start = self.steering_id(START_OF_TURN)
        end = self.steering_id(END_OF_TURN)
        newline, ids = self._encode("\n"), [self._bos]
        for turn in turns:
            ids += [start, *turn, end, *newline]
        return [*ids, start, *self._encode("model\n")]

    def steering_id(self, piece: str) -> int:
        """Id of a steering piece such as `<end_of_turn>`; ArtifactError when there is none."""
        if piece not in self._steering:
            raise ArtifactError(
                f"tokenizer {self.path} has no {piece} piece: this model was not made for chat; "
                f"run without {argument('chat')}"
            )
        return self._steering[piece]

    def decode(self, tokens: list[int]) -> str:
        """Text of the ids; control tokens and ids beyond the tokenizer's pieces give nothing."""
        decoder = self.decoder()
        return "".join(map(decoder.push, tokens)) + decoder.close()

    def decoder(self, shows_special: bool = False) -> IncrementalDecoder:
        """A decoder for ids that come one by one; see `IncrementalDecoder`."""
        return IncrementalDecoder(self._processor, shows_special)

    def stop_token(self, text: str, shows_special: bool = False) -> int | None:
        """The id at which a text ends that is to end before `text`; None for a text to look for.

        Raises:
            UsageError: a control token is part of `text`, which would never be found in a text
                that does not show them.
        """
        processor = self._processor
        whole = self._special_id(text)
        if whole is not None or shows_special:
            return whole
        for begin in range(len(text)):
            for end in range(begin + 1, min(len(text), begin + MAX_PIECE_BYTES) + 1):
                token = self._special_id(text[begin:end])
                if token is not None and processor.is_control(token):
                    raise UsageError(
                        f"stop text {text!r} has the control token {text[begin:end]} in it, which "
                        f"texts do not show: pass the token alone, or {argument('special')}"
                    )
        return None

    def _special_id(self, piece: str) -> int | None:
        """Id of a piece that no text shows as it is: a control token or the unknown one."""
        processor = self._processor
        token = processor.piece_to_id(piece)
        if processor.is_control(token):
            return token
        is_unknown = processor.is_unknown(token) and processor.id_to_piece(token) == piece
        return token if is_unknown else None

    def _encode(self, text: str) -> list[int]:
        check_text("prompt", text)
        ids = self._processor.encode(text)
        if not set(self._steering.values()).intersection(ids) - {self._processor.unk_id()}:
            return ids
        # The file marks steering pieces as text to be matched: cut each after its first letter,
        # where no ordinary piece reaches across.
        cuts = "|".join(f"(?<={piece[0]})(?={re.escape(piece[1:])})" for piece in self._steering)
        return [token for part in re.split(cuts, text) for token in self._processor.encode(part)]


class IncrementalDecoder:
    """Text of ids that come one by one; what it returns, joined, is the text of all of them.

    A character spelled in bytes over several ids is returned when its last byte is there. Bytes
    that are not UTF-8 become U+FFFD each, as SentencePiece decodes them.
    """

    def __init__(
        self, processor: sentencepiece.SentencePieceProcessor, shows_special: bool = False
    ) -> None:
        """With `shows_special`, control tokens are written as their pieces."""
        self._processor = processor
        self._shows_special = shows_special
        self._bytes = b""

    def push(self, token: int) -> str:
        """The text that is certain once `token` has come; may be empty."""
        processor = self._processor
        if not 0 <= token < processor.get_piece_size():
            return self.close()
        if processor.is_control(token):
            return self.close() + (processor.id_to_piece(token) if self._shows_special else "")
        if processor.is_byte(token):
            self._bytes += bytes([int(processor.id_to_piece(token)[3:5], 16)])
            text, self._bytes = _take_characters(self._bytes)
            return text
        if processor.is_unknown(token):
            return self.close() + processor.decode([token])
        return self.close() + processor.id_to_piece(token).replace(_SPACE, " ")

    def close(self) -> str:
        """The text of bytes that never became a character."""
        text, self._bytes = _REPLACEMENT * len(self._bytes), b""
        return text


def _take_characters(pending: bytes) -> tuple[str, bytes]:
    """The text at the start of `pending`, and the bytes that may yet become a character."""
    text = ""
    while pending:
        length = _utf8_length(pending[0])
        if len(pending) < length and all(byte >> 6 == 0b10 for byte in pending[1:]):
            break
        try:
            text += pending[:length].decode()
            pending = pending[length:]
        except UnicodeDecodeError:
            text += _REPLACEMENT
            pending = pending[1:]
    return text, pending


def _utf8_length(lead: int) -> int:
    """Bytes of the character that `lead` begins; 1 for a byte that begins none."""
    for length, prefix in ((2, 0b110), (3, 0b1110), (4, 0b11110)):
        if lead >> (7 - length) == prefix:
            return length
    return 1
