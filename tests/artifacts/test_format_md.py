"""FORMAT.md is what other implementers go by: its tables must say what the code does."""

import dataclasses
import inspect
import re
from importlib import resources

import pytest
from gemma3_export.artifacts import goldens, layout, manifest
from gemma3_export.artifacts.convention import (
    ATTENTIONS,
    SCORE_OUTPUTS,
    STOP_TOKENS,
    Port,
    ScoreExtras,
    program_inputs,
    program_outputs,
    sampling_inputs,
)
from gemma3_export.artifacts.manifest import FORMAT_VERSION, Bucket, ProgramName, VisionRecord

TEXT = (resources.files("gemma3_export.artifacts") / "FORMAT.md").read_text()
RECORDS = [
    record
    for module in (manifest, layout, goldens)
    for _, record in inspect.getmembers(module, dataclasses.is_dataclass)
    if isinstance(record, type) and record.__module__ == module.__name__
]
SIZES = {
    "B": 3, "T": 5, "V": 7, "C": 2, "E": 6, "N": 3, "M": 5, "D": 11, "I": 13, "3": 3, "B*T": 15,
    "L": 4, "L+1": 5, "Q": 8, "P": 16,
    str(STOP_TOKENS): STOP_TOKENS,
}  # fmt: skip
VISION = VisionRecord(
    SIZES["I"], "RGB", (0.5,) * 3, (0.5,) * 3, SIZES["M"], SIZES["D"], 250, 252, 251
)


def table(heading: str) -> list[list[str]]:
    """The rows, without the head, of the first table under a heading."""
    section = re.split(r"\n#+ ", TEXT.split(f"\n### {heading}\n", 1)[1], maxsplit=1)[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def ports(heading: str) -> tuple[Port, ...]:
    """The tensors of a table, with numbers for its letters."""
    return tuple(
        Port(
            name.strip("`"), tuple(SIZES[size] for size in shape.strip("[]").split(",")), dtype,
            float(neutral[0]) if len(neutral) > 1 else None,
        )
        for name, dtype, shape, *neutral in table(heading)
    )  # fmt: skip


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_field_of_the_manifest_is_in_its_table_and_no_other(record: type):
    assert [row[0].strip("`") for row in table(record.__name__)] == [
        field.name for field in dataclasses.fields(record)
    ]


@pytest.mark.parametrize("program", ProgramName)
def test_programs_take_and_give_what_their_tables_say(program: ProgramName):
    bucket = Bucket(program, SIZES["B"], SIZES["T"], 16)
    drawing = program in (
        ProgramName.PREFILL, ProgramName.PREFILL_IMAGES, ProgramName.DECODE, ProgramName.GENERATE,
    )  # fmt: skip
    sampling = ports("sampling inputs") if drawing else ()
    assert ports(f"{program} inputs") + sampling == program_inputs(bucket, VISION)
    assert ports(f"{program} outputs") == program_outputs(
        bucket, SIZES["V"], SIZES["C"], SIZES["E"], VISION
    )


def test_further_score_outputs_are_what_their_table_says():
    bucket = Bucket(ProgramName.SCORE, SIZES["B"], SIZES["T"], SIZES["P"])
    extras = ScoreExtras(SCORE_OUTPUTS, SIZES["L"], SIZES["D"], SIZES["Q"])
    _, *further = program_outputs(bucket, SIZES["V"], extras=extras)
    assert ports("further score outputs") == tuple(further)
    assert tuple(port.name for port in further) == SCORE_OUTPUTS
    _, *one = program_outputs(bucket, SIZES["V"], extras=extras._replace(names=(ATTENTIONS,)))
    assert one == further[1:]


def test_sampling_inputs_are_what_their_table_says():
    assert ports("sampling inputs") == sampling_inputs(SIZES["B"])


def test_log_of_versions_ends_with_the_current_one_and_has_dates():
    rows = re.findall(r"^\| (\d+) \| (\d{4}-\d\d-\d\d) \|", TEXT, re.MULTILINE)
    assert [int(version) for version, _ in rows] == list(range(1, FORMAT_VERSION + 1))
    dates = [date for _, date in rows]
    assert dates == sorted(dates)
