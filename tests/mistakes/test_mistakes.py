"""Every mistake of the catalogue is told by an error of ours, in words that help, before the first step."""

from __future__ import annotations

from collections import Counter

import pytest

from lightning_compress import Compression
from tests.commands.processes import Call, run_calls
from tests.mistakes.bench import Bench, Mistake, Practice, TrainingBeganError, judge, lay, make
from tests.mistakes.catalogue import IN_PYTHON, MISTAKES
from tests.mistakes.commands import COMMANDS


@pytest.mark.parametrize(
    "mistake",
    [mistake for mistakes in IN_PYTHON.values() for mistake in mistakes],
    ids=[f"{place}: {mistake.name}" for place, mistakes in IN_PYTHON.items() for mistake in mistakes],
)
def test_is_told_before_the_first_step(mistake, tmp_path):
    outcome = make(mistake, tmp_path)
    assert outcome.is_told, f"{outcome.told_by}: {outcome.message}"


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    """How each mistake at a command was told; all are made by processes of one that has imported everything."""
    folders = {mistake.name: tmp_path_factory.mktemp("typed") for mistake in COMMANDS}
    laid = {mistake.name: lay(mistake, folders[mistake.name]) for mistake in COMMANDS}
    calls = [Call(mistake.words, folder=str(folders[mistake.name])) for mistake in COMMANDS]
    ended = run_calls(*calls, folder=tmp_path_factory.mktemp("calls"))
    return {
        mistake.name: judge(mistake, folders[mistake.name], laid[mistake.name], one.code, one.output)
        for mistake, one in zip(COMMANDS, ended, strict=True)
    }


@pytest.mark.slow
@pytest.mark.parametrize("mistake", COMMANDS, ids=[mistake.name for mistake in COMMANDS])
def test_is_told_on_the_command_line(mistake, typed):
    outcome = typed[mistake.name]
    assert outcome.is_told, f"{outcome.told_by}: {outcome.message}"


def test_there_are_many_and_none_has_the_name_of_another():
    assert sum(map(len, MISTAKES.values())) >= 120
    assert len(COMMANDS) >= 25
    for place, mistakes in MISTAKES.items():
        counts = Counter(mistake.name for mistake in mistakes)
        assert [name for name, count in counts.items() if count > 1] == [], place


class TestTheBench:
    """Finds out where a mistake is not told."""

    def test_a_fit_without_mistakes_begins(self, tmp_path):
        with pytest.raises(TrainingBeganError):
            Bench(tmp_path).fit(Compression(module="model", export=tmp_path / "net.mlpackage"), Practice())

    @pytest.mark.parametrize(
        ("call", "told_by"),
        [
            (lambda bench: None, "nobody!"),
            (lambda bench: 1 / 0, "ZeroDivisionError!"),
            (lambda bench: bench.fit(Compression(module=5)), "in other words!"),
        ],
    )
    def test_a_mistake_that_is_not_told_is_found(self, tmp_path, call, told_by):
        outcome = make(Mistake("an example", "words that nobody says", call), tmp_path)
        assert outcome.told_by.endswith(told_by)
        assert not outcome.is_told
