"""`lightning-compress profile` where Core ML does not run: the folder to carry, and what comes back from it.

Core ML runs on macOS alone, so a stand-in predicts in the place of its model, here and nowhere else; packages, inputs,
files and the script are the real ones.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lightning_compress import CoreMLExport
from lightning_compress.commands.profile import run
from lightning_compress.coreml import ImageInput
from lightning_compress.coreml.post_training import palettize_package
from lightning_compress.coreml.verification import coreml_is_available
from lightning_compress.errors import CompressionError, ConfigurationError
from lightning_compress.explore.profiling.on_device import UNITS
from lightning_compress.explore.record import Candidate, Exploration, Question, read_record, write_record
from lightning_compress.package.save import save_package
from lightning_compress.package.sizes import package_bytes

pytestmark = pytest.mark.skipif(coreml_is_available(), reason="these are of systems without Core ML")

ON_A_MAC = """
import sys
from pathlib import Path

# A Mac has only coremltools and numpy.
sys.modules["lightning_compress"] = sys.modules["torch"] = None
import profile_packages as script

folder = Path(script.__file__).parent
request = script.json.loads((folder / script.REQUEST).read_text())
samples = script.read_samples(folder / script.INPUTS, request["inputs"])

def load(path, unit):
    if unit == "CPU_AND_NE":
        raise RuntimeError("no Neural Engine")
    assert (path / "Manifest.json").is_file()
    return (lambda values: float(len(values))), {"CPU": 3}

script.write_profile(script.profile(folder, request, samples, load, "a Mac"), folder / script.PROFILE)
"""
"""The carried script, with a stand-in for Core ML."""


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two real packages of one network."""
    folder = tmp_path_factory.mktemp("packages")
    torch.manual_seed(0)
    export = CoreMLExport(
        folder / "float16.mlpackage",
        image=ImageInput(scale=1 / 255),
        card=False,
        verify=False,
        minimum_deployment_target="iOS18",
    )
    export.run(Network().eval(), torch.zeros(1, 3, 16, 16))
    (model,) = palettize_package(folder / "float16.mlpackage", [4]).values()
    save_package(model, folder / "kmeans_4.mlpackage")
    return folder


def searched(made: Path, folder: Path) -> Path:
    """The folder of a search that has chosen the smaller one."""
    candidates = []
    for name, rung, value in (("float16", "float16", 0.9), ("kmeans/4", "kmeans", 0.89)):
        file = f"{name.replace('/', '_')}.mlpackage"
        folder.mkdir(exist_ok=True)
        (folder / file).symlink_to(made / file)
        count = package_bytes(made / file)
        candidates.append(Candidate(name, rung, {}, file, count, count - 2000, value, 0.9 - value, True))
    found = Exploration(Question("val/acc", max_drop=0.02), "abc", (), candidates, chosen="kmeans/4")
    write_record(found, folder / "explore.json")
    return folder


@pytest.fixture
def search(made, tmp_path) -> Path:
    """The folder of a search."""
    return searched(made, tmp_path / "search")


@pytest.fixture(scope="module")
def brought_back(made, configure, tmp_path_factory) -> str:
    """What the script wrote in a folder that was carried to a Mac."""
    folder = searched(made, tmp_path_factory.mktemp("carried") / "search")
    run(configure(f"folder='{folder}'", "repetitions=7", "units=[ALL,CPU_AND_NE]", command="profile"))
    there = folder / "profile"
    subprocess.run([sys.executable, "-c", ON_A_MAC], cwd=there, check=True, timeout=100)
    return (there / "profile.json").read_text()


@pytest.fixture
def carried(brought_back, tmp_path) -> Path:
    """A folder with that."""
    (tmp_path / "profile.json").write_text(brought_back)
    return tmp_path


def read_back(configure, search: Path, carried: Path, **changes: object) -> None:
    path = carried / "profile.json"
    if changes:
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    run(configure(f"folder='{search}'", f"results='{path}'", command="profile"))


def test_elsewhere_a_folder_is_made_and_what_to_do_with_it_is_said(search, configure, capsys):
    run(configure(f"folder='{search}'", command="profile"))
    folder = search / "profile"
    request = json.loads((folder / "request.json").read_text())
    assert [package["name"] for package in request["packages"]] == ["float16", "kmeans/4"]
    assert request["units"] == list(UNITS)
    for package in request["packages"]:
        assert package_bytes(folder / package["path"]) == package["bytes"]
    with np.load(folder / "inputs.npz") as archive:
        assert archive["0"].shape == (4, 16, 16, 3)
        assert archive["0"].dtype == np.uint8
        assert archive["0"].std() > 10
    out = capsys.readouterr().out
    assert "python profile_packages.py" in out
    assert "results=profile.json" in out


