"""Every machine with the versions of record.json comes to the same bytes, file by file."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from . import record
from .exporting import contents, start_elsewhere, start_export


@pytest.mark.filterwarnings("default:record.json is of other versions:UserWarning")
@pytest.mark.parametrize("name", record.EXPORTS)
def test_an_export_has_the_bytes_on_record(name: str, checkpoint: Path, tmp_path: Path):
    """With other versions it has those of another export, made as on another machine."""
    run = start_export(checkpoint, tmp_path / "here", *record.EXPORTS[name])
    _, err = run.communicate(timeout=300)
    assert (run.returncode, err) == (0, ""), err
    found = contents(tmp_path / "here" / "bundle")
    kept = json.loads(record.RECORD.read_text())
    if others := record.differing(kept["versions"]):
        warnings.warn(
            f"record.json is of other versions ({others}): two exports of this machine were "
            f"compared instead; {record.COMMAND} records those",
            stacklevel=1,
        )
        assert found == export_elsewhere(checkpoint, tmp_path, name)
    else:
        expected = kept["exports"][name]
        changed = [path for path in expected | found if expected.get(path) != found.get(path)]
        assert not changed, (
            f"{len(changed)} files of the {name} export are not as recorded by the same versions "
            f"({kept['versions']}), first {changed[0]}. If what is exported was changed on "
            f"purpose, run {record.COMMAND}; if not, machines differ"
        )


def export_elsewhere(checkpoint: Path, folder: Path, name: str) -> dict[str, str]:
    run = start_elsewhere(checkpoint, folder / "other", *record.EXPORTS[name], "--jobs", "2")
    _, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    return contents(folder / "other" / "down" / "bundle")


def test_the_record_names_the_versions_that_differ():
    here = record.versions()
    assert record.differing(here) == ""
    assert record.differing(here | {"jax": "0.9.0"}) == f"jax {here['jax']} instead of 0.9.0"
    older = {name: version for name, version in here.items() if name != "numpy"}
    assert record.differing(older) == f"numpy {here['numpy']} instead of none"
