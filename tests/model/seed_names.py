"""Derives seed_names.txt from the two documentation pages of EasyDeL's Gemma 3.

    python -m tests.model.seed_names CONFIGURATION.txt MODELING.txt > tests/model/seed_names.txt

The pages are what Sphinx makes of docstrings, saved as text: a signature is a line that ends with
`#`, parameters are bullets. Derived are classes, members, their parameters and defaults, keys and
choices that a bullet describes, what is returned by name, and functions that the prose says are
called. Nothing is left out by hand: the test of model/README.md wants a row for every line.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Name(NamedTuple):
    """A line of seed_names.txt: `name`, `default` and `annotation` between tabs."""

    name: str
    """Class, member and parameter, between dots."""
    default: str = ""
    annotation: str = ""


_SIGNATURE = re.compile(
    r"(?P<kind>class |static |classmethod |property )?(?P<path>[\w.]+)"
    r"(?:\((?P<parameters>.*)\).*?|(?:: (?P<annotation>[^=]+))?(?: = (?P<default>.*))?)#"
)
_BULLET = re.compile(r"  • [`”]?(?P<name>\w+)[”`]?(?: \((?P<type>.*?)\))?")
_KEY = re.compile(r"    (?P<name>\w+) \((?P<type>[^)]*)\):$")
_ITEM = re.compile(r"(?P<name>\w+) \((?P<type>.*)\):$")
_CALLED = re.compile(r"(?:using|through|calls|to) ((?:[A-Z]\w+\.)?[a-z]+(?:_[a-z]+)+)\b")
_CHOICES = re.compile(r"one of \[(.*?)\]")
_DEFAULT = re.compile(r"it defaults to (?P<value>\d+)\.")
_ATTRIBUTE = re.compile(r"(?<!\w)(_\w+): (\S+)")
_CLASS = re.compile(r"\b[A-Z]\w+(?:Config|Cache|CheckPointers)\b")


def derive(page: str) -> Iterator[Name]:
    """Every name of a page, in its order; a name may come more than once."""
    owner = member = bullet = key = ""
    for line in page.splitlines():
        if signature := _SIGNATURE.fullmatch(line.replace("[source]", "").strip()):
            name = signature["path"].rpartition(".")[2]
            owner, member = (name, "") if signature["kind"] == "class " else (owner, name)
            bullet = key = ""
            if owner:
                yield from _of_signature(f"{owner}.{member}".rstrip("."), signature)
            continue
        inside = f"{owner}.{member}".rstrip(".")
        if not owner:  # the page's own heading
            continue
        if line.startswith("Example:"):
            yield Name(f"{inside}.Example")
        if match := _BULLET.match(line):
            bullet, key = f"{inside}.{match['name']}", ""
            yield Name(bullet, annotation=match["type"] or "")
        elif match := _ITEM.match(line):
            yield Name(f"{inside}.{match['name']}", annotation=match["type"])
        elif bullet and (match := _KEY.match(line)):
            key = f"{bullet}.{match['name']}"
            yield Name(key, annotation=match["type"])
            continue
        if key and (match := _DEFAULT.search(line)):
            yield Name(key, match["value"])
        yield from _of_prose(owner, key or bullet, line)


def _of_signature(name: str, signature: re.Match[str]) -> Iterator[Name]:
    """A class, member or attribute, and its parameters."""
    default, annotation = signature["default"] or "", signature["annotation"] or ""
    yield Name(name, "" if "<" in default else default, annotation)
    yield from (Name(known) for known in _CLASS.findall(annotation))
    if not signature["parameters"]:
        return
    function = ast.parse(f"def f({signature['parameters']}): ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    arguments = function.args
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    for argument, value in zip(plain, defaults, strict=True):
        told = ast.unparse(argument.annotation) if argument.annotation else ""
        default = ast.unparse(value) if value else ""
        yield Name(f"{name}.{argument.arg}", default, told)
        yield from (Name(known) for known in _CLASS.findall(told))
        if re.fullmatch(r"[A-Z]\w+\.[A-Z]+", default):
            yield Name(default)
    for stars, rest in (("*", arguments.vararg), ("**", arguments.kwarg)):
        if rest:
            yield Name(f"{name}.{stars}{rest.arg}")


def _of_prose(owner: str, about: str, line: str) -> Iterator[Name]:
    """What a line of text names, which is about a parameter or a key of one."""
    for called in _CALLED.findall(line):
        yield Name(called if "." in called else f"{owner}.{called}")
    for name, value in _ATTRIBUTE.findall(line):
        yield Name(f"{owner}.{name}", value.strip("“”"))
    for choices in _CHOICES.findall(line):
        yield from (Name(f"{about}.{choice}") for choice in re.findall(r"\w+", choices))


def merged(names: Iterator[Name]) -> list[Name]:
    """Each name once, where it first comes, with the default and annotation it has anywhere."""
    found: dict[str, Name] = {}
    for one in names:
        old = found.get(one.name, one)
        found[one.name] = Name(
            one.name, old.default or one.default, old.annotation or one.annotation
        )
    return list(found.values())


def read() -> list[Name]:
    """The names of seed_names.txt."""
    lines = (Path(__file__).parent / "seed_names.txt").read_text().splitlines()
    return [Name(*line.split("\t")) for line in lines if not line.startswith("#")]


def main() -> None:
    """Print the names of the pages whose paths are the arguments."""
    pages = [Path(path).read_text() for path in sys.argv[1:]]
    digest = hashlib.sha256("".join(pages).encode()).hexdigest()
    print(f"# Derived by seed_names.py from pages of sha256 {digest}")
    for name in merged(name for page in pages for name in derive(page)):
        print("\t".join(name))


if __name__ == "__main__":
    main()
