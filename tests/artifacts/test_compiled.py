from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gemma3_export.artifacts.compiled import CompiledStore, fingerprint, user_key

IDENTITY = {"host": "test", "cpu": "one"}
KEY, OTHER_KEY = b"k" * 32, b"o" * 32


@pytest.fixture
def places(tmp_path: Path) -> list[Path]:
    """Where the bundle keeps its compiled programs, and where the user does."""
    return [tmp_path / "bundle" / "compiled", tmp_path / "user" / "compiled"]


def store(places: list[Path], identity: dict[str, str] = IDENTITY, key: bytes = KEY):
    return CompiledStore(places, identity, key)


def index_of(place: Path) -> Path:
    return place / fingerprint(IDENTITY) / "index.json"


def edit_index(place: Path, change) -> None:
    value = json.loads(index_of(place).read_text())
    change(value)
    index_of(place).write_text(json.dumps(value))


def test_what_was_written_is_there_for_the_next_process(places: list[Path]):
    assert store(places).write("a.bin", b"code")
    assert store(places).read("a.bin") == b"code"
    assert store(places).read("b.bin") is None
    assert not places[1].exists()


def test_another_machine_does_not_see_it(places: list[Path]):
    store(places).write("a.bin", b"code")
    assert store(places, IDENTITY | {"cpu": "two"}).read("a.bin") is None


def test_the_last_of_two_writes_holds(places: list[Path]):
    store(places).write("a.bin", b"code")
    store(places).write("a.bin", b"better code")
    assert store(places).read("a.bin") == b"better code"


def test_what_another_user_wrote_is_neither_read_nor_touched(
    places: list[Path], caplog: pytest.LogCaptureFixture
):
    store(places, key=OTHER_KEY).write("a.bin", b"theirs")
    before = index_of(places[0]).read_bytes()
    ours = store(places)
    assert ours.read("a.bin") is None
    assert ours.write("a.bin", b"ours")
    assert store(places).read("a.bin") == b"ours"
    assert store(places, key=OTHER_KEY).read("a.bin") == b"theirs"
    assert index_of(places[0]).read_bytes() == before
    assert not caplog.records


def test_an_entry_that_changed_is_refused_said_once_and_made_anew(
    places: list[Path], caplog: pytest.LogCaptureFixture
):
    store(places).write("a.bin", b"code")
    file = index_of(places[0]).with_name("a.bin")
    file.write_bytes(b"evil")
    found = store(places)
    assert [found.read("a.bin"), found.read("a.bin")] == [None, None]
    assert [record.message for record in caplog.records] == [f"{file} is damaged: compiling again"]
    found.write("a.bin", b"code")
    assert store(places).read("a.bin") == b"code"


def test_an_entry_that_is_gone_is_made_anew(places: list[Path], caplog: pytest.LogCaptureFixture):
    store(places).write("a.bin", b"code")
    index_of(places[0]).with_name("a.bin").unlink()
    assert store(places).read("a.bin") is None
    assert len(caplog.records) == 1


def test_an_index_cannot_be_made_to_vouch_for_other_code(
    places: list[Path], caplog: pytest.LogCaptureFixture
):
    store(places).write("a.bin", b"code")
    index_of(places[0]).with_name("a.bin").write_bytes(b"evil")
    digest = hashlib.sha256(b"evil").hexdigest()
    edit_index(places[0], lambda value: value["entries"]["a.bin"].update(sha256=digest))
    assert store(places).read("a.bin") is None
    assert [record.message for record in caplog.records] == [
        f"{index_of(places[0])} is damaged: compiling again"
    ]


def test_an_index_of_another_machine_vouches_for_nothing(places: list[Path]):
    store(places, IDENTITY | {"cpu": "two"}).write("a.bin", b"code")
    index_of(places[0]).parent.parent.joinpath(fingerprint(IDENTITY | {"cpu": "two"})).rename(
        index_of(places[0]).parent
    )
    assert store(places).read("a.bin") is None


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"owner": 1}',
        b'{"owner": "OWNER", "version": 1}',
        b'{"owner": "OWNER", "version": 1, "entries": [], "mac": ""}',
        b'{"owner": "OWNER", "version": 1, "entries": {"a.bin": {}}, "mac": ""}',
        b'{"owner": "OWNER", "version": 1, "entries": {}, "mac": 7}',
        b'{"owner": "OWNER", "version": 1, "entries": {}, "mac": "\xc3\xa9"}',
    ],
)  # fmt: skip
def test_a_damaged_index_is_never_believed_and_stops_nothing(places: list[Path], content: bytes):
    store(places).write("a.bin", b"code")
    owner = hashlib.sha256(KEY).hexdigest()[:16].encode()
    index_of(places[0]).write_bytes(content.replace(b"OWNER", owner))
    assert store(places).read("a.bin") is None
    assert store(places).write("a.bin", b"code")
    assert store(places).read("a.bin") == b"code"


def test_an_index_that_is_no_file_is_not_followed(places: list[Path], tmp_path: Path):
    store(places).write("a.bin", b"code")
    index_of(places[0]).rename(tmp_path / "elsewhere.json")
    index_of(places[0]).symlink_to(tmp_path / "elsewhere.json")
    assert store(places).read("a.bin") is None


