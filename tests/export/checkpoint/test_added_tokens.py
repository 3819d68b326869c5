"""A folder's tokenizer files together give the ids that transformers 5.23.0 gives with them.

Expected ids were read from transformers (AutoTokenizer of the same files) once.
"""

import copy
import json
from pathlib import Path

import pytest
import sentencepiece
from gemma3_export.artifacts.errors import ArtifactError
from gemma3_export.export.checkpoint.tokenizer_files import read_tokenizer
from gemma3_export.export.checkpoint.tokenizer_json import sentencepiece_from_tokenizer_json

DATA = Path(__file__).parent / "data"
FIRST = 701
"""The first id after small_tied.json's own."""


def token(number, content, **flags):
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": content, "special": False} | plain | flags


THINK = [token(FIRST, "<think>", normalized=True), token(FIRST + 1, "</think>", normalized=True)]
TURN = token(FIRST + 2, "<|im_end|>", special=True)
BOS = {"SpecialToken": {"id": "<bos>", "type_id": 0}}
EOS = {"SpecialToken": {"id": "<eos>", "type_id": 0}}
UNK = {"SpecialToken": {"id": "<unk>", "type_id": 0}}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}


@pytest.fixture
def document():
    content = json.loads((DATA / "small_tied.json").read_text())
    assert len(content["model"]["vocab"]) + 1 == FIRST
    return content


