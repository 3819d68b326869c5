"""tokenizer.json (the Hugging Face `tokenizers` format) -> a SentencePiece model.

Gemma's tokenizer.json is a BPE with byte fallback made from SentencePiece: its merges are, in
the order of the pieces' scores, every way to split each piece into two pieces. When that holds
the conversion can be undone; it is checked merge by merge, and anything else is refused.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

from ...artifacts.errors import ArtifactError
from .tokenizer import SPACE, PieceType, SpecialIds, build_sentencepiece

_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
_NORMALIZER = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}


def sentencepiece_from_tokenizer_json(document: dict[str, Any], where: Path) -> bytes:
    """A serialised ModelProto that gives the ids tokenizer.json gives.

    Raises:
        ArtifactError: the tokenizer is of another kind than Gemma's, or its merges are not
            those of a SentencePiece vocabulary.
    """
    model = document.get("model") or {}
    added = document.get("added_tokens") or []
    try:
        _check_kind(document, model, added)
        vocabulary = _vocabulary(model["vocab"], added)
        merges = [_pair(merge) for merge in model["merges"]]
        types = _types(vocabulary, added, model["unk_token"], merges)
        ranks = _ranks(merges, types)
    except (_UnsupportedError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{where}: cannot be turned into a SentencePiece model ({error}); "
            "put the checkpoint's tokenizer.model beside it"
        ) from error
    # Pieces that no merge makes (single characters, special tokens) never compete.
    last = float(len(merges))
    pieces = [(piece, -ranks.get(piece, last), types[piece]) for piece in vocabulary]
    index = {piece: number for number, piece in enumerate(vocabulary)}
    special = SpecialIds(
        unk=index[model["unk_token"]],
        bos=index.get("<bos>", -1),
        eos=index.get("<eos>", -1),
        pad=index.get("<pad>", -1),
    )
    return build_sentencepiece(pieces, special, where)


class _UnsupportedError(Exception):
    """Why a tokenizer.json is not Gemma's."""


def _check_kind(document: dict[str, Any], model: dict[str, Any], added: list[Any]) -> None:
    if model.get("type") != "BPE" or not model.get("byte_fallback"):
        raise _UnsupportedError(f"it is {model.get('type')}, not BPE with byte fallback")
    if model.get("ignore_merges") or model.get("dropout"):
        raise _UnsupportedError("it ignores or drops merges")
    if document.get("normalizer") != _NORMALIZER:
        raise _UnsupportedError("its normalizer does more than write spaces as U+2581")
    # Gemma splits at spaces after the normalizer has left none; any other split matters.
    splitter = document.get("pre_tokenizer") or {"type": "Split", "pattern": {"String": " "}}
    if splitter.get("type") != "Split" or splitter.get("pattern") != {"String": " "}:
        raise _UnsupportedError("its pre_tokenizer splits the text")
    for token in added:
        if any(token.get(flag) for flag in ("single_word", "lstrip", "rstrip")):
            raise _UnsupportedError(f"added token {token['content']!r} strips its surroundings")


def _vocabulary(vocab: dict[str, int], added: list[dict[str, Any]]) -> list[str]:
    """The pieces by id."""
    by_id = {number: piece for piece, number in vocab.items()}
    for token in added:
        if by_id.setdefault(token["id"], token["content"]) != token["content"]:
            raise _UnsupportedError(f"id {token['id']} has two pieces")
    if sorted(by_id) != list(range(len(by_id))):
        raise _UnsupportedError("its ids are not 0..n-1")
    return [by_id[number] for number in range(len(by_id))]


def _pair(merge: str | list[str]) -> tuple[str, str]:
    """A merge, written `"a b"` by old versions and `["a", "b"]` by new ones."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _types(
    vocabulary: list[str],
    added: list[dict[str, Any]],
    unknown: str,
    merges: list[tuple[str, str]],
) -> dict[str, PieceType]:
    types = {
        piece: PieceType.BYTE if _BYTE_PIECE.fullmatch(piece) else PieceType.NORMAL
        for piece in vocabulary
    }
    if sum(kind == PieceType.BYTE for kind in types.values()) != 256:
        raise _UnsupportedError("it lacks some of the 256 byte pieces")
    spaces = set()
    for token in added:
        piece = token["content"]
        if token.get("special"):
            types[piece] = PieceType.CONTROL
        elif SPACE not in piece or token.get("normalized"):
            types[piece] = PieceType.USER_DEFINED
        elif _is_spaces(piece):
            # Looked for before spaces become U+2581, so never found: its merges make it.
            spaces.add(piece)
        else:
            raise _UnsupportedError(f"added token {piece!r} mixes U+2581 and text")
    if spaces and _longest_run_first(spaces, merges):
        types |= dict.fromkeys(spaces, PieceType.USER_DEFINED)
    types[unknown] = PieceType.UNKNOWN
    return types


def _is_spaces(piece: str) -> bool:
    return len(piece) > 1 and not piece.strip(SPACE)


def _longest_run_first(spaces: set[str], merges: list[tuple[str, str]]) -> bool:
    """Whether merging gives what taking the longest of these runs of spaces gives.

    It does in tokenizers whose runs all had one score: their merges stand in order of length,
    mixed with one another. Checked by merging runs of every length up to twice the longest.
    """
    ranks: dict[tuple[int, int], int] = {}
    for rank, (left, right) in enumerate(merges):
        if _is_spaces(left + right):
            ranks[len(left), len(right)] = rank
    if not ranks:
        return False
    last = max(ranks.values())
    for rank, (left, right) in enumerate(merges):
        # Merges with text must find the runs complete, and must not join a run to the text.
        with_text = SPACE in left + right and not _is_spaces(left + right)
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
            raise _UnsupportedError(f"the merges of {piece!r} have different priorities")
        ranks[piece] = float(len(ranks))
        previous = piece
    known = set(merges)
    normal = {piece for piece, kind in types.items() if kind == PieceType.NORMAL}
    for piece in normal:
        for cut in range(1, len(piece)):
            pair = piece[:cut], piece[cut:]
            if pair[0] in normal and pair[1] in normal and pair not in known:
                raise _UnsupportedError(f"no merge of {pair[0]!r} and {pair[1]!r}")
    return ranks
