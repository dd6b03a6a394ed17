"""`lightning-compress curve`: quality over compression, after training and in training."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from lightning_compress.commands.curve import CurveJob
from lightning_compress.commands.jobs.state import digest
from lightning_compress.errors import CompressionError, ConfigurationError
from lightning_compress.package.inspection import inspect
from lightning_compress.stopping import Stopped, Stops
from tests.commands import own, tiny
from tests.commands.processes import LAUNCHERS, Call, Ended, require_launcher, run_calls

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning"),
]

POINTS = ["curve.sparsities=[0.5]", "curve.bits=[4,2]", "curve.int8=false", "curve.in_training.bits=[2]"]

WORDS = [
    *(word for word in tiny.WORDS if not word.startswith("post_training_bits")),
    *POINTS,
    "curve.lengths.palettize_2bit.max_epochs=1",
    "curve.weight_threshold.prune=100",
    "pictures.count=3",
    "rehearse=false",
]

OWN = [
    *(word for word in own.WORDS if not word.startswith("post_training_bits")),
    "recipe.module._target_=tests.commands.own.Tagger",
]

PACKAGES = [
    "float16",
    "after_training/prune_50",
    "after_training/palettize_4bit",
    "after_training/palettize_2bit",
    "in_training/prune_50/prune_50",
    "in_training/palettize_2bit/palettize_2bit",
]


@pytest.fixture(scope="module")
def compose(configure):
    """Composes as the command does, where keys that no configuration lists are added."""

    def run(*words: str):
        added = ("curve.lengths.", "recipe.module.", "data.")
        return configure(
            *(f"++{word}" if word.startswith(added) else word for word in words), command="curve"
        )

    return run


@pytest.fixture(scope="module")
def job(compose, tmp_path_factory) -> Path:
    """The folder of a finished curve."""
    folder = tmp_path_factory.mktemp("curve")
    assert len(CurveJob(compose(*WORDS), folder).run()) == len(PACKAGES)
    return folder


def points(folder: Path) -> dict[tuple[str, str | None], dict]:
    content = json.loads((folder / "curve.json").read_text())
    return {(entry["point"], entry["workflow"]): entry for entry in content["points"]}


def test_each_point_is_a_package_of_its_own_that_holds_what_was_asked_for(job):
    found = points(job)
    assert [entry["package"] for entry in found.values()] == [
        f"{PACKAGES[place]}.mlpackage" for place in (0, 1, 4, 2, 3, 5)
    ]
    for (name, workflow), entry in found.items():
        report = inspect(job / entry["package"])
        assert (entry["package_bytes"], entry["weight_bytes"]) == (report.package_bytes, report.weight_bytes)
        large = [layer for layer in report.layers if layer.parameters > 2048]
        assert large
        for layer in large:
            if name.startswith("prune"):
                assert layer.sparsity == pytest.approx(0.5, abs=0.01), workflow
            elif name.startswith("palettize"):
                assert layer.distinct_values <= 2 ** int(name[-4]), workflow


def test_after_training_the_smallest_weights_stay_dense_up_to_the_threshold_of_their_technique(job):
    (first,) = (layer for layer in inspect(job / "float16.mlpackage").layers if layer.parameters == 864)

    def same_layer(point: str):
        layers = inspect(job / "after_training" / f"{point}.mlpackage").layers
        return next(layer for layer in layers if layer.name == first.name)

    assert same_layer("prune_50").sparsity == pytest.approx(0.5, abs=0.01)
    assert same_layer("palettize_2bit").technique == first.technique


def test_the_drop_is_against_the_float_package(job):
    content = json.loads((job / "curve.json").read_text())
    for entry in content["points"]:
        assert entry["drop"] == pytest.approx(content["float"] - entry["value"])


def test_the_table_has_one_row_a_point(job):
    table = (job / "curve.md").read_text()
    assert "| point | workflow | package | weights | accuracy | drop | path |" in table
    assert table.count(" in training |") == 2
    assert table.count(" after training |") == 3
    assert str(job) not in table


def test_a_fit_has_the_length_that_was_given_to_it(job):
    steps = {}
    for name in ("prune_50", "palettize_2bit"):
        with (job / "in_training" / name / "compressed_fit" / "metrics.csv").open(newline="") as file:
            steps[name] = 1 + max(int(row["step"]) for row in csv.DictReader(file))
    assert steps == {"prune_50": 12, "palettize_2bit": 6}


def test_the_figure_and_the_sheet_are_pictures(job):
    with Image.open(job / "curve.png") as figure:
        assert figure.size == (1440, 900)
    with Image.open(job / "pictures.png") as sheet, Image.open(job / "float16.png") as row:
        assert sheet.width > row.width
        assert sheet.height >= len(PACKAGES) * row.height


def without_last_stage(job: Path, folder: Path) -> Path:
    """The folder as it was before the last point of a curve was begun."""
    shutil.copytree(job, folder)
    shutil.rmtree(folder / "in_training" / "palettize_2bit")
    state = json.loads((folder / "job.json").read_text())
    assert state["stages"].pop()["name"] == "in_training/palettize_2bit"
    (folder / "job.json").write_text(json.dumps(state))
    return folder


def test_a_point_that_was_stopped_and_resumed_ends_as_one_never_stopped(
    job, compose, tmp_path, monkeypatch, capfd
):
    folder = without_last_stage(job, tmp_path / "curve")
    tiny._reached.clear()
    monkeypatch.setenv("STOP_AT", "train:3:SIGTERM")
    with Stops() as stops:
        stopped = CurveJob(compose(*WORDS), folder, stops, is_resumed=True)
        with pytest.raises(Stopped):
            stopped.run()
    assert "stage 7 of 7: palettize_2bit in training, after 3 steps" in stopped.standing()
    assert "prune_50 in training" in stopped.kept()
    monkeypatch.delenv("STOP_AT")
    capfd.readouterr()
    CurveJob(compose(*WORDS), folder, is_resumed=True).run()
    told = capfd.readouterr().out.partition("The curve")[0]
    assert "going on from step 3" in told
    assert "prune_50 in training" not in told
    for name in PACKAGES:
        assert digest(folder / f"{name}.mlpackage" / "Data") == digest(job / f"{name}.mlpackage" / "Data")
    assert (folder / "curve.json").read_text() == (job / "curve.json").read_text()


@pytest.fixture
def refusal(compose, tmp_path):
    """What a curve is refused for; no step was trained and nothing was exported."""

    def run(*words: str, error: type[CompressionError] = ConfigurationError) -> str:
        with pytest.raises(error) as refused:
            CurveJob(compose(*OWN, *words), tmp_path / "job").run()
        assert not list((tmp_path / "job").rglob("*.ckpt"))
        assert not list((tmp_path / "job").rglob("*.mlpackage"))
        return str(refused.value)

    return run


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["curve.bits=[4,5]"], r"curve.bits=[4, 5]: palettize=5 is no width of a palette index; valid are"),
        (["curve.sparsities=[1.5]"], "curve.sparsities=[1.5]: prune=1.5 is no share between 0 and 1"),
        (["curve.in_training.bits=[7]"], "curve.in_training.bits=[7]: palettize=7 is no width"),
        (["curve.bits=4"], "curve.bits=4 is no list; give widths such as [4,2], or [] for none"),
        (["curve.int8=2"], "curve.int8=2 is neither true nor false"),
        (["curve.bits=[]", "curve.sparsities=[]", "curve.int8=false"], "there is no point to measure"),
        (
            ["curve.weight_threshold.prune=-1"],
            "curve.weight_threshold.prune=-1; valid is a whole number from 0 on",
        ),
        (["curve.weight_threshold=3"], "curve.weight_threshold=3; valid is a number for each of prune"),
        (
            ["curve.lengths.palettize_1bits.max_steps=3"],
            "curve.lengths.palettize_1bits is of no point in training; did you mean 'palettize_1bit'?",
        ),
        (["curve.lengths.palettize_1bit.max_step=3"], "is no length of a fit; did you mean 'max_steps'?"),
        (["curve.lengths.palettize_1bit=3"], "is no length of a fit"),
        (
            ["export.minimum_deployment_target=iOS16", "curve.bits=[3]"],
            "cannot carry a palette (LUT) of 3 bits",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_told_before_the_first_step(refusal, words, told):
    error = CompressionError if "LUT" in told else ConfigurationError
    assert told in refusal(*words, error=error)


SMALL = ["curve.sparsities=[0.5]", "curve.bits=[2]", "curve.int8=false", "rehearse=false"]


def good(ended: Ended) -> str:
    assert ended.code == 0, ended.output[-3000:]
    return ended.output


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A curve whose points were run by the process of the curve."""
    folder = tmp_path_factory.mktemp("here")
    (ended,) = run_calls(Call(["curve", *OWN, *SMALL, "hydra.run.dir=run"]), folder=folder)
    good(ended)
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_runs_the_points_into_the_same_folder(here, tmp_path, name):
    require_launcher(name)
    words = ["curve", *OWN, *SMALL, "hydra.run.dir=run", f"hydra/launcher={name}", *LAUNCHERS[name]]
    again, ended = run_calls(Call(words), Call(["curve", "resume=run"]), folder=tmp_path)
    assert f"2 points for hydra/launcher={name}: prune_50, palettize_2bit" in good(again)
    assert (tmp_path / "run" / "curve.json").read_text() == (here / "curve.json").read_text()
    assert (tmp_path / "run" / "in_training" / "prune_50" / "log.txt").stat().st_size
    assert "the job in run is finished" in good(ended)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_runs_the_jobs_of_a_sweep(tmp_path, name):
    require_launcher(name)
    words = [word for word in own.WORDS if not word.startswith("recipe.metric")]
    (ended,) = run_calls(
        Call(
            [
                *("train", "-m", *words, "recipe.module._target_=tests.commands.own.Tagger"),
                *("compression=none", "recipe.metric=val/f1,val/precision", "hydra.sweep.dir=sweep"),
                *(f"hydra/launcher={name}", *LAUNCHERS[name]),
            ]
        ),
        folder=tmp_path,
    )
    assert (tmp_path / "sweep" / "0" / "results.md").is_file()
    # The other one has a metric that nobody logs.
    assert not (tmp_path / "sweep" / "1" / "results.md").exists()
    assert ended.code == 1
    assert "recipe.metric='val/precision' is not among what Tagger logs" in ended.output
    assert "Traceback" not in ended.output


