"""Jobs that are stopped by signals in each of their stages, and taken up again."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from lightning_compress.commands.jobs.state import digest
from tests.commands.processes import Call, Ended, run_calls
from tests.commands.tiny import WORDS

pytestmark = pytest.mark.slow

STAGES = {
    "the float fit": ["train:4", "train:7", "train:13", "validate:3", "validate:5"],
    "the float package": ["export:8", "measure:2", "validate:20"],
    "palettization after training": ["measure:3", "measure:4"],
    "the compressed fit": ["train:14", "train:16", "train:25", "validate:143", "export:11"],
    "the compressed package": ["measure:5"],
}
"""Points of the tiny job in each stage: two epochs of six steps a fit. The rehearsal has converted thrice before,
trained on one batch, and measured one package; a package is measured in 45 batches, two validate an epoch."""

STATUS = {"SIGINT": 130, "SIGTERM": 143, "SIGKILL": -9}

PACKAGES = ["float16", "post_training_4bit", "post_training_2bit", "palettize_2bit"]

OFTEN = ["callbacks.checkpoint.train_time_interval=null", "callbacks.checkpoint.every_n_train_steps=2"]


def begun(folder: str, *words: str, stop_at: str = "", together: bool = False) -> Call:
    return Call(["train", *WORDS, *words, f"hydra.run.dir={folder}"], stop_at, together)


def resumed(folder: str, *words: str, stop_at: str = "") -> Call:
    return Call(["train", f"resume={folder}", *words], stop_at)


def left_by(folder: Path) -> dict[str, str]:
    """What a finished job has to leave the same, however often it was stopped."""
    files = [f"{name}.mlpackage/Data" for name in PACKAGES] + [
        "results.json",
        "results.md",
        "float_fit/metrics.csv",
        "compressed_fit/metrics.csv",
    ]
    return {name: digest(folder / name) for name in files}


def require_good(ended: Ended) -> None:
    assert ended.code == 0, ended.output[-3000:]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> tuple[Path, dict[str, Ended]]:
    """One job left alone, and one for each signal, each stopped in another stage and resumed."""
    folder = tmp_path_factory.mktemp("jobs")
    calls = {
        "whole": begun("whole"),
        "SIGINT": begun("SIGINT", stop_at="train:5:SIGINT"),
        "SIGINT resumed": resumed("SIGINT"),
        "SIGTERM": begun("SIGTERM", stop_at="measure:3:SIGTERM"),
        "SIGTERM resumed": resumed("SIGTERM"),
        "SIGKILL": begun("SIGKILL", *OFTEN, stop_at="train:17:SIGKILL"),
        "SIGKILL resumed": resumed("SIGKILL"),
        "again": begun("whole"),
        "finished": resumed("whole"),
        "changed": resumed("whole", "seed=2"),
        "the same": resumed("whole", "seed=1"),
    }
    return folder, dict(zip(calls, run_calls(*calls.values(), folder=folder), strict=True))


@pytest.mark.parametrize("name", STATUS)
def test_a_stopped_job_ends_with_the_status_of_its_signal(jobs, name):
    _, ended = jobs
    assert ended[name].code == STATUS[name], ended[name].output[-3000:]


@pytest.mark.parametrize("name", STATUS)
def test_a_job_that_was_stopped_and_resumed_leaves_what_one_never_stopped_does(jobs, name):
    folder, ended = jobs
    require_good(ended["whole"])
    require_good(ended[f"{name} resumed"])
    assert left_by(folder / name) == left_by(folder / "whole")


def test_a_stopped_job_says_where_it_stood_what_is_kept_and_how_to_go_on(jobs):
    _, ended = jobs
    told = ended["SIGINT"].output
    assert "stopped by SIGINT in stage 1 of 5: float fit, after 4 steps" in told
    assert "kept: SIGINT/float_fit/checkpoints/stopped.ckpt (step 4)" in told
    assert "  lightning-compress train resume=SIGINT" in told
    assert "stopped by SIGTERM in stage 3 of 5: palettization after training" in ended["SIGTERM"].output
    assert "Traceback" not in told + ended["SIGTERM"].output


def test_finished_stages_are_not_run_again(jobs):
    _, ended = jobs
    again = ended["SIGTERM resumed"].output
    assert "stage 1 of 5" not in again
    assert "stage 2 of 5" not in again
    assert "stage 3 of 5: palettization after training" in again
    assert (
        "going on from step 2, SIGKILL/compressed_fit/checkpoints/last.ckpt"
        in ended["SIGKILL resumed"].output
    )


def test_the_bar_of_the_job_says_which_stage_of_how_many_it_is_and_how_long_it_takes(jobs):
    _, ended = jobs
    whole = ended["whole"].output
    assert "all stages were rehearsed in " in whole
    assert all(f"stage {number} of 5: " in whole for number in range(1, 6))
    assert "so far, about " in whole


def test_a_second_job_into_a_folder_with_results_is_told_to_resume(jobs):
    _, ended = jobs
    assert ended["again"].code == 1
    assert "'whole' holds results of a job" in ended["again"].output
    assert "lightning-compress train resume=whole" in ended["again"].output


def test_a_finished_job_says_so_and_shows_its_results(jobs):
    _, ended = jobs
    require_good(ended["finished"])
    assert "the job in whole is finished; there is nothing to go on with" in ended["finished"].output
    assert all(name in ended["finished"].output for name in PACKAGES)


def test_what_would_change_a_resumed_job_is_refused_and_what_it_had_is_not(jobs):
    _, ended = jobs
    assert ended["changed"].code == 1
    assert "seed=2 would change the job in 'whole'" in ended["changed"].output
    require_good(ended["the same"])


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> dict[str, Ended]:
    """Jobs whose state is damaged or missing, resumed."""
    folder = tmp_path_factory.mktemp("damaged")
    (stopped,) = run_calls(begun("job", stop_at="measure:2:SIGTERM"), folder=folder)
    assert stopped.code == 143, stopped.output[-3000:]
    state = folder / "job" / "job.json"
    weights = folder / "job" / "float_fit" / "weights.ckpt"
    content = state.read_text()
    ended = {}
    state.write_text(content[: len(content) // 2])
    (folder / "empty").mkdir()
    ended["state"], ended["folder"], ended["nowhere"] = run_calls(
        resumed("job"), resumed("empty"), resumed("nowhere"), folder=folder
    )
    assert not (folder / "nowhere").exists()
    state.write_text(content)
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    (ended["weights"],) = run_calls(resumed("job"), folder=folder)
    return ended


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("state", "job.json' is damaged"),
        ("folder", "resume='empty' holds no job"),
        ("nowhere", "resume='nowhere' holds no job"),
        ("weights", "weights.ckpt' is not what the stage 'float_fit' of the job wrote"),
    ],
)
def test_a_damaged_state_is_told_in_a_line(damaged, name, message):
    assert damaged[name].code == 1
    assert message in damaged[name].output
    assert "Traceback" not in damaged[name].output


def test_a_truncated_checkpoint_of_a_stopped_fit_is_named(tmp_path):
    (stopped,) = run_calls(begun("job", stop_at="train:5:SIGINT"), folder=tmp_path)
    assert stopped.code == 130
    checkpoint = tmp_path / "job" / "float_fit" / "checkpoints" / "stopped.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    told, again = run_calls(resumed("job"), Call(["train", "resume=job"]), folder=tmp_path)
    assert told.code == again.code == 1
    assert "stopped.ckpt' cannot be read as a checkpoint" in told.output
    checkpoint.unlink()
    (anew,) = run_calls(resumed("job"), folder=tmp_path)
    require_good(anew)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of digits in a folder that a job names relative to its own."""
    digits = load_digits()
    for split, first in (("train", 0), ("val", 800)):
        for label in (0, 1):
            folder = tmp_path / "project" / "images" / split / str(label)
            folder.mkdir(parents=True)
            for index in np.flatnonzero(digits.target[first:] == label)[:16] + first:
                Image.fromarray((digits.images[index] * 15.9).astype(np.uint8)).save(folder / f"{index}.png")
    return tmp_path