@pytest.fixture
def folder(tmp_path, document):
    """tokenizer.model as it was before tokens were added."""
    model = sentencepiece_from_tokenizer_json(document, tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(model)
    return tmp_path


def write(folder, name, content):
    (folder / name).write_text(json.dumps(content))


def processor(folder):
    return sentencepiece.SentencePieceProcessor(model_proto=read_tokenizer(folder).model)


def template(*parts, **ids):
    special = {
        name: {"id": name, "ids": [number], "tokens": [name]} for name, number in ids.items()
    }
    processor = {"type": "TemplateProcessing", "single": list(parts), "pair": []}
    return processor | {"special_tokens": special}


def check_think(folder):
    tokenizer = processor(folder)
    ids = tokenizer.encode("<think>a</think>")
    assert ids == [FIRST, tokenizer.piece_to_id("a"), FIRST + 1]
    assert tokenizer.decode(ids) == "<think>a</think>"


def test_tokens_of_tokenizer_json_are_merged_into_an_older_model(folder, document):
    write(folder, "tokenizer.json", document | {"added_tokens": document["added_tokens"] + THINK})
    check_think(folder)


def test_without_tokenizer_model_they_are_the_same(folder, document):
    write(folder, "tokenizer.json", document | {"added_tokens": document["added_tokens"] + THINK})
    (folder / "tokenizer.model").unlink()
    check_think(folder)


def test_tokens_of_added_tokens_json_count_without_tokenizer_json(folder):
    write(folder, "added_tokens.json", {"<think>": FIRST, "</think>": FIRST + 1})
    check_think(folder)


def test_tokens_of_the_tokenizer_config_count_without_tokenizer_json(folder):
    decoder = {str(one["id"]): {k: v for k, v in one.items() if k != "id"} for one in THINK}
    write(folder, "tokenizer_config.json", {"added_tokens_decoder": decoder})
    check_think(folder)


def test_special_tokens_become_control_pieces_that_no_text_makes(folder, document):
    added = [*document["added_tokens"], *THINK, TURN]
    write(folder, "tokenizer.json", document | {"added_tokens": added})
    tokenizer = processor(folder)
    assert tokenizer.is_control(FIRST + 2)
    assert FIRST + 2 not in tokenizer.encode("<|im_end|>")


def test_a_piece_that_is_named_special_since_becomes_a_control_piece(folder, document):
    added = copy.deepcopy(document["added_tokens"])
    (heading,) = [one for one in added if one["content"] == "<h1>"]
    before = processor(folder)
    assert before.encode("<h1>") == [heading["id"]]
    heading["special"] = True
    write(folder, "tokenizer.json", document | {"added_tokens": added})
    assert processor(folder).is_control(heading["id"])


def test_a_special_token_without_an_id_comes_last(folder):
    settings = {"bos_token": "<bos>", "extra_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    write(folder, "tokenizer_config.json", settings)
    tokenizer = processor(folder)
    assert [tokenizer.id_to_piece(FIRST + at) for at in (0, 1)] == ["<|im_start|>", "<|im_end|>"]
    assert tokenizer.get_piece_size() == FIRST + 2


def test_files_that_agree_leave_the_model_as_it_is(folder, document):
    before = (folder / "tokenizer.model").read_bytes()
    write(folder, "tokenizer.json", document)
    assert read_tokenizer(folder).model == before


@pytest.mark.parametrize(
    ("processor_of_text", "expected"),
    [
        (None, (False, False)),
        (template(TEXT), (False, False)),
        (template(BOS, TEXT), (True, False)),
        (template(BOS, TEXT, EOS), (True, True)),
        ({"type": "Sequence", "processors": [{"type": "ByteLevel"}, template(BOS, TEXT)]},
         (True, False)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("settings", [{}, {"add_bos_token": True, "add_eos_token": False}])
def test_tokenizer_json_says_what_surrounds_a_text(
    folder, document, processor_of_text, expected, settings
):
    write(folder, "tokenizer.json", document | {"post_processor": processor_of_text})
    write(folder, "tokenizer_config.json", settings)
    tokenizer = read_tokenizer(folder)
    assert (tokenizer.add_bos, tokenizer.add_eos) == expected


@pytest.mark.parametrize(
    ("processor_of_text", "settings", "expected"),
    [
        (template(BOS, TEXT, **{"<bos>": 5}), {}, (5, None)),
        (template(BOS, TEXT, EOS), {}, (2, 1)),
        (template(UNK, TEXT, **{"<unk>": 3}), {"bos_token": "<unk>"}, (3, None)),
    ],
)
def test_tokenizer_json_says_by_which_ids_a_text_is_surrounded(
    folder, document, processor_of_text, settings, expected
):
    write(folder, "tokenizer.json", document | {"post_processor": processor_of_text})
    write(folder, "tokenizer_config.json", settings)
    tokenizer = read_tokenizer(folder)
    assert (tokenizer.bos_id, tokenizer.eos_id) == expected


def test_a_folder_without_tokenizer_json_has_the_ids_of_the_pieces(folder):
    write(folder, "tokenizer_config.json", {"bos_token": "<unk>", "eos_token": "<eos>"})
    tokenizer = read_tokenizer(folder)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (3, 1)


@pytest.mark.parametrize(
    ("processor_of_text", "settings", "notes"),
    [
        (template(BOS, TEXT), {"add_bos_token": True, "add_eos_token": False}, []),
        (template(BOS, TEXT), {}, []),
        (template(BOS, TEXT), {"add_bos_token": False},
         ["says add_bos_token false, and tokenizer.json puts <bos> before a text"]),
        (template(TEXT), {"add_bos_token": True, "add_eos_token": True},
         ["says add_bos_token true, and tokenizer.json does not put <bos> before a text",
          "says add_eos_token true, and tokenizer.json does not put <eos> after a text"]),
        ("no tokenizer.json", {"add_bos_token": True}, []),
        ("no tokenizer.json", {}, ["does not say add_bos_token: texts begin with <bos>"]),
    ],
)  # fmt: skip
def test_what_is_done_otherwise_than_a_file_says_is_told(
    folder, document, processor_of_text, settings, notes
):
    if isinstance(processor_of_text, dict):
        write(folder, "tokenizer.json", document | {"post_processor": processor_of_text})
    write(folder, "tokenizer_config.json", settings)
    told = read_tokenizer(folder).notes
    assert len(told) == len(notes)
    assert all(part in note for part, note in zip(notes, told, strict=True))


def test_added_tokens_that_are_to_be_split_are_refused(folder):
    write(folder, "tokenizer_config.json", {"split_special_tokens": True})
    with pytest.raises(ArtifactError, match=r"split_special_tokens: expected false"):
        read_tokenizer(folder)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (True, False)),
        ({"add_bos_token": False}, (False, False)),
        ({"add_bos_token": True, "add_eos_token": True}, (True, True)),
    ],
)
def test_without_tokenizer_json_the_config_says_what_surrounds_a_text(folder, settings, expected):
    write(folder, "tokenizer_config.json", settings)
    tokenizer = read_tokenizer(folder)
    assert (tokenizer.add_bos, tokenizer.add_eos) == expected


def added(*more):
    return lambda d: d["added_tokens"].extend(more)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (added(token(FIRST, "<x>", lstrip=True)), "'<x>' has lstrip true"),
        (added(token(FIRST, "<x>", rstrip=True)), "'<x>' has rstrip true"),
        (added(token(FIRST, "<x>", single_word=True)), "'<x>' has single_word true"),
        (added(token(FIRST + 1, "<x>")), f"'<x>' cannot be added as id {FIRST + 1} (no token has"),
        (added(token(FIRST, "the")), f"'the' cannot be added as id {FIRST} (it has the piece as"),
        (added(token(FIRST, "<x>\n", normalized=True)), "another added token overlaps it"),
        (
            lambda d: d["added_tokens"][0].update(content="<zero>"),
            "its piece of that id is '<pad>'",
        ),
        (lambda d: d["model"]["vocab"].update(zzz=FIRST), "'zzz' of id 701 is not there"),
        (lambda d: d["model"]["vocab"].update(zzz=690), "'zzz' of id 690 is"),
        (lambda d: d.update(normalizer={"type": "NFC"}), "normalizer"),
        (lambda d: d.update(decoder={"type": "Fuse"}), "its decoder is not Gemma's"),
        (lambda d: d.update(post_processor=template(EOS, TEXT)), "post_processor puts ['<eos>']"),
        (lambda d: d.update(post_processor={"type": "RobertaProcessing"}), "RobertaProcessing"),
        (
            lambda d: d.update(post_processor=template(BOS, TEXT, **{"<bos>": "2"})),
            "'<bos>' stands for the ids ['2']",
        ),
        # transformers merges by tokenizer.json, the runtimes by the scores of tokenizer.model.
        (lambda d: d["model"]["merges"].reverse(), "later than its score says"),
        (lambda d: d["model"].update(merges=d["model"]["merges"][:-200]), "no merge makes"),
        (lambda d: d["model"].update(end_of_word_suffix="</w>"), "has the end_of_word_suffix"),
    ],
)
def test_what_the_runtimes_do_not_do_is_refused_by_name(folder, document, change, reason):
    change(document)
    write(folder, "tokenizer.json", document)
    with pytest.raises(ArtifactError) as error:
        read_tokenizer(folder)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["added_tokens.json", "tokenizer_config.json"])
def test_files_that_disagree_are_refused(folder, document, name):
    write(folder, "tokenizer.json", document)
    entry = {k: v for k, v in token(FIRST, "<x>").items() if k != "id"}
    content = {
        "added_tokens.json": {"<x>": FIRST},
        "tokenizer_config.json": {"added_tokens_decoder": {str(FIRST): entry}},
    }[name]
    write(folder, name, content)
    with pytest.raises(ArtifactError, match=rf"{name}: added token '<x>' of id {FIRST} is not the"):
        read_tokenizer(folder)


def test_sample_texts_of_a_model_are_left_out(folder):
    path = folder / "tokenizer.model"
    before = path.read_bytes()
    path.write_bytes(before + b"\x22\x06\x0a\x04\x0a\x02hi")
    assert read_tokenizer(folder).model == before
