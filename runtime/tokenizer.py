"""Text to token ids and back, with the SentencePiece model of a bundle."""

from __future__ import annotations

import re
from pathlib import Path

import sentencepiece

from ..artifacts.errors import ArtifactError

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


class Tokenizer:
    """A SentencePiece model: ids of texts and chats, texts of ids."""

    def __init__(self, path: Path, bos_token_id: int) -> None:
        """Read the model file at `path`; raises ArtifactError when it is not one."""
        self.path = path
        self._bos = bos_token_id
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            # The return value says nothing; a file that cannot be parsed raises.
            self._processor.Load(str(path))
            self._steering = self._find_steering()
        except (OSError, RuntimeError, IndexError, UnicodeDecodeError) as error:
            raise ArtifactError(
                f"tokenizer {path} is not a readable SentencePiece model; export the bundle again"
            ) from error

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
        return self.turn(self._encode(f"user\n{text.strip()}"))

    def turn(self, user: list[int]) -> list[int]:
        """Ids of a chat whose first turn is `user` (beginning with the ids of `user`, newline)."""
        start = self.steering_id(START_OF_TURN)
        end = self.steering_id(END_OF_TURN)
        return [
            self._bos, start, *user, end, *self._encode("\n"), start, *self._encode("model\n"),
        ]  # fmt: skip

    def steering_id(self, piece: str) -> int:
        """Id of a steering piece such as `<end_of_turn>`; ArtifactError when there is none."""
        if piece not in self._steering:
            raise ArtifactError(
                f"tokenizer {self.path} has no {piece} piece: this model was not made for chat; "
                "run without --chat"
            )
        return self._steering[piece]

    def decode(self, tokens: list[int]) -> str:
        """Text of the ids; control tokens and ids beyond the tokenizer's pieces give nothing."""
        decoder = self.decoder()
        return "".join(map(decoder.push, tokens)) + decoder.close()

    def decoder(self) -> IncrementalDecoder:
        """A decoder for ids that come one by one."""
        return IncrementalDecoder(self._processor)

    def _encode(self, text: str) -> list[int]:
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

    def __init__(self, processor: sentencepiece.SentencePieceProcessor) -> None:
        self._processor = processor
        self._bytes = b""

    def push(self, token: int) -> str:
        """The text that is certain once `token` has come; may be empty."""
        processor = self._processor
        if not 0 <= token < processor.get_piece_size() or processor.is_control(token):
            return self.close()
        try:
            if processor.is_byte(token):
                self._bytes += bytes([int(processor.id_to_piece(token)[3:5], 16)])
                text, self._bytes = _take_characters(self._bytes)
                return text
            if processor.is_unknown(token):
                return self.close() + processor.decode([token])
            return self.close() + processor.id_to_piece(token).replace(_SPACE, " ")
        except ValueError as error:  # a piece that is not UTF-8, or a byte that is no number
            raise ArtifactError(
                f"the tokenizer's piece {token} is not text: the file is damaged; export the "
                "bundle again"
            ) from error

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
