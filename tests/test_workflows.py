"""The workflows run what is here: their commands, folders, extras and versions."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    # It comes with pytest there.
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")
}
JOBS = {f"{name}, {job}": given for name, flow in WORKFLOWS.items() for job, given in flow["jobs"].items()}

PROGRAMS = {"ruff", "mypy", "lightning-compress", "cp", "cd", "python"}
MODULES = {"pip", "pytest", "build"}


def commands(job: dict) -> list[list[str]]:
    """The words of each command of a job."""
    lines = [line for step in job["steps"] for line in step.get("run", "").splitlines()]
    return [shlex.split(re.sub(r"\$\{\{.*?\}\}", "", line)) for line in lines if line.strip()]


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_a_job_says_where_it_runs_how_long_and_what(job):
    assert job["runs-on"].startswith(("ubuntu", "macos"))
    assert job["timeout-minutes"] <= 180
    for step in job["steps"]:
        assert set(step) <= {"uses", "with", "run", "env", "name"}
        assert ("uses" in step) != ("run" in step)


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_every_command_and_every_path_in_it_exists(job):
    for words in commands(job):
        program = words[0]
        if program.startswith("."):
            assert (ROOT / program).stat().st_mode & 0o111, program
            continue
        assert program in PROGRAMS, words
        if words[:2] == ["python", "-m"]:
            assert words[2] in MODULES
        for word in words[1:]:
            if word.startswith(("tests/", ".ci/")):
                assert (ROOT / word).exists(), word


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_every_extra_that_is_installed_exists(job):
    asked = [
        extra
        for words in commands(job)
        for word in words
        if (found := re.search(r"\[([\w,]+)\]$", word))
        for extra in found[1].split(",")
    ]
    assert set(asked) <= set(PROJECT["optional-dependencies"])


def test_the_oldest_libraries_are_those_of_the_project():
    matrix = WORKFLOWS["tests"]["jobs"]["quick"]["strategy"]["matrix"]
    (oldest,) = (entry["pins"] for entry in matrix["include"] if entry["libraries"] == "oldest")
    pins = dict(pin.split("==") for pin in oldest.split())
    assert {"torch", "torchvision", "lightning", "torchmetrics"} == set(pins)
    for name, version in pins.items():
        (least,) = (
            found[1]
            for line in PROJECT["dependencies"]
            if (found := re.match(rf"{name}(?:\[\w+\])?>=([\d.]+)", line))
        )
        assert version.removesuffix(".*") == least


def test_every_python_of_the_project_is_tried():
    first, last = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()
    expected = [f"3.{minor}" for minor in range(int(first), int(last))]
    assert WORKFLOWS["tests"]["jobs"]["quick"]["strategy"]["matrix"]["python"] == expected


def test_they_do_what_the_script_for_one_machine_does():
    script = (ROOT / ".ci" / "run").read_text()
    tried = [" ".join(words) for job in JOBS.values() for words in commands(job)]
    for command in ("ruff format --check .", "ruff check .", "mypy", "pytest -m slow"):
        assert command in script
        assert any(line.removeprefix("python -m ") == command for line in tried), command