def test_a_job_with_relative_paths_is_resumed_from_another_folder(images):
    words = [
        *("data=image_folder", "data.root=images", "data.num_classes=2", "data.num_workers=0"),
        *("compression=none", "post_training_bits=[]", "pictures.count=0"),
    ]
    (images / "elsewhere").mkdir()
    stopped, again = run_calls(
        Call(
            ["train", *WORDS, *words, "hydra.run.dir=job"], "train:4:SIGINT", folder=str(images / "project")
        ),
        Call(["train", "resume=../project/job"], "measure:1:SIGTERM", folder=str(images / "elsewhere")),
        folder=images,
    )
    assert stopped.code == 130, stopped.output[-3000:]
    assert again.code == 143, again.output[-3000:]
    told = " ".join(again.output.split())
    assert f"relative paths are those of '{images / 'project'}', where the job was begun" in told
    assert f"lightning-compress train resume={images / 'project' / 'job'}" in told
    (images / "project").rename(images / "moved")
    (moved,) = run_calls(
        Call(["train", "resume=../moved/job"], folder=str(images / "elsewhere")), folder=images
    )
    assert moved.code == 1
    told = " ".join(moved.output.split())
    assert f"the job was begun in '{images / 'project'}', which is not there" in told
    assert "images/train' does not exist" in told
    (found,) = run_calls(Call(["train", "resume=job"], folder=str(images / "moved")), folder=images)
    require_good(found)


