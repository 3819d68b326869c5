"""Writers killed at every step they take in the file system."""

import subprocess
import sys
from pathlib import Path

import pytest

# Runs without jax, so that forking is cheap and safe. Each child counts the audited steps of
# the writer (open, mkdir, rename, remove ...) and kills itself before step number `moment`.
KILLER = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import conftest
from gemma3_export.artifacts import atomic
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.errors import ArtifactError

mode, folder = sys.argv[1], Path(sys.argv[2])
force = mode != "new"
STEPS = {{"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "fcntl.flock",
         "shutil.rmtree", "ctypes.dlsym"}}
conftest.MESHES, conftest.BUCKETS = conftest.MESHES[:1], conftest.BUCKETS[:1]
os.fsync = lambda descriptor: None  # keeps the test quick; a killed process loses no writes
if mode == "rename":
    atomic.exchange = lambda first, second: False

def write(out, program):
    conftest.write_tiny_bundle(out, force, program)

def die_at(moment):
    seen = 0
    def count(event, arguments):
        nonlocal seen
        if event in STEPS:
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
    sys.addaudithook(count)

def killed(out, moment):
    child = os.fork()
    if child == 0:
        die_at(moment)
        write(out, b"new")
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])

def program_of(out):
    bundle = Bundle.open(out)
    bundle.verify()
    return bundle.path("programs/1x1/cpu/prefill-b2-t4-c16.mlirbc").read_bytes()

results, moment = set(), 0
while True:
    out = folder / f"{{moment}}" / "bundle"
    if force:
        write(out, b"old")
    if not killed(out, moment):
        break
    try:
        results.add(program_of(out).decode())
    except ArtifactError as error:
        assert not out.exists(), error
        results.add("nothing")
    conftest.write_tiny_bundle(out, force or out.exists(), b"again")
    assert program_of(out) == b"again"
    assert os.listdir(out.parent) == ["bundle"], os.listdir(out.parent)
    moment += 1
print(moment, *sorted(results))
"""


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("new", ["new", "nothing"]),
        ("exchange", ["new", "old"]),
        ("rename", ["new", "nothing", "old"]),
    ],
)
def test_a_writer_killed_at_any_step_leaves_the_old_bundle_the_new_one_or_nothing(
    tmp_path: Path, mode: str, expected: list[str]
):
    """`nothing` with force only where names cannot be exchanged; the next run brings it back."""
    script = KILLER.format(tests=str(Path(__file__).parent))
    run = subprocess.run(
        [sys.executable, "-c", script, mode, str(tmp_path)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    moments, *results = run.stdout.split()
    assert results == expected
    assert int(moments) > 25
