"""The names of the kernels: one set, in every place that has them."""

from __future__ import annotations

import re

from gemma3_export.artifacts.kernels import TARGET_NAME, TARGETS
from gemma3_export.model.lowering.forms import KERNEL_TARGETS

from ..native.library import ROOT


def test_the_exporter_and_both_runtimes_know_the_same_targets():
    native = (ROOT / "runtime" / "native" / "src" / "kernels.cc").read_text()
    table = native.split("kTargets[] = {")[1].split("};")[0]
    assert set(TARGETS) == set(KERNEL_TARGETS.values()) == set(re.findall(r'"(\w+)"', table))
    assert len(TARGETS) == len(set(TARGETS))
    assert all(map(TARGET_NAME.fullmatch, TARGETS))