@pytest.mark.slow
def test_a_killed_worker_loses_its_point_alone(tmp_path):
    require_launcher("submitit_local")
    # So many steps has one fit alone.
    long = ["curve.lengths.prune_50.max_epochs=80", *SMALL]
    launcher = ["hydra/launcher=submitit_local", *LAUNCHERS["submitit_local"]]
    killed, resumed = run_calls(
        Call(["curve", *WORDS, *long, "hydra.run.dir=run", *launcher], "train:400:SIGKILL"),
        Call(["curve", "resume=run"]),
        folder=tmp_path,
    )
    assert killed.code == 1, killed.output[-3000:]
    assert "1 of 2 points did not end well:\n  prune_50: " in killed.output
    assert "Traceback" not in killed.output
    told = good(resumed).partition("The curve")[0]
    assert "prune_50 in training" in told
    assert "palettize_2bit in training" not in told


# In the float fit, after training, in the fit of each point, and when it is measured.
STOPS = {
    "train:4": "SIGINT",
    "measure:3": "SIGTERM",
    "measure:5": "SIGKILL",
    "train:18": "SIGTERM",
    "train:25": "SIGKILL",
    "train:29": "SIGINT",
    "measure:7": "SIGTERM",
}


@pytest.mark.slow
def test_a_curve_stopped_anywhere_ends_as_one_never_stopped(tmp_path):
    words = [*WORDS, "rehearse=true", "callbacks.checkpoint.train_time_interval=null"]
    words.append("callbacks.checkpoint.every_n_train_steps=2")
    calls = [Call(["curve", *words, "hydra.run.dir=whole"])]
    for place, number in STOPS.items():
        folder = place.replace(":", "_")
        calls.append(Call(["curve", *words, f"hydra.run.dir={folder}"], f"{place}:{number}"))
        calls.append(Call(["curve", f"resume={folder}"]))
    whole, *ended = run_calls(*calls, folder=tmp_path)
    good(whole)
    for step, (place, number) in enumerate(STOPS.items()):
        stopped, again = ended[2 * step : 2 * step + 2]
        assert stopped.code == {"SIGINT": 130, "SIGTERM": 143, "SIGKILL": -9}[number], (place, stopped.output)
        good(again)
        left = tmp_path / place.replace(":", "_")
        assert (left / "curve.json").read_text() == (tmp_path / "whole" / "curve.json").read_text(), place
        for name in PACKAGES:
            data = f"{name}.mlpackage/Data"
            assert digest(left / data) == digest(tmp_path / "whole" / data), (place, name)


@pytest.mark.slow
def test_a_folder_is_resumed_by_the_command_that_began_it(tmp_path):
    begun, ended = run_calls(
        Call(["curve", *OWN, *SMALL, "hydra.run.dir=run"]), Call(["train", "resume=run"]), folder=tmp_path
    )
    good(begun)
    assert ended.code == 1
    assert "lightning-compress curve resume=run" in ended.output
