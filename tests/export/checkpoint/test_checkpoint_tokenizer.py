"""Tokenizers rebuilt as SentencePiece give the ids of an independent implementation.

Goldens: tests/goldens/make_tokenizer.py (transformers and tokenizers).
"""

import copy
import json
from pathlib import Path

import pytest
import sentencepiece
from gemma3_export.artifacts.errors import ArtifactError
from gemma3_export.export.checkpoint import demo_checkpoint, open_checkpoint
from gemma3_export.export.checkpoint.tokenizer import (
    PieceType,
    SpecialIds,
    build_sentencepiece,
    check_sentencepiece,
)
from gemma3_export.export.checkpoint.tokenizer_json import sentencepiece_from_tokenizer_json

DATA = Path(__file__).parent / "data"
WHERE = Path("some/tokenizer.json")


def load(name):
    return json.loads((DATA / name).read_text())


@pytest.fixture(scope="module")
def gemma():
    content = open_checkpoint(demo_checkpoint()).tokenizer
    return sentencepiece.SentencePieceProcessor(model_proto=content)


def convert(document):
    content = sentencepiece_from_tokenizer_json(document, WHERE)
    return sentencepiece.SentencePieceProcessor(model_proto=content)


def test_gguf_vocabulary_gives_the_ids_of_hugging_face(gemma):
    got = [[text, gemma.encode(text)] for text, _ in load("tokenizer_goldens.json")]
    assert got == load("tokenizer_goldens.json")


def test_gguf_vocabulary_decodes_to_the_text_it_came_from(gemma):
    for text, ids in load("tokenizer_goldens.json"):
        # SentencePiece cannot tell a literal U+2581 from a space.
        assert gemma.decode(ids) == text.replace("\u2581", " ")


def test_special_ids_are_those_of_gemma_and_text_cannot_make_them(gemma):
    ids = gemma.pad_id(), gemma.eos_id(), gemma.bos_id(), gemma.unk_id()
    assert ids == (0, 1, 2, 3)
    assert gemma.piece_to_id("<start_of_turn>") == 105
    assert not {1, 2, 105, 106} & set(gemma.encode("<bos><start_of_turn>user<end_of_turn><eos>"))


@pytest.mark.parametrize("name", ["small_tied", "small_ranked"])
def test_tokenizer_json_gives_the_ids_of_the_tokenizers_library(name):
    tokenizer = convert(load(f"{name}.json"))
    goldens = load(f"{name}_goldens.json")
    assert [[text, tokenizer.encode(text)] for text, _ in goldens] == goldens


def test_goldens_of_the_two_orders_of_merges_differ_on_long_runs_of_spaces():
    assert load("small_tied_goldens.json") != load("small_ranked_goldens.json")


def test_tokenizer_json_keeps_ids_beyond_its_vocabulary():
    document = load("small_tied.json")
    tokenizer = convert(document)
    assert tokenizer.get_piece_size() == len(document["model"]["vocab"]) + 1
    assert tokenizer.piece_to_id("<image>") == len(document["model"]["vocab"])
    assert tokenizer.is_control(tokenizer.piece_to_id("<image>"))


def test_tokenizer_json_accepts_merges_as_text():
    document = load("small_tied.json")
    joined = copy.deepcopy(document)
    joined["model"]["merges"] = [" ".join(merge) for merge in document["model"]["merges"]]
    assert sentencepiece_from_tokenizer_json(joined, WHERE) == sentencepiece_from_tokenizer_json(
        document, WHERE
    )


def without_byte(document):
    vocab = document["model"]["vocab"]
    vocab["<0xZZ>"] = vocab.pop("<0x41>")


def part_two_merges_of_one_piece(document):
    merges = document["model"]["merges"]
    pieces = ["".join(merge) for merge in merges]
    first = next(
        at for at, piece in enumerate(pieces) if piece.isalpha() and pieces.count(piece) > 1
    )
    merges.append(merges.pop(first))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d["model"].update(type="Unigram"), "Unigram, not BPE"),
        (lambda d: d["model"].update(byte_fallback=False), "not BPE with byte fallback"),
        (lambda d: d["model"].update(ignore_merges=True), "ignores or drops merges"),
        (lambda d: d.update(normalizer={"type": "NFC"}), "normalizer"),
        (lambda d: d.update(pre_tokenizer={"type": "ByteLevel"}), "pre_tokenizer splits"),
        (lambda d: d["added_tokens"][0].update(lstrip=True), "strips its surroundings"),
        (lambda d: d["added_tokens"][0].update(content="<other>"), "id 0 has two pieces"),
        (lambda d: d["added_tokens"][-1].update(id=9999), "ids are not 0..n-1"),
        (lambda d: d["model"]["merges"].pop(), "no merge of"),
        (part_two_merges_of_one_piece, "different priorities"),
        (without_byte, "256 byte pieces"),
        (lambda d: d.pop("model"), "None, not BPE"),
        (lambda d: d["model"].pop("merges"), "merges"),
    ],
)
def test_tokenizer_json_that_is_not_gemmas_is_refused_with_the_remedy(change, reason):
    document = load("small_ranked.json")
    change(document)
    with pytest.raises(ArtifactError, match=reason) as error:
        sentencepiece_from_tokenizer_json(document, WHERE)
    assert str(error.value).startswith("some/tokenizer.json: ")
    assert "put the checkpoint's tokenizer.model beside it" in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_tokenizer_are_refused():
    with pytest.raises(ArtifactError, match=r"x/tokenizer\.model: the tokenizer is not") as error:
        check_sentencepiece(b"\x0a\xff\xff\xff\xff\x0fgarbage", Path("x/tokenizer.model"))
    assert "\n" not in str(error.value)


def test_vocabulary_that_sentencepiece_refuses_is_refused():
    pieces = [("<unk>", 0.0, PieceType.UNKNOWN), ("a", 0.0, PieceType.NORMAL)] * 2
    with pytest.raises(ArtifactError, match="the tokenizer has 2 unknown pieces: expected 1"):
        build_sentencepiece(pieces, SpecialIds(unk=0, bos=-1, eos=-1, pad=-1), WHERE)


def test_special_id_outside_the_vocabulary_is_refused():
    pieces = [("<unk>", 0.0, PieceType.UNKNOWN)]
    with pytest.raises(ArtifactError, match=r"bos token id is 7, expected less than .* 1;"):
        build_sentencepiece(pieces, SpecialIds(unk=0, bos=7, eos=-1, pad=-1), WHERE)
