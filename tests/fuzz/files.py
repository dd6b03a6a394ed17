"""Mutations of a package's files: of their bytes, of its manifest, and of what lies where."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

HUGE = 5 * 10**9


def model_file(package: Path) -> Path:
    """The specification of an unharmed package."""
    return next(package.rglob("model.mlmodel"))


def weight_file(package: Path) -> Path:
    """The weights of an unharmed package."""
    return next(package.rglob("weight.bin"))


def mutate_bytes(data: bytes, chance: random.Random) -> tuple[bytes, str]:
    """Flip, cut, insert, repeat or overwrite bytes."""
    array = bytearray(data)
    kind = chance.choice(["flip", "flip", "flip", "cut", "insert", "repeat", "zero", "truncate", "swap"])
    place = chance.randrange(len(array)) if array else 0
    length = chance.choice([1, 2, 4, 8, 64, 500])
    if kind == "flip":
        for _ in range(chance.choice([1, 1, 3, 20])):
            array[chance.randrange(len(array))] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del array[place : place + length]
    elif kind == "insert":
        array[place:place] = chance.randbytes(length)
    elif kind == "repeat":
        array[place:place] = array[place : place + length] * chance.choice([1, 10])
    elif kind == "zero":
        array[place : place + length] = bytes(length)
    elif kind == "truncate":
        del array[place:]
    else:
        other = chance.randrange(len(array))
        array[place : place + length], array[other : other + length] = (
            array[other : other + length],
            array[place : place + length],
        )
    return bytes(array), f"{kind} at {place}"


def mutate_weights(package: Path, chance: random.Random) -> str:
    """Any bytes, or a number of the file's header or of a record."""
    file = weight_file(package)
    data = bytearray(file.read_bytes())
    if chance.random() < 0.4:
        changed, done = mutate_bytes(bytes(data), chance)
        file.write_bytes(changed)
        return done
    records = [0] + [
        place for place in range(64, len(data) - 63, 64) if data[place : place + 4] == b"\xef\xbe\xad\xde"
    ]
    record = chance.choice(records)
    place, size = chance.choice([(0, "I"), (4, "I"), (8, "Q"), (16, "Q"), (24, "Q")])
    value = chance.choice([0, 1, 2, 3, 4, 14, 63, 64, 65, 255, 2**20, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
    if size == "I":
        value &= 2**32 - 1
    struct.pack_into(f"<{size}", data, record + place, value)
    file.write_bytes(data)
    return f"{value} at {place} of the record at {record}"


def mutate_manifest(package: Path, chance: random.Random) -> str:
    """Any bytes, or a value of any kind in any place."""
    file = package / "Manifest.json"
    if chance.random() < 0.3:
        changed, done = mutate_bytes(file.read_bytes(), chance)
        file.write_bytes(changed)
        return done
    if chance.random() < 0.25:
        text, done = chance.choice(_TEXTS)
        file.write_bytes(text)
        return done
    manifest = json.loads(file.read_text())
    entries = manifest["itemInfoEntries"]
    owner: Any = chance.choice([manifest, entries, *entries.values()])
    key = chance.choice(sorted(owner))
    value = chance.choice(_VALUES)
    if chance.random() < 0.2:
        del owner[key]
        done = f"{key!r} removed"
    else:
        owner[key] = value
        done = f"{key!r} = {value!r:.60}"
    file.write_text(json.dumps(manifest))
    return done


def _nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = {"itemInfoEntries": value}
    return value


_VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    10**400,
    1e308,
    "",
    ".",
    "..",
    "/",
    "/etc/passwd",
    "../../../x",
    "com.apple.CoreML",
    "com.apple.CoreML/weights",
    "com.apple.CoreML/weights/weight.bin",
    "nul\0",
    "\ud800",
    "n" * 300,
    "n/" * 3000,
    "\x1b[31m[red]",
    [],
    ["com.apple.CoreML/model.mlmodel"],
    {},
    _nested(50),
]

_TEXTS: list[tuple[bytes, str]] = [
    (b"", "empty"),
    (b"null", "null"),
    (b"[]", "a list"),
    (b'"x"', "a text"),
    (b"NaN", "NaN"),
    (b"[" * 100_000, "deep JSON"),
    (b'{"itemInfoEntries":' * 50_000, "deep manifest"),
    (b'{"rootModelIdentifier":' + b"[" * 5000 + b"]" * 5000 + b"}", "deep identifier"),
    (b"\xff\xfe{\x00}\x00", "UTF-16"),
    (b"\xef\xbb\xbf{}", "with a byte order mark"),
    (b"\x80\x81", "no UTF-8"),
    (b"9" * 10_000, "a long number"),
]


def mutate_files(package: Path, chance: random.Random) -> str:
    """What lies where: links, folders, missing and enormous files."""
    target = chance.choice(
        [
            package / "Manifest.json",
            package / "Data",
            model_file(package).parent,
            model_file(package),
            weight_file(package).parent,
            weight_file(package),
        ]
    )
    change = chance.choice(_CHANGES)
    return f"{target.name}: {change(package, target, chance)}"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _missing(package: Path, target: Path, chance: random.Random) -> str:
    _remove(target)
    return "missing"


def _folder(package: Path, target: Path, chance: random.Random) -> str:
    _remove(target)
    target.mkdir()
    return "an empty folder"


def _file(package: Path, target: Path, chance: random.Random) -> str:
    _remove(target)
    target.write_bytes(chance.choice([b"", b"x", bytes(4096)]))
    return "a file of something else"


def _loop(package: Path, target: Path, chance: random.Random) -> str:
    _remove(target)
    target.symlink_to(target.name)
    return "a link to itself"


def _two_loops(package: Path, target: Path, chance: random.Random) -> str:
    _remove(target)
    target.symlink_to("other")
    (target.parent / "other").symlink_to(target.name)
    return "two links to each other"


def _outside(package: Path, target: Path, chance: random.Random) -> str:
    elsewhere = package.parent / f"elsewhere_{target.name}"
    if elsewhere.exists():
        _remove(elsewhere)
    shutil.move(target, elsewhere)
    target.symlink_to(elsewhere)
    return "a link to outside"


def _device(package: Path, target: Path, chance: random.Random) -> str:
    _remove(target)
    device = chance.choice(["/dev/zero", "/dev/null", "/proc/self/mem", "/dev/stdin", "/proc/self/fd", "/"])
    target.symlink_to(device)
    return f"a link to {device}"


def _pipe(package: Path, target: Path, chance: random.Random) -> str:
    _remove(target)
    os.mkfifo(target)
    return "a named pipe"


def _upwards(package: Path, target: Path, chance: random.Random) -> str:
    link = target if target.is_dir() else target.parent / "up"
    if link == target:
        _remove(target)
    link.symlink_to(package.parent)
    return "a link to the folder around the package"


def _enormous(package: Path, target: Path, chance: random.Random) -> str:
    if target.is_dir():
        target = model_file(package) if chance.random() < 0.5 else package / "Manifest.json"
    os.truncate(target, chance.choice([HUGE, 2**31 - 1, 2**31, 2**40]))
    return f"{target.name} is enormous and sparse"


def _odd_names(package: Path, target: Path, chance: random.Random) -> str:
    folder = target if target.is_dir() else target.parent
    for name in (b"\xff\xfe", b"n" * 255, b"\x1b[31m", "猫".encode(), b"a\nb"):
        (folder / os.fsdecode(name)).write_bytes(b"x")
    deep = folder
    for _ in range(12):
        deep = deep / ("d" * 200)
    deep.mkdir(parents=True)
    return "beside files of odd names"


def _moved(package: Path, target: Path, chance: random.Random) -> str:
    target.rename(target.with_name(chance.choice(["x", "x.mlmodel", ".hidden", "Weights", "n" * 255])))
    return "renamed"


def _swapped(package: Path, target: Path, chance: random.Random) -> str:
    one, other = model_file(package), weight_file(package)
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    return "model and weights exchanged"


def _compiled(package: Path, target: Path, chance: random.Random) -> str:
    folder = package / chance.choice(["encryptionInfo", "coremldata.bin"])
    folder.symlink_to(folder.name) if chance.random() < 0.5 else folder.mkdir()
    return f"with {folder.name}"


_CHANGES: list[Callable[[Path, Path, random.Random], str]] = [
    _missing,
    _folder,
    _file,
    _loop,
    _two_loops,
    _outside,
    _device,
    _pipe,
    _upwards,
    _enormous,
    _odd_names,
    _moved,
    _swapped,
    _compiled,
]


def odd_path(package: Path, chance: random.Random) -> tuple[str, str]:
    """A path that a caller gives, which leads to no package, or oddly."""
    folder = package.parent
    (folder / "loop.mlpackage").symlink_to("loop.mlpackage")
    (folder / "zeros.mlmodel").write_bytes(bytes(100))
    os.truncate(folder / "zeros.mlmodel", HUGE)
    return chance.choice(
        [
            ("", "an empty path"),
            ("nul\0.mlpackage", "a path with NUL"),
            (f"{folder}/\ud800.mlpackage", "a path with a surrogate"),
            (f"{folder}/{'n' * 300}.mlpackage", "a name too long"),
            (f"{folder}/{'n/' * 3000}.mlpackage", "a path too long"),
            (f"{folder}/loop.mlpackage", "a loop"),
            (f"{folder}/zeros.mlmodel", "a single file of 5 GB"),
            (f"{package}/Manifest.json", "the manifest"),
            (f"{package}/Manifest.json/x", "a path below a file"),
            (f"{package}/Data", "a folder inside"),
            ("/dev/zero", "a device"),
            ("~nobody-of-this-name/x.mlpackage", "the home of nobody"),
            (f"{package}/../{package.name}", "a path with two dots"),
        ]
    )