def test_the_script_says_where_core_ml_does_not_run(search, configure):
    run(configure(f"folder='{search}'", command="profile"))
    result = subprocess.run(
        [sys.executable, "profile_packages.py"],
        cwd=search / "profile",
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 1
    assert "Core ML runs on macOS alone" in result.stderr
    assert not (search / "profile" / "profile.json").exists()


def test_what_a_mac_has_found_stands_in_the_search_and_its_report(search, carried, configure, capsys):
    read_back(configure, search, carried)
    found = read_record(Exploration, search / "explore.json")
    for candidate in found.candidates:
        (timing,) = candidate.timings
        assert (timing.unit, timing.device) == ("ALL", "a Mac")
        assert (timing.milliseconds, timing.repetitions) == (1.0, 7)
        assert timing.placement == {"CPU": 3}
    assert "Measured by Core ML on a Mac" in (search / "report.html").read_text()
    assert "1.00 ms (3 on CPU)" in (search / "results.md").read_text()
    out = capsys.readouterr().out
    assert "kmeans/4 was not timed on CPU_AND_NE: RuntimeError: no Neural Engine" in out


def test_on_macos_the_same_script_times_at_once(search, configure, monkeypatch, capsys):
    asked: list[tuple[str, str]] = []

    def load(path, unit):
        assert (path / "Manifest.json").is_file()
        asked.append((path.name, unit))

        def predict(values):
            (picture,) = values.values()
            assert picture.size == (16, 16)
            return 4.0 if unit == "CPU_ONLY" else 1.5

        return predict, {"CPU": 3}

    monkeypatch.setattr("lightning_compress.commands.profile.coreml_is_available", lambda: True)
    monkeypatch.setattr("lightning_compress.commands.profile.load_in_coreml", load)
    run(configure(f"folder='{search}'", command="profile"))
    assert asked == [(file, unit) for file in ("float16.mlpackage", "kmeans_4.mlpackage") for unit in UNITS]
    for candidate in read_record(Exploration, search / "explore.json").candidates:
        assert [timing.milliseconds for timing in candidate.timings] == [1.5, 1.5, 1.5, 4.0]
    assert not (search / "profile").exists()
    assert "4.00 ms (3 on CPU)" in capsys.readouterr().out


def test_a_second_device_is_added_and_a_second_time_of_one_replaces_the_first(search, carried, configure):
    read_back(configure, search, carried)
    text = (carried / "profile.json").read_text()
    (carried / "profile.json").write_text(text.replace('"a Mac"', '"another"').replace("1.0", "2.5"))
    read_back(configure, search, carried)
    read_back(configure, search, carried)
    timings = read_record(Exploration, search / "explore.json").candidates[0].timings
    assert [(timing.device, timing.milliseconds) for timing in timings] == [("a Mac", 1.0), ("another", 2.5)]


def test_a_profile_of_other_weights_is_refused(search, carried, configure):
    before = (search / "explore.json").read_text()
    with pytest.raises(CompressionError, match="of the weights 'other'; those of this search are 'abc'"):
        read_back(configure, search, carried, digest="other")
    assert (search / "explore.json").read_text() == before


def changed(carried: Path, **fields: object) -> list[dict[str, object]]:
    """The packages of the profile, the first one with other fields."""
    first, *others = json.loads((carried / "profile.json").read_text())["packages"]
    return [{**first, **fields}, *others]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "float61"}, "names a package 'float61' that this search has not; did you mean 'float16'"),
        ({"bytes": 7}, "'float16' has 7 bytes there"),
        ({"timings": 3}, "holds no Profile"),
        ({"extra": 3}, "holds no Profile"),
    ],
)
def test_a_profile_of_other_packages_is_refused(search, carried, configure, fields, message):
    with pytest.raises(CompressionError, match=message):
        read_back(configure, search, carried, packages=changed(carried, **fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"milliseconds": -1}, "milliseconds=-1 of 'float16' is no time"),
        ({"milliseconds": float("nan")}, "milliseconds=nan"),
        ({"milliseconds": "1"}, "milliseconds='1'"),
        ({"repetitions": 0}, "repetitions=0"),
        ({"unit": "GPU"}, "unit='GPU' is none of ALL"),
        ({"placement": {"CPU": "many"}}, "counts no operations"),
    ],
)
def test_a_time_that_is_none_is_refused(search, carried, configure, fields, message):
    (timing,) = json.loads((carried / "profile.json").read_text())["packages"][0]["timings"]
    packages = changed(carried, timings=[{**timing, **fields}])
    with pytest.raises(CompressionError, match=message):
        read_back(configure, search, carried, packages=packages)


def test_a_profile_without_any_time_says_why(search, carried, configure):
    packages = json.loads((carried / "profile.json").read_text())["packages"]
    with pytest.raises(CompressionError, match="holds no time: RuntimeError: no Neural Engine"):
        read_back(configure, search, carried, packages=[{**one, "timings": []} for one in packages])


def test_a_file_that_is_no_profile_is_named(search, configure, tmp_path):
    path = tmp_path / "broken.json"
    path.write_text("{")
    with pytest.raises(CompressionError, match=r"broken\.json holds no Profile"):
        run(configure(f"folder='{search}'", f"results='{path}'", command="profile"))


def test_a_profile_that_is_not_there_is_named(search, configure):
    with pytest.raises(ConfigurationError, match=r"results='nowhere\.json' is no file"):
        run(configure(f"folder='{search}'", "results=nowhere.json", command="profile"))


def test_a_folder_without_a_search_is_refused(configure, tmp_path):
    with pytest.raises(ConfigurationError, match=r"holds no explore\.json"):
        run(configure(f"folder='{tmp_path}'", command="profile"))


def test_a_package_that_has_changed_is_not_carried(search, configure):
    found = read_record(Exploration, search / "explore.json")
    first, *others = found.candidates
    other = dataclasses.replace(first, package_bytes=first.package_bytes - 1)
    write_record(dataclasses.replace(found, candidates=[other, *others]), search / "explore.json")
    with pytest.raises(CompressionError, match="timing another package would say nothing"):
        run(configure(f"folder='{search}'", command="profile"))


def test_nothing_that_is_not_its_own_is_replaced(search, configure, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years")
    with pytest.raises(CompressionError, match="holds something else"):
        run(configure(f"folder='{search}'", f"carry='{tmp_path / 'full'}'", command="profile"))
    assert (tmp_path / "full" / "thesis.txt").read_text() == "years"
    for _ in range(2):
        run(configure(f"folder='{search}'", command="profile"))


def test_an_unknown_unit_names_the_valid_ones(search, configure):
    with pytest.raises(ConfigurationError, match="CPU_AND_NE"):
        run(configure(f"folder='{search}'", "units=[ANE]", command="profile"))
