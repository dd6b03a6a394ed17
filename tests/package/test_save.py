from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import coremltools as ct
import pytest
import torch

from lightning_compress.coreml.convert import convert
from lightning_compress.errors import ConfigurationError, PackageError
from lightning_compress.package import save
from lightning_compress.package.inspection import decompressed_weights
from lightning_compress.package.save import require_writable, save_package, write_whole


def linear_model(value: float) -> ct.models.MLModel:
    layer = torch.nn.Linear(16, 16)
    torch.nn.init.constant_(layer.weight, value)
    return convert(layer, torch.ones(1, 16), target=ct.target.iOS15)


@pytest.fixture(scope="module")
def old():
    return linear_model(1.0)


@pytest.fixture(scope="module")
def new():
    return linear_model(2.0)


def value_in(path) -> float:
    return float(decompressed_weights(path)["weight"].ravel()[0])


def test_a_package_is_written_with_the_folders_above_it(tmp_path, old):
    path = save_package(old, tmp_path / "a" / "b" / "net.mlpackage")
    assert path == tmp_path / "a" / "b" / "net.mlpackage"
    assert value_in(path) == 1.0
    assert os.listdir(path.parent) == ["net.mlpackage"]


def test_an_earlier_package_is_replaced_and_nothing_is_left_beside_it(tmp_path, old, new):
    path = save_package(old, tmp_path / "net.mlpackage")
    (path / "stray").touch()
    save_package(new, path)
    assert value_in(path) == 2.0
    assert not (path / "stray").exists()
    assert os.listdir(tmp_path) == ["net.mlpackage"]


def test_it_is_replaced_too_where_the_system_exchanges_no_folders(tmp_path, old, new, monkeypatch):
    monkeypatch.setattr(save, "_exchange", lambda *_: False)
    path = save_package(old, tmp_path / "net.mlpackage")
    save_package(new, path)
    assert value_in(path) == 2.0
    assert os.listdir(tmp_path) == ["net.mlpackage"]


def test_a_link_to_a_package_is_followed(tmp_path, old, new):
    real = save_package(old, tmp_path / "real" / "net.mlpackage")
    (tmp_path / "link.mlpackage").symlink_to(real)
    save_package(new, tmp_path / "link.mlpackage")
    assert value_in(real) == 2.0
    assert (tmp_path / "link.mlpackage").is_symlink()


class DiskFull:
    """A model whose writing fails midway."""

    def save(self, path):
        os.makedirs(path)
        with open(os.path.join(path, "Manifest.json"), "w") as file:
            file.write("{")
        raise OSError(28, "No space left on device")


def test_an_export_that_runs_out_of_space_leaves_the_earlier_package(tmp_path, old):
    path = save_package(old, tmp_path / "net.mlpackage")
    with pytest.raises(PackageError, match=r"net\.mlpackage.*No space left.*still in place"):
        save_package(DiskFull(), path)
    assert value_in(path) == 1.0
    assert os.listdir(tmp_path) == ["net.mlpackage"]


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from lightning_compress.package import save
    import coremltools as ct

    moment, source, destination = sys.argv[1:]
    model = ct.models.MLModel(source, skip_model_load=True)

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "while writing":
        original = model.save
        def half(path):
            original(path)
            next(Path(path).rglob("weight.bin")).write_bytes(b"torn")
            die()
        model.save = half
    elif moment == "before the exchange":
        save._replace = die
    elif moment == "after the exchange":
        save._flush_entry = lambda path: die() if Path(path) == Path(destination).parent else None
    elif moment == "between two renames":
        save._exchange = lambda *_: False
        rename = os.rename
        def one_rename(source, destination):
            rename(source, destination)
            die()
        os.rename = one_rename
    save.save_package(model, destination)
"""


@pytest.mark.parametrize(
    ("moment", "value"),
    [
        ("while writing", 1.0),
        pytest.param("before the exchange", 1.0, marks=pytest.mark.slow),
        pytest.param("between two renames", 1.0, marks=pytest.mark.slow),
        pytest.param("after the exchange", 2.0, marks=pytest.mark.slow),
    ],
)
def test_an_export_killed_at_any_moment_leaves_a_whole_package(tmp_path, old, new, moment, value):
    path = save_package(old, tmp_path / "out" / "net.mlpackage")
    source = save_package(new, tmp_path / "new.mlpackage")
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), moment, str(source), str(path)],
        capture_output=True,
        check=False,
    )
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()
    # The next run looks at its folder before it trains: that brings back a package that lost its name, and clears up.
    require_writable(path)
    assert value_in(path) == value
    assert os.listdir(path.parent) == ["net.mlpackage"]


def test_leftovers_of_other_packages_are_let_alone(tmp_path, old):
    other = tmp_path / ".other.mlpackage.1234.partial"
    other.mkdir()
    save_package(old, tmp_path / "net.mlpackage")
    assert other.exists()


def test_a_path_with_another_suffix_is_refused(tmp_path, old):
    with pytest.raises(
        ConfigurationError, match=r"net\.mlmodel' does not end in '\.mlpackage'; did you mean"
    ):
        save_package(old, tmp_path / "net.mlmodel")


def test_a_file_in_the_place_of_a_package_is_refused(tmp_path):
    (tmp_path / "net.mlpackage").write_text("mine")
    with pytest.raises(ConfigurationError, match="is a file"):
        require_writable(tmp_path / "net.mlpackage")


def test_a_folder_below_a_file_is_refused_naming_both(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigurationError, match=r"file/net\.mlpackage.*/file' cannot be written"):
        require_writable(tmp_path / "file" / "net.mlpackage")


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="needs Linux's /proc, which not even root can write")
def test_a_folder_that_cannot_be_written_is_refused():
    with pytest.raises(
        ConfigurationError, match=r"/proc/net\.mlpackage.*the folder '/proc' cannot be written"
    ):
        require_writable("/proc/net.mlpackage")


def test_asking_whether_a_folder_can_be_written_leaves_it_as_it_was(tmp_path):
    require_writable(tmp_path / "not" / "yet" / "net.mlpackage")
    assert list(tmp_path.iterdir()) == []


def test_a_package_has_the_permissions_of_any_new_folder(tmp_path, old):
    path = save_package(old, tmp_path / "net.mlpackage")
    plain = tmp_path / "plain"
    plain.mkdir()
    assert path.stat().st_mode == plain.stat().st_mode


class TestAFileThatIsWrittenWhole:
    def test_takes_the_place_of_the_old_one_in_a_folder_that_is_made(self, tmp_path):
        path = tmp_path / "run" / "job.json"
        for content in (b"old", b"new"):
            write_whole(path, content)
            assert path.read_bytes() == content
        assert [entry.name for entry in path.parent.iterdir()] == ["job.json"]

    def test_has_the_permissions_of_any_new_file(self, tmp_path):
        (tmp_path / "plain").write_text("")
        write_whole(tmp_path / "whole", b"")
        assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode

    def test_leaves_the_old_one_where_it_cannot_be_put(self, tmp_path):
        (tmp_path / "taken" / "by a folder").mkdir(parents=True)
        with pytest.raises(OSError, match="taken"):
            write_whole(tmp_path / "taken", b"new")
        assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]
