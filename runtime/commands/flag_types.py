"""Numbers on a command line, read as gemma3-host reads them: plain digits and 64 bits."""

from __future__ import annotations

import re
from typing import Any

import click

from ...artifacts.errors import UsageError

_WHOLE = re.compile(r"\s*[+-]?[0-9]+\s*")
_NUMBER = re.compile(
    r"\s*[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|inf|infinity|nan)\s*", re.I
)
_MOST_DIGITS = 19  # of 64 bits; Python would take thousands


def is_whole(text: str) -> bool:
    """Whether `text` is a whole number in ASCII digits, of any length."""
    return _WHOLE.fullmatch(text) is not None


class _Whole(click.ParamType):
    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if not is_whole(value):
            self.fail(f"{value!r} is not a valid integer.", param, ctx)
        text = value.strip()
        number = int(text) if len(text.lstrip("+-").lstrip("0")) <= _MOST_DIGITS else 2**63
        if not -(2**63) <= number < 2**63:
            flag = param.opts[0] if param is not None else "number"
            raise UsageError(f"{flag}: expected an integer of 64 bits, got {text}")
        return number


class _Number(click.ParamType):
    name = "float"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        if _NUMBER.fullmatch(value) is None:
            self.fail(f"{value!r} is not a valid float.", param, ctx)
        return float(value)


WHOLE, NUMBER = _Whole(), _Number()
