"""Commands that are told to end while they are busy: at once, with nothing left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
SETUP = """
import ctypes, os, signal, subprocess, sys, threading, time
from pathlib import Path
import click
sys.path.insert(0, {tests!r})
from gemma3_export.artifacts.errors import run_command
from gemma3_export.artifacts import interruption

folder = Path(sys.argv.pop())

def tell():
    print("busy", flush=True)

@click.command()
def command():
    work()
"""
# A call that gives up Python's lock and comes back after a minute, as one of a device would.
BUSY = "tell(); ctypes.CDLL(None).poll(None, 0, 60000)"


def start(work: str, folder: Path, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """A command that does `work`, which prints a line when it is busy."""
    code = SETUP.format(tests=str(Path(__file__).parent))
    lines = "".join(f"    {line}\n" for line in work.splitlines())
    code += f"def work():\n{lines}run_command(command)\n"
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", code, str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "busy\n", process.communicate()[1]
    return process


def end(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str, float]:
    """Status, what was said, and the seconds it took."""
    sent = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    return process.returncode, err, time.monotonic() - sent


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_call_that_does_not_come_back_is_not_waited_for(
    tmp_path: Path, number: signal.Signals, status: int
):
    code, err, took = end(start(BUSY, tmp_path), number)
    assert (code, err) == (status, "")
    assert took < 1


@pytest.mark.parametrize("name", ["export", "run", "bundle", "bench"])
def test_ctrl_c_while_a_command_is_still_imported_is_no_traceback(tmp_path: Path, name: str):
    (tmp_path / "click.py").write_text("import time\nprint('busy', flush=True)\ntime.sleep(60)\n")
    scripts = tomllib.loads(PROJECT.read_text())["project"]["scripts"]
    module, function = scripts[f"gemma3-{name}"].split(":")
    code = f"import sys; sys.path.insert(0, sys.argv[1]); from {module} import {function} as f; f()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "busy\n", process.communicate()[1]
    code, err, took = end(process, signal.SIGINT)
    assert (code, err) == (-signal.SIGINT, "")  # 130 for a shell
    assert took < 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_bundle_half_written_its_lock_and_whoever_writes_it_are_gone(
    tmp_path: Path, number: signal.Signals
):
    writes = tmp_path / "writes.py"
    writes.write_text(
        "import os, pathlib, sys\n"
        "pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\n"
        "for i in range(10**6): pathlib.Path(sys.argv[2], str(i)).write_bytes(bytes(10**5))\n"
    )
    work = (
        "from gemma3_export.artifacts.atomic import whole_file\n"
        "from gemma3_export.artifacts.writer import BundleWriter\n"
        "with BundleWriter(folder / 'b') as writer, whole_file(folder / 'f') as file:\n"
        "    file.write(b'half')\n"
        "    writer.add_file('programs/p', bytes(10**6))\n"
        "    pid = folder.parent / 'pid'\n"
        "    def tell_when_it_writes():\n"
        "        while not pid.exists() or not pid.read_text(): time.sleep(0.05)\n"
        "        tell()\n"
        "    threading.Thread(target=tell_when_it_writes, daemon=True).start()\n"
        f"    command = [sys.executable, {str(writes)!r}, str(pid)]\n"
        "    interruption.run_child([*command, str(writer.root)])\n"
        "    print('came back', file=sys.stderr)\n"
    )
    place = tmp_path / "place"
    place.mkdir()
    process = start(work, place)
    names = {path.name for path in place.iterdir()}
    assert names == {f".b.partial-{process.pid}", f".f.partial-{process.pid}", ".b.lock"}
    code, err, took = end(process, number)
    assert (code, err) == (128 + number, "")
    assert took < 2
    assert list(place.iterdir()) == []
    child = int((tmp_path / "pid").read_text())
    assert not Path(f"/proc/{child}").exists()


def test_a_writer_that_goes_on_meanwhile_brings_nothing_back(tmp_path: Path):
    work = (
        "from gemma3_export.artifacts.writer import BundleWriter\n"
        "with BundleWriter(folder / 'b') as writer:\n"
        "    tell()\n"
        "    for number in range(10**6):\n"
        "        writer.add_file(f'programs/{number}/p', b'')\n"
    )
    for _ in range(3):
        code, err, _ = end(start(work, tmp_path), signal.SIGTERM)
        assert (code, err) == (143, "")
        assert list(tmp_path.iterdir()) == []


def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path):
    process = start("tell(); time.sleep(1.5)", tmp_path, ("nohup",))
    process.send_signal(signal.SIGHUP)
    assert process.wait(30) == 0
    process.communicate()


def test_the_handlers_of_a_caller_come_back(monkeypatch: pytest.MonkeyPatch):
    from gemma3_export.artifacts.interruption import SIGNALS, interruptible

    before = [signal.getsignal(number) for number in SIGNALS]
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_worker_processes_end_with_the_command_and_say_nothing(tmp_path: Path):
    module = tmp_path / "pool.py"
    module.write_text(
        "import multiprocessing, os, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from gemma3_export.export.workers import start_worker\n"
        "def busy(path):\n"
        "    open(path, 'a').write(f'{os.getpid()} ')\n"
        "    time.sleep(60)\n"
        "def run(path, tell):\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    with ProcessPoolExecutor(2, context, initializer=start_worker) as pool:\n"
        "        waiting = pool.map(busy, [path, path])\n"
        "        while not os.path.exists(path) or len(open(path).read().split()) < 2:\n"
        "            time.sleep(0.01)\n"
        "        tell()\n"
        "        list(waiting)\n"
    )
    work = f"sys.path.insert(0, {str(tmp_path)!r})\nimport pool\npool.run(str(folder / 'p'), tell)"
    code, err, took = end(start(work, tmp_path), signal.SIGTERM)
    assert (code, err) == (143, "")
    assert took < 1
    deadline = time.monotonic() + 5
    pids = (tmp_path / "p").read_text().split()
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)
