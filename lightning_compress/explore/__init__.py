"""The search for the smallest package that still does the job.

- `question`, `quantities`, `limits`: what is asked; `subject`: what is searched, `module_subject` where it is given as
  objects.
- `forms`, `sizes`: how a tensor can be stored, and what it takes then.
- `projection`, `error_scores`, `sensitivity`: what each form costs the outputs; `sensitivity_file`, `importance_file`
  keep it.
- `allocation`: a form for each tensor; `rungs`: what is tried; `making`: packages, made and measured.
- `parts`, `uncertainty`, `verdict`: the data of the search and those of the verdict, and how far a metric can be off.
- `searching`: all of it in order; `planning`: how long that takes; `record`: what is left behind.
- `report`, `front`, `profiling`: what people read of it, and devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import lightning as L

    from lightning_compress.explore.record import Exploration

__all__ = ["search"]


def search(
    module: L.LightningModule,
    data: L.LightningDataModule,
    *,
    metric: str,
    folder: str | Path,
    forms: Sequence[str] | None = None,
    measured: Sequence[str] = (),
    tell: Callable[[str], None] | None = None,
    subject: dict[str, Any] | None = None,
    **question: Any,
) -> Exploration:
    """Search for the smallest package of a module's network, as `lightning-compress explore` does.

    Args:
        module: The LightningModule with its float weights; it stays as it is.
        data: Its data. The search looks at one half of the validation data and is judged by the other.
        metric: Name of the metric, as validation logs it.
        folder: Where packages and records go; a search that stood there is gone on with.
        forms: Names of what a tensor may become, such as "palettize_4bit"; None for a choice that suits every device.
        measured: Those forms for which the outputs are really computed with one tensor after the other in them: slower
            and more exact scores.
        tell: Is told what happens, line by line; None for nobody.
        subject: What `lightning_compress.explore.module_subject.ModuleSubject` takes beside: `network`, `task`,
            `export`, `steps`, `make_trainer`, `classes`.
        question: What `lightning_compress.explore.question.Asked` takes: `max_drop`, `max_size`, `budget`, `rungs` and
            others. Without `steps` in `subject` nothing is trained.

    Returns:
        What was found, as it stands in `explore.json` in the folder.

    Raises:
        ConfigurationError: A question that cannot be asked, before time is spent.

    Example:
        >>> from lightning_compress.explore import search
        >>> found = search(
        ...     LitClassifier(), data, metric="accuracy", folder="explored", max_size="40kB", rungs=["mixed"]
        ... )
        >>> package, drop = found.chosen, found.verdict.drop
    """
    # Lightning and conversion take their time to load, and importing this package must not.
    from lightning_compress.explore.forms import parse_forms
    from lightning_compress.explore.module_subject import ModuleSubject
    from lightning_compress.explore.question import Asked
    from lightning_compress.explore.searching import Search

    asked = {**question, **({} if forms is None else {"forms": parse_forms(list(forms), "forms")})}
    if measured:
        asked["measured"] = parse_forms(list(measured), "measured")
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    searching = Search(
        ModuleSubject(module, data, metric, **(subject or {})), Asked(**asked), place, tell or _nobody
    )
    return searching.run()


def _nobody(text: str) -> None:
    pass
