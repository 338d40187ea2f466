"""The rooms of CONTRIBUTING.md: who may import whom, and how many files a room holds."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_FILES = 20  # next to __init__.py
ROW = re.compile(r"^\| `([\w./]+?)/?` \| .+ \| (.+) \|$", re.MULTILINE)
ROOMS = dict(ROW.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))  # top first
ORDER = list(ROOMS)


def _room_of(path):
    folder = path.relative_to(ROOT).parent.as_posix()
    return path.name if folder == "." else folder


def _modules():
    tops = {room.partition("/")[0] for room in ROOMS}
    files = [file for top in tops for file in sorted(ROOT.glob(f"{top}/**/*.py"))]
    return {file: _room_of(file) for file in [ROOT / "main.py", *files]}


MODULES = _modules()
NAMES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): room
    for file, room in MODULES.items()
}


def _imported_rooms(source):
    """Rooms that a file imports from, also inside its functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            for alias in node.names:
                yield NAMES.get(f"{node.module}.{alias.name}") or NAMES.get(node.module)
        elif isinstance(node, ast.Import):
            yield from (NAMES.get(alias.name) for alias in node.names)


def _forbidden(room, other):
    """Whether the table lets a room import nothing from another one."""
    if other in (None, room):
        return False
    words = ROOMS[room]
    listed = re.findall(r"`([\w./]+?)/?`", words)
    inside = any(other == name or other.startswith(f"{name}/") for name in listed)
    is_below = ORDER.index(other) > ORDER.index(room)
    return not is_below or not (inside or words == "everything below")


def test_every_room_is_in_the_table_and_every_row_is_a_room():
    assert set(MODULES.values()) == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_the_table_lists_for_it_and_stands_below_it(room):
    upward = [
        f"{file.relative_to(ROOT)} imports {other}"
        for file, its in MODULES.items()
        if its == room
        for other in _imported_rooms(file.read_text(encoding="utf-8"))
        if _forbidden(room, other)
    ]
    assert not upward


def test_an_import_that_goes_upward_or_sideways_is_found():
    source = "from datamodules import scans\ndef f():\n    import commands.runs.run_folder"
    assert list(_imported_rooms(source)) == ["datamodules", "commands/runs"]
    assert _forbidden("datamodules/cache", "datamodules")
    assert _forbidden("lightning_modules", "datamodules")
    assert _forbidden("commands/runs", "commands/bundles")
    assert not _forbidden("commands/bundles", "commands/runs")


def test_no_room_holds_more_than_twenty_files():
    tests = {file: _room_of(file) for file in (ROOT / "tests").rglob("*.py")}
    files = [room for file, room in (MODULES | tests).items() if file.name != "__init__.py"]
    counts = {room: files.count(room) for room in files}
    assert {room: count for room, count in counts.items() if count > MOST_FILES} == {}
