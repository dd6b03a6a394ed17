"""`lightning-compress explore`: a search as a job."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from lightning_compress.commands.explore import ExploreJob
from lightning_compress.commands.jobs.state import digest
from lightning_compress.errors import CompressionError, ConfigurationError
from lightning_compress.explore.record import Exploration, read_record
from lightning_compress.package.inspection import inspect
from lightning_compress.stopping import Stopped, Stops
from tests.commands import own, tiny
from tests.commands.processes import LAUNCHERS, Call, require_launcher, run_calls

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning"),
]

WORDS = [
    *(word for word in tiny.WORDS if not word.startswith("post_training_bits")),
    "explore.max_drop=1.0",
    "explore.rungs=[kmeans,mixed,full_fit]",
    "explore.forms=[palettize_4bit,palettize_2bit]",
    "explore.steps=1",
    "explore.samples=4",
    "pictures.count=2",
    "rehearse=false",
]

OWN = [
    *(word for word in own.WORDS if not word.startswith("post_training_bits")),
    "recipe.module._target_=tests.commands.own.Tagger",
    "explore.max_drop=0.01",
]


@pytest.fixture(scope="module")
def compose(configure):
    """Composes as the command does, where keys that no configuration lists are added."""

    def run(*words: str):
        added = ("recipe.module.", "data.")
        return configure(
            *(f"++{word}" if word.startswith(added) else word for word in words), command="explore"
        )

    return run


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As processes that launchers start: of more threads the last bits are others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def job(compose, tmp_path_factory) -> Path:
    """The folder of a finished search."""
    folder = tmp_path_factory.mktemp("explore")
    results = ExploreJob(compose(*WORDS), folder).run()
    assert [result.name for result in results] == ["float16", exploration(folder).chosen]
    return folder


def exploration(folder: Path) -> Exploration:
    return read_record(Exploration, folder / "explore.json")


def told(folder: Path) -> dict[str, Any]:
    """What a search has found, without what a clock has measured."""
    content = json.loads((folder / "explore.json").read_text())
    content["seconds"] = {}
    for entry in [*content["candidates"], *content["rungs"]]:
        entry["seconds"] = 0
    return content


@pytest.mark.slow
def test_the_chosen_package_holds_what_the_record_says(job):
    found = exploration(job)
    chosen = found.candidate(found.chosen)
    report = inspect(job / "explored.mlpackage")
    # The compression's name and the metric stand in it, and nowhere in the candidate.
    assert abs(report.package_bytes - chosen.package_bytes) < 1000
    layers = {layer.name: layer for layer in report.layers}
    assert chosen.forms
    for name, form in chosen.forms.items():
        assert form.startswith("palettize_")
        assert layers[name].distinct_values <= 2 ** int(form[10])


@pytest.mark.slow
def test_a_person_finds_a_report_pictures_and_results(job):
    page = (job / "report.html").read_text()
    assert exploration(job).chosen in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "# The smallest package" in (job / "results.md").read_text()
    with Image.open(job / "float16.png") as picture:
        assert picture.width > 32


@pytest.mark.slow
def test_the_configuration_that_is_left_trains_the_same_forms(job):
    config = OmegaConf.load(job / "compression" / "explored.yaml")
    found = exploration(job)
    forms = found.candidate(found.chosen).forms
    methods = instantiate(config.methods, _convert_="all")
    named = {
        name.replace("\\", "")
        for method in methods.values()
        for name in method.describe()["module_name_configs"]
    }
    assert named == set(forms)


@pytest.mark.slow
def test_each_rung_has_left_packages(job):
    assert {candidate.rung for candidate in exploration(job).candidates} == {
        *("float16", "kmeans", "mixed", "full_fit")
    }
    assert (job / "candidates").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", ["measure:1", "measure:3", "measure:6", "train:15"])
def test_a_search_that_was_stopped_and_resumed_ends_as_one_never_stopped(
    job, compose, tmp_path, monkeypatch, stop_at
):
    folder = tmp_path / "explore"
    tiny._reached.clear()
    monkeypatch.setenv("STOP_AT", f"{stop_at}:SIGTERM")
    with Stops() as stops:
        stopped = ExploreJob(compose(*WORDS), folder, stops)
        with pytest.raises(Stopped):
            stopped.run()
    monkeypatch.delenv("STOP_AT")
    ExploreJob(compose(*WORDS), folder, is_resumed=True).run()
    assert told(folder) == told(job)
    assert digest(folder / "explored.mlpackage" / "Data") == digest(job / "explored.mlpackage" / "Data")


@pytest.mark.slow
def test_the_command_kills_resumes_and_trains_what_it_chose(tmp_path):
    words = [word for word in WORDS if not word.startswith("rehearse")]
    killed, resumed, trained = run_calls(
        Call(["explore", *words, "hydra.run.dir=run"], stop_at="measure:7:SIGKILL"),
        Call(["explore", "resume=run"]),
        Call(
            [
                "train",
                *(word for word in tiny.WORDS),
                "--config-dir",
                "run",
                "compression=explored",
                "float_fit.enabled=false",
                "float_fit.weights=run/float_fit/weights.ckpt",
            ]
        ),
        folder=tmp_path,
    )
    assert killed.code == -9
    assert resumed.code == 0, resumed.output
    assert "Packages; asked is a drop of at most 1" in resumed.output
    assert trained.code == 0, trained.output
    assert "explored" in trained.output


def test_a_dry_run_says_what_would_be_done_and_stops(compose, tmp_path, capfd):
    words = ["float_fit.enabled=false", "explore.dry_run=true"]
    assert ExploreJob(compose(*WORDS, *words), tmp_path).run() == []
    output = capfd.readouterr().out
    assert "What the search does at most" in output
    assert "explore.dry_run=true: nothing was searched" in output
    assert not (tmp_path / "explore.json").exists()


@pytest.mark.slow
def test_a_search_that_was_tried_dry_goes_on_in_its_folder(tmp_path):
    words = [*WORDS, "explore.rungs=[kmeans]", "explore.dry_run=true", "hydra.run.dir=run"]
    dry, searched, again = run_calls(
        Call(["explore", *words]),
        Call(["explore", "resume=run", "explore.dry_run=false"]),
        Call(["explore", "resume=run"]),
        folder=tmp_path,
    )
    assert "lightning-compress explore resume=run explore.dry_run=false" in dry.output
    assert "left" not in dry.output.partition("float weights")[2].partition("\n")[0], (
        "no search was timed yet"
    )
    assert searched.code == 0, searched.output
    assert "that the search has not seen; asked was a drop of at most 1" in " ".join(searched.output.split())
    assert (tmp_path / "run" / "explored.mlpackage").is_dir()
    assert "is finished" in again.output


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_makes_the_candidates_and_the_answer_is_the_same(job, tmp_path, name):
    require_launcher(name)
    words = ["explore", *WORDS, "hydra.run.dir=run", f"hydra/launcher={name}", *LAUNCHERS[name]]
    (ended,) = run_calls(Call(words), folder=tmp_path)
    assert ended.code == 0, ended.output[-3000:]
    # Both ends of the first bisection at once, and the fit too.
    told_of = f"2 candidates for hydra/launcher={name}: kmeans_palettize_4bit, kmeans_palettize_2bit"
    assert told_of in " ".join(ended.output.split())
    folder = tmp_path / "run"
    assert told(folder) == told(job)
    for candidate in exploration(folder).candidates:
        # Another process may write the same program in another order.
        weights = f"{candidate.package}/Data/com.apple.CoreML/weights"
        assert digest(folder / weights) == digest(job / weights), candidate.name
    fits = [found.name for found in exploration(folder).candidates if found.rung == "full_fit"]
    assert fits
    for candidate in fits:
        assert (folder / "candidates" / candidate / "log.txt").stat().st_size


@pytest.mark.slow
def test_a_launcher_measures_forms_with_the_same_table(tmp_path):
    require_launcher("joblib")
    words = ["explore", *WORDS, "explore.measured=[palettize_2bit]", "explore.rungs=[kmeans]"]
    here, elsewhere = run_calls(
        Call([*words, "hydra.run.dir=here"]),
        Call([*words, "hydra.run.dir=run", "hydra/launcher=joblib", *LAUNCHERS["joblib"]]),
        folder=tmp_path,
    )
    assert here.code == 0, here.output[-3000:]
    assert elsewhere.code == 0, elsewhere.output[-3000:]
    assert "1 form for hydra/launcher=joblib: palettize_2bit" in elsewhere.output
    assert told(tmp_path / "run") == told(tmp_path / "here")
    (measured, *_) = (
        record.option("palettize_2bit").measured for record in exploration(tmp_path / "run").tensors
    )
    assert measured is not None
    assert measured > 0


@pytest.mark.slow
def test_a_killed_worker_loses_its_candidate_alone_and_the_answer_is_the_same(job, tmp_path):
    require_launcher("submitit_local")
    launcher = ["hydra/launcher=submitit_local", *LAUNCHERS["submitit_local"]]
    # The float weights are given: only the worker that trains a candidate comes to a ninth step.
    killed, resumed = run_calls(
        Call(
            ["explore", *WORDS, "hydra.run.dir=run", *launcher, f"weights={job}/float_fit/weights.ckpt"],
            "train:9:SIGKILL",
        ),
        Call(["explore", "resume=run", *launcher]),
        folder=tmp_path,
    )
    assert killed.code == 1, killed.output[-3000:]
    assert "did not end well" in killed.output
    assert "Traceback" not in killed.output
    assert resumed.code == 0, resumed.output[-3000:]
    launched = [line for line in resumed.output.splitlines() if "for hydra/launcher=submitit_local" in line]
    assert [line.partition("_fit")[0] for line in launched] == [
        "1 candidate for hydra/launcher=submitit_local: full"
    ]
    # Not the bytes: a package holds the configuration, and so where its float weights were from.
    found, expected = exploration(tmp_path / "run"), exploration(job)
    assert [(one.name, one.forms, one.value) for one in found.candidates] == [
        (one.name, one.forms, one.value) for one in expected.candidates
    ]
    assert (found.chosen, found.verdict) == (expected.chosen, expected.verdict)


@pytest.mark.slow
def test_weights_of_an_earlier_fit_take_the_place_of_a_float_fit(job, compose, tmp_path):
    weights = shutil.copy(job / "float_fit" / "weights.ckpt", tmp_path / "weights.ckpt")
    own_job = ExploreJob(compose(*WORDS, f"weights={weights}"), tmp_path / "job")
    assert not own_job.config.float_fit.enabled
    assert own_job.config.float_fit.weights == str(weights)


@pytest.fixture
def refusal(compose, tmp_path):
    """What a search is refused for; no step was trained and nothing was exported."""

    def run(*words: str, error: type[CompressionError] = CompressionError) -> str:
        with pytest.raises(error) as refused:
            ExploreJob(compose(*OWN, *words), tmp_path / "job").run()
        assert not list((tmp_path / "job").rglob("*.ckpt"))
        assert not list((tmp_path / "job").rglob("*.mlpackage"))
        return str(refused.value)

    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["explore.max_drop=null"], "a search needs a limit: explore.max_drop"),
        (["explore.max_drop=2x"], "explore.max_drop='2x' is no drop"),
        (["explore.max_size=4 stones"], "explore.max_size='4 stones' is no size"),
        (["explore.budget=soon"], "explore.budget='soon' is no duration"),
        (["explore.rungs=[kmeanss]"], "explore.rungs holds 'kmeanss'; did you mean 'kmeans'"),
        (["explore.rungs=kmeans"], "explore.rungs='kmeans' is no list of names"),
        (["explore.forms=[palettize_5bit]"], "explore.forms='palettize_5bit' is no form"),
        (["explore.forms=[]"], "explore.forms names no form to compress to"),
        (["explore.leave=[modle.0]"], "explore.leave holds 'modle.0'"),
        (["explore.target=iOS12"], "iOS12"),
        (["trainer.devices=2"], "a search runs on one device"),
        (["weights=a.ckpt", "float_fit.weights=b.ckpt"], "name two files"),
        (["weights=missing.ckpt"], "missing.ckpt"),
        (["recipe.metric=val/f2"], "recipe.metric='val/f2' is not among"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_told_before_the_first_step(refusal, words, message):
    assert message in refusal(*words)


@pytest.mark.slow
def test_a_stale_sensitivity_file_is_told(job, compose, tmp_path):
    given = job / "sensitivity.json"
    words = ["float_fit.enabled=false", f"explore.sensitivity={given}"]
    with pytest.raises(ConfigurationError, match="is of other weights or other settings"):
        ExploreJob(compose(*WORDS, *words), tmp_path).run()
