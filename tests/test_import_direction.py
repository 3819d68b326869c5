"""Who may import whom: artifacts <- nothing, model <- nothing, export <- model, artifacts,
runtime <- artifacts. Read from the sources, so that an import inside a function counts too."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "gemma3_export"
MAY_IMPORT = {
    "artifacts": {"artifacts"},
    "model": {"model"},
    "export": {"export", "model", "artifacts"},
    "runtime": {"runtime", "artifacts"},
}
# The rooms of a package, lowest first: each may import itself and those of the lines before its
# own. A room is a folder; MODULES are the files beside the folders, CONFIG those of model that say
# what it is.
MODULES, CONFIG = "modules", "config"
CONFIG_FILES = {"config", "config_fields", "config_rope", "sharding", "vision_config"}
ROOMS = {
    "model": ({CONFIG}, {"lowering"}, {MODULES}, {"pure"}, {"api"}),
    "artifacts": ({MODULES}, {"inspect", "serving"}),
    "runtime": (
        {"text"}, {"loading"}, {"images"}, {"requests"}, {"serving", "checks", "api"},
        {"commands"},
    ),
}  # fmt: skip
# What only the build machine has.
BUILD_ONLY = {"flax", "tensorflow", "orbax", "gguf", "torch", "transformers"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path, tree: ast.AST) -> Iterator[str]:
    """Absolute names of the modules that the nodes of `tree` import, relative ones resolved."""
    package = [PACKAGE, *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, node.module] if node.module else base)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def at_import_time(tree: ast.Module) -> ast.Module:
    """The statements that importing the module runs: no function bodies, no TYPE_CHECKING."""

    class Prune(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
            if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                return [self.visit(statement) for statement in node.orelse]
            return self.generic_visit(node)

    return Prune().visit(tree)


@functools.cache
def everything_imported(package: str) -> dict[str, set[str]]:
    return {
        str(path.relative_to(ROOT)): set(imports(path, ast.parse(path.read_bytes())))
        for path in sources(package)
    }


def inside(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_only_in_the_allowed_direction(package: str):
    found = everything_imported(package)
    assert len(found) > 5
    strangers = [
        (path, name)
        for path, names in found.items()
        for name in sorted(names)
        if name.startswith(f"{PACKAGE}.")
        and not any(inside(name, f"{PACKAGE}.{allowed}") for allowed in MAY_IMPORT[package])
    ]
    assert strangers == []


def room_of(package: str, name: str) -> str:
    """The room of a module, or of a name in one, of the package."""
    first = name.removeprefix(f"{PACKAGE}.{package}.").split(".")[0]
    if (ROOT / package / first).is_dir():
        return first
    return CONFIG if package == "model" and first in CONFIG_FILES else MODULES


@pytest.mark.parametrize("package", ROOMS)
def test_no_room_imports_one_above_it(package: str):
    """Also inside functions: an arrow upwards that is hidden is still one."""
    height = {room: line for line, rooms in enumerate(ROOMS[package]) for room in rooms}
    strangers: list[tuple[str, str]] = []
    seen: set[str] = set()
    for path, names in everything_imported(package).items():
        if path.endswith("/__init__.py") or "/native/" in path:
            continue
        own = room_of(package, f"{PACKAGE}.{path.removesuffix('.py').replace('/', '.')}")
        seen.add(own)
        for name in names:
            if name.startswith(f"{PACKAGE}.{package}."):
                there = room_of(package, name)
                if there != own and height[there] >= height[own]:
                    strangers.append((path, name))
    assert strangers == []
    assert seen == set(height)


def test_no_export_needs_what_people_call():
    for path, names in everything_imported("export").items():
        assert not [name for name in names if inside(name, f"{PACKAGE}.model.api")], path


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_our_own_packages_are_imported_relatively(package: str):
    """Installed as gemma3_export.<package>; bare `model` or `export` would be somebody else's."""
    for path in sources(package):
        for node in ast.walk(ast.parse(path.read_bytes())):
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                named = [node.module or ""]
            for name in named:
                assert name.split(".")[0] not in {PACKAGE, *MAY_IMPORT}, path


@pytest.mark.parametrize("package", ["runtime", "artifacts"])
def test_what_only_the_build_machine_has_is_not_imported_where_bundles_run(package: str):
    for path, names in everything_imported(package).items():
        assert not {name.split(".")[0] for name in names} & BUILD_ONLY, path


def test_reading_a_manifest_needs_no_jax():
    for path in sources("artifacts"):
        names = imports(path, at_import_time(ast.parse(path.read_bytes())))
        assert not {name.split(".")[0] for name in names} & {"jax", "jaxlib"}, path


def test_the_scan_sees_every_way_to_import():
    """Guards the tests above: a scan that finds nothing would let everything through."""
    text = (
        "import a.b, c\nfrom d import e\nfrom . import f\nfrom ..model.text import g\n"
        "from ...artifacts import h\nif TYPE_CHECKING:\n    import i\n"
        "def function():\n    import j\nclass K:\n    import k\n"
    )
    path = ROOT / "export" / "checkpoint" / "some.py"
    found = set(imports(path, ast.parse(text)))
    assert {"a.b", "c", "d.e", "i", "j", "k"} <= found
    assert f"{PACKAGE}.export.checkpoint.f" in found
    assert f"{PACKAGE}.export.model.text.g" in found
    assert f"{PACKAGE}.artifacts.h" in found
    at_import = set(imports(path, at_import_time(ast.parse(text))))
    assert found - at_import == {"i", "j"}
