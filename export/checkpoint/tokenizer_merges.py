"""A vocabulary with a list of merges -> a SentencePiece model.

`tokenizer.json` and GGUF files with a `gpt2` tokenizer keep merges instead of scores. Gemma's
were made from SentencePiece: they are, in the order of the pieces' scores, every way to split
each piece into two pieces. When that holds the conversion can be undone; it is checked merge by
merge, and anything else is refused.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from ...artifacts.errors import ArtifactError
from .tokenizer import SPACE, PieceType, SpecialIds, build_sentencepiece

_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")


class UnsupportedTokenizerError(Exception):
    """Why a tokenizer is not Gemma's."""


def bpe_tokenizer_model(
    pieces: Sequence[str],
    kinds: Sequence[PieceType],
    merges: Sequence[str | Sequence[str]],
    special: SpecialIds,
    where: Path,
) -> bytes:
    """A serialised ModelProto that merges in the order of `merges`.

    Args:
        pieces: the pieces by id, with U+2581 for spaces (Gemma's spelling, not GPT-2's).
        kinds: what each piece is. A normal piece `<0xNN>` is taken for the byte NN. User-defined
            runs of U+2581 stand for added tokens that are looked for before spaces become U+2581.
        merges: by priority, each `"left right"` or `["left", "right"]`.
        special: ids of the special tokens.
        where: the file they came from, for messages.

    Raises:
        ArtifactError: the merges are not those of a SentencePiece vocabulary.
    """
    try:
        types = _types(pieces, kinds)
        pairs = [_pair(merge) for merge in merges]
        ranks = _ranks(pairs, _runs_of_spaces(types, pairs))
    except ArtifactError:  # says what is wrong already
        raise
    except (UnsupportedTokenizerError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{where}: cannot be turned into a SentencePiece model ({error}); "
            "put the checkpoint's tokenizer.model beside it"
        ) from error
    # Pieces that no merge makes (single characters, special tokens) never compete.
    last = float(len(pairs))
    scored = [(piece, -ranks.get(piece, last), types[piece]) for piece in pieces]
    return build_sentencepiece(scored, special, where)


def _types(pieces: Sequence[str], kinds: Sequence[PieceType]) -> dict[str, PieceType]:
    types: dict[str, PieceType] = {}
    for piece, kind in zip(pieces, kinds, strict=True):
        if piece in types:
            raise UnsupportedTokenizerError(f"two ids have the piece {piece!r}")
        is_byte = kind == PieceType.NORMAL and _BYTE_PIECE.fullmatch(piece)
        types[piece] = PieceType.BYTE if is_byte else kind
    if sum(kind == PieceType.BYTE for kind in types.values()) != 256:
        raise UnsupportedTokenizerError("it lacks some of the 256 byte pieces")
    return types


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    """A merge, written `"a b"` by old versions and `["a", "b"]` by new ones."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _runs_of_spaces(
    types: dict[str, PieceType], merges: list[tuple[str, str]]
) -> dict[str, PieceType]:
    """The types, with user-defined runs of spaces left to the merges where they differ."""
    spaces = {
        piece for piece, kind in types.items() if kind == PieceType.USER_DEFINED and is_run(piece)
    }
    if spaces and not _longest_run_first(spaces, merges):
        types.update(dict.fromkeys(spaces, PieceType.NORMAL))
    return types


def is_run(piece: str) -> bool:
    """Whether the piece is a run of spaces and nothing else."""
    return len(piece) > 1 and not piece.strip(SPACE)


def _longest_run_first(spaces: set[str], merges: list[tuple[str, str]]) -> bool:
    """Whether merging gives what taking the longest of these runs of spaces gives.

    It does in tokenizers whose runs all had one score: their merges stand in order of length,
    mixed with one another. Checked by merging runs of every length up to twice the longest.
    """
    ranks: dict[tuple[int, int], int] = {}
    for rank, (left, right) in enumerate(merges):
        if is_run(left + right):
            ranks[len(left), len(right)] = rank
    if not ranks:
        return False
    last = max(ranks.values())
    for rank, (left, right) in enumerate(merges):
        # Merges with text must find the runs complete, and must not join a run to the text.
        with_text = SPACE in left + right and not is_run(left + right)
        if with_text and (rank < last or left in spaces or right in spaces):
            return False
    longest = max(map(len, spaces))
    for count in range(1, 2 * longest + 2):
        whole, rest = divmod(count, longest)
        if _merge_run(count, ranks) != [longest] * whole + [rest] * (rest > 0):
            return False
    return True


def _merge_run(count: int, ranks: dict[tuple[int, int], int]) -> list[int]:
    """Lengths of the pieces that byte-pair merging makes of `count` spaces."""
    run = [1] * count
    while True:
        candidates = [
            (ranks[pair], at) for at, pair in enumerate(itertools.pairwise(run)) if pair in ranks
        ]
        if not candidates:
            return run
        at = min(candidates)[1]
        run[at : at + 2] = [run[at] + run[at + 1]]


def _ranks(merges: list[tuple[str, str]], types: dict[str, PieceType]) -> dict[str, float]:
    """Rank of every piece that merges make.

    SentencePiece merges any two pieces whose concatenation is a piece, and a piece has one
    score. So the merges of a piece must stand together, and none may be left out. User-defined
    pieces are found in the text before anything is merged; their merges are never used.
    """
    ranks: dict[str, float] = {}
    previous = None
    for left, right in merges:
        piece = left + right
        if types.get(piece) != PieceType.NORMAL or piece == previous:
            continue
        if piece in ranks:
            raise UnsupportedTokenizerError(f"the merges of {piece!r} have different priorities")
        ranks[piece] = float(len(ranks))
        previous = piece
    known = set(merges)
    normal = {piece for piece, kind in types.items() if kind == PieceType.NORMAL}
    for piece in normal:
        for cut in range(1, len(piece)):
            pair = piece[:cut], piece[cut:]
            if pair[0] in normal and pair[1] in normal and pair not in known:
                raise UnsupportedTokenizerError(f"no merge of {pair[0]!r} and {pair[1]!r}")
    return ranks


def check_order(
    merges: Sequence[str | Sequence[str]],
    processor: sentencepiece.SentencePieceProcessor,
    whole: set[str],
) -> None:
    """Raise UnsupportedTokenizerError for merges that are not in the order of a model's scores.

    Or where none makes a piece that the model makes. Both come out of one and the same model in
    that order, so merges in another are of another model. Pieces in `whole` are found in a text
    before anything is merged, and have no rank.
    """
    skipped = (processor.is_control, processor.is_byte, processor.is_unused, processor.is_unknown)
    scores = {
        piece: processor.get_score(number)
        for number in range(processor.get_piece_size())
        if (piece := processor.id_to_piece(number)) not in whole
        and not any(check(number) for check in skipped)
    }
    last, products = math.inf, set()
    for merge in merges:
        left, right = _pair(merge)
        piece = left + right
        if piece not in scores:
            continue
        if scores[piece] > last:
            raise UnsupportedTokenizerError(f"it merges {piece!r} later than its score says")
        last = scores[piece]
        products.add(piece)
    for piece in scores.keys() - products:
        if any(piece[:cut] in scores and piece[cut:] in scores for cut in range(1, len(piece))):
            raise UnsupportedTokenizerError(f"no merge makes {piece!r}")