def test_where_the_bundle_cannot_be_written_the_user_keeps_it(places: list[Path]):
    places[0].parent.mkdir()
    places[0].write_text("a file where the folder would be")
    assert store(places).write("a.bin", b"code")
    assert (places[1] / fingerprint(IDENTITY) / "a.bin").exists()
    assert store(places).read("a.bin") == b"code"


def test_where_nothing_can_be_written_nothing_is_kept(places: list[Path]):
    for place in places:
        place.parent.mkdir()
        place.write_text("")
    assert not store(places).write("a.bin", b"code")


def test_a_link_out_of_the_bundle_is_not_written_through(places: list[Path], tmp_path: Path):
    (tmp_path / "precious").mkdir()
    places[0].parent.mkdir()
    places[0].symlink_to(tmp_path / "precious")
    store(places).write("a.bin", b"code")
    assert not list((tmp_path / "precious").iterdir())
    assert (places[1] / fingerprint(IDENTITY) / "a.bin").exists()


def test_what_a_dead_writer_left_is_removed(places: list[Path]):
    store(places).write("a.bin", b"code")
    folder = index_of(places[0]).parent
    (folder / ".partial-b.bin").write_bytes(b"half")
    store(places).write("c.bin", b"code")
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock", "a.bin", "c.bin", "index.json",
    ]  # fmt: skip


def _write(place: Path, number: int) -> None:
    for part in range(5):
        store([place]).write(f"{number}-{part}.bin", bytes([number, part]) * 1000)


def test_processes_that_write_at_once_keep_all_entries(places: list[Path]):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(places[0], number)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    for number in range(3):
        for part in range(5):
            found = store(places).read(f"{number}-{part}.bin")
            assert found == bytes([number, part]) * 1000


def test_the_code_of_an_index_is_what_format_md_says(places: list[Path]):
    store(places).write("b.bin", b"two")
    store(places).write("a.bin", b"one!")
    text = "".join(f"{name}={value}\n" for name, value in sorted(IDENTITY.items()))
    folder = hashlib.sha256(text.encode()).hexdigest()[:32]
    value = json.loads((places[0] / folder / "index.json").read_text())
    message = (
        f"gemma3-export compiled 1\n{folder}\n"
        f"a.bin 4 {hashlib.sha256(b'one!').hexdigest()}\n"
        f"b.bin 3 {hashlib.sha256(b'two').hexdigest()}\n"
    )
    assert value["mac"] == hmac.new(KEY, message.encode(), "sha256").hexdigest()
    assert value["owner"] == hashlib.sha256(KEY).hexdigest()[:16]
    assert value["identity"] == IDENTITY


def test_a_user_has_one_key_that_nobody_else_can_read(tmp_path: Path):
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(user_key, [tmp_path / "cache"] * 8))
    assert len(keys) == 1
    (key,) = keys
    assert key is not None
    assert len(key) == 32
    assert (tmp_path / "cache" / "key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["key"]
    assert user_key(tmp_path / "other") != key


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o606])
def test_a_key_that_others_could_read_is_of_no_use(tmp_path: Path, mode: int):
    user_key(tmp_path)
    (tmp_path / "key").chmod(mode)
    assert user_key(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_key_of_the_wrong_length_is_of_no_use(tmp_path: Path, content: bytes):
    user_key(tmp_path)
    (tmp_path / "key").write_bytes(content)
    assert user_key(tmp_path) is None


def test_without_a_place_for_the_key_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert CompiledStore.open(tmp_path, IDENTITY) is None
    (tmp_path / "gemma3-export").mkdir()
    (tmp_path / "gemma3-export" / "key").write_text("short")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert CompiledStore.open(tmp_path, IDENTITY) is None
    begin, none, short = "compiled programs cannot be kept: ", "no key can be made in", "expected a"
    assert [record.message[: len(begin + none)] for record in caplog.records] == [
        begin + none,
        f"{begin}{short} key in {tmp_path}"[: len(begin + none)],
    ]


def test_when_nothing_can_be_kept_that_is_said_once(
    places: list[Path], caplog: pytest.LogCaptureFixture
):
    for place in places:
        place.parent.mkdir()
        place.write_text("a file")
    found = store(places)
    assert [found.write("a.bin", b"code"), found.write("b.bin", b"code")] == [False, False]
    assert [record.message for record in caplog.records] == [
        f"compiled programs cannot be kept in {places[1] / fingerprint(IDENTITY)}"
    ]


def test_a_lock_that_is_never_released_is_not_waited_for_for_ever(
    places: list[Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gemma3_export.artifacts.compiled._LOCK_SECONDS", 0.1)
    store(places).write("a.bin", b"code")
    with (index_of(places[0]).parent / ".lock").open() as lock:  # to read it is enough
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert store(places).write("b.bin", b"code")
    assert (index_of(places[1]).parent / "b.bin").exists()


@pytest.mark.parametrize("name", ["a.bin", "index.json"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(places: list[Path], name: str):
    store(places).write("a.bin", b"code")
    path = index_of(places[0]).with_name(name)
    path.unlink()
    os.mkfifo(path)
    assert store(places).read("a.bin") is None


def test_the_key_is_in_the_cache_folder_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for configured, folder in (
        (tmp_path / "xdg", tmp_path / "xdg"),
        ("", tmp_path / "home" / ".cache"),
        ("not/absolute", tmp_path / "home" / ".cache"),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", str(configured))
        assert CompiledStore.open(tmp_path / "bundle", IDENTITY) is not None
        assert (folder / "gemma3-export" / "key").exists()