def test_jobs_begun_in_the_same_second_have_folders_of_their_own(tmp_path):
    call = Call(
        ["train", *WORDS, "recipe.name=same", "rehearse=false", "post_training_bits=[]", "compression=none"],
        together=True,
    )
    ended = run_calls(call, call, Call(call.words), folder=tmp_path)
    for one in ended:
        require_good(one)
    folders = [path.parent for path in (tmp_path / "outputs" / "same").glob("*/job.json")]
    assert len(folders) == 3
    for folder in folders:
        assert [row["name"] for row in json.loads((folder / "results.json").read_text())] == ["float16"]


@pytest.mark.parametrize("name", STATUS)
def test_a_job_stopped_at_any_point_of_any_stage_ends_as_one_never_stopped(tmp_path, name):
    points = [point for points in STAGES.values() for point in points]
    calls = [begun("whole", *OFTEN)]
    for point in points:
        folder = point.replace(":", "_")
        calls += [begun(folder, *OFTEN, stop_at=f"{point}:{name}"), resumed(folder)]
    whole, *ended = run_calls(*calls, folder=tmp_path)
    require_good(whole)
    expected = left_by(tmp_path / "whole")
    differing = {}
    for number, point in enumerate(points):
        stopped, again = ended[2 * number : 2 * number + 2]
        assert stopped.code == STATUS[name], (point, stopped.output[-3000:])
        assert again.code == 0, (point, again.output[-3000:])
        left = left_by(tmp_path / point.replace(":", "_"))
        differing[point] = [file for file in expected if left[file] != expected[file]]
    assert not any(differing.values()), differing


def test_a_job_stopped_in_each_stage_in_turn_ends_as_one_never_stopped(tmp_path):
    whole, *ended = run_calls(
        begun("whole"),
        begun("job", stop_at="train:4:SIGTERM"),
        resumed("job", stop_at="train:5:SIGINT"),
        resumed("job", stop_at="measure:2:SIGTERM"),
        resumed("job", stop_at="train:8:SIGTERM"),
        resumed("job", stop_at="measure:1:SIGINT"),
        resumed("job"),
        folder=tmp_path,
    )
    require_good(whole)
    assert [one.code - 128 for one in ended[:5]] == [
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGTERM,
        signal.SIGINT,
    ], [one.output[-1500:] for one in ended]
    require_good(ended[-1])
    assert left_by(tmp_path / "job") == left_by(tmp_path / "whole")


def test_a_compressed_fit_goes_on_towards_the_same_teacher(tmp_path):
    taught = "compression.distillation={weight:1,modules:[network.3]}"
    words = [*OFTEN, taught, "post_training_bits=[]"]
    whole, stopped, again = run_calls(
        begun("whole", *words),
        begun("stopped", *words, stop_at="train:17:SIGKILL"),
        resumed("stopped"),
        folder=tmp_path,
    )
    require_good(whole)
    require_good(again)
    assert stopped.code == STATUS["SIGKILL"]
    name = "palettize_2bit.mlpackage/Data"
    assert digest(tmp_path / "stopped" / name) == digest(tmp_path / "whole" / name)
    assert "compression/distillation" in (tmp_path / "stopped" / "compressed_fit" / "metrics.csv").read_text()
