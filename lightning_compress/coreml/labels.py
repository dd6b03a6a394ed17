"""Class labels of a classifier, from a list or from a file with one label a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lightning_compress.errors import ConfigurationError


def read_labels(class_labels: str | Path | Sequence[str]) -> list[str]:
    """The labels in the order of the network's outputs.

    Args:
        class_labels: The labels, or the path of a UTF-8 text file with one label a line.

    Raises:
        ConfigurationError: If the file cannot be read, there are no labels, one is blank, or one appears
            twice (the probabilities are a dictionary by label, which would lose one of the two).
    """
    if isinstance(class_labels, (str, Path)):
        source = f"the label file {str(class_labels)!r}"
        try:
            labels = Path(class_labels).expanduser().read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"class_labels={str(class_labels)!r} cannot be read ({error}); "
                "give a list of labels or a UTF-8 text file with one label a line"
            ) from error
        while labels and not labels[-1].strip():
            labels.pop()
    else:
        source = "class_labels"
        labels = [str(label) for label in class_labels]
    labels = [label.strip() for label in labels]
    if not labels:
        raise ConfigurationError(f"{source} holds no label")
    if "" in labels:
        raise ConfigurationError(f"label {labels.index('')} of {source} is blank")
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise ConfigurationError(
            f"{source} holds {twice[0]!r} more than once; "
            "a package gives probabilities by label, so each must differ"
        )
    return labels
