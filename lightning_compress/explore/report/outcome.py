"""What was asked and what came of it, in words."""

from __future__ import annotations

from lightning_compress.counted import counted
from lightning_compress.explore.record import Candidate, Exploration, Question
from lightning_compress.explore.report.words import metric, size, times_smaller

ANSWERED, DOUBTFUL, UNANSWERED, UNFINISHED = "answered", "doubtful", "unanswered", "unfinished"
"""How a search ended: with a package; with one that fails on other data; with none; not yet."""


def outcome(exploration: Exploration) -> str:
    """How a search ended, one of the four words above.

    Args:
        exploration: What it found.
    """
    if exploration.chosen is not None:
        verdict = exploration.verdict
        return DOUBTFUL if verdict is not None and not verdict.holds else ANSWERED
    return UNANSWERED if exploration.nearest is not None else UNFINISHED


def subject(exploration: Exploration) -> Candidate | None:
    """The package that a report is about: the chosen one, or the nearest.

    Args:
        exploration: What a search found.
    """
    name = exploration.chosen or exploration.nearest
    return None if name is None else exploration.candidate(name)


def answer(exploration: Exploration) -> str:
    """The answer in one sentence.

    Names stand in it as they are: escape it for where it goes.

    Args:
        exploration: What a search found.
    """
    about = subject(exploration)
    if about is None:
        return f"No package has been chosen yet; asked is {asked(exploration.question)}."
    beginning = {
        ANSWERED: f"{about.name} answers",
        DOUBTFUL: f"{about.name} answers on the data of the search, but not on data that it has not seen",
        UNANSWERED: f"No package answers; the nearest is {about.name}",
    }[outcome(exploration)]
    return (
        f"{beginning}: {size(about.package_bytes)}, "
        f"{times_smaller(about.package_bytes, exploration.reference.package_bytes)} times smaller than float16, "
        f"with {quality(exploration, about)}; asked was {asked(exploration.question)}."
    )


def quality(exploration: Exploration, about: Candidate) -> str:
    """The metric of the package that a report is about, on the data that say most.

    Args:
        exploration: What a search found.
        about: The package.
    """
    name, verdict = exploration.question.metric, exploration.verdict
    if verdict is None or about.name != exploration.chosen:
        return f"{name} {metric(about.value)}, {worse_by(about.drop, about.drop_error)}, on the data of the search"
    return (
        f"{name} {metric(verdict.value, verdict.error)}, {worse_by(verdict.drop, verdict.drop_error)}, "
        f"on {counted(verdict.samples, 'sample')} that the search has not seen"
    )


def worse_by(drop: float, error: float | None = None) -> str:
    """A drop in words, whichever way it goes.

    Args:
        drop: How much worse than float16; negative where it is better.
        error: Its standard error.

    Example:
        >>> worse_by(0.004, 0.003), worse_by(-0.001)
        ('worse by 0.0040 ± 0.0030', 'better by 0.0010')
    """
    return f"{'better' if drop < 0 else 'worse'} by {metric(abs(drop), error)}"


def asked(question: Question) -> str:
    """The limits that were asked for.

    Args:
        question: What was asked.

    Example:
        >>> asked(Question("val/map", max_drop=0.01, max_bytes=4_000_000))
        'a drop of at most 0.01 and a package of at most 4.00 MB'
    """
    if question.max_drop is None and question.max_bytes is not None:
        return f"the best package of at most {size(question.max_bytes)}"
    limits = []
    if question.max_drop is not None:
        errors = "standard error" if question.margin == 1 else "standard errors"
        margin = f", kept by {question.margin:g} {errors}" if question.margin else ""
        limits.append(f"a drop of at most {question.max_drop:g}{margin}")
    if question.max_bytes is not None:
        limits.append(f"a package of at most {size(question.max_bytes)}")
    return " and ".join(limits) or "the smallest package, without a limit"
