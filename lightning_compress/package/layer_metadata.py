"""What a package's metadata say of its weights: their names in torch, and why some stay dense.

A program's names have no dots, and a weight inside of an exported wrapper has the wrapper's prefix. So that a layer has
one name everywhere, an export writes down the one that it has in the compressed module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from lightning_compress.untrusted_text import plain_text

LAYERS = "lightning_compress.layers"
"""Key in a package's user-defined metadata, a JSON object.

"names" is a list of those names in torch that the program's can be derived from, "renamed" an object of those that
cannot, by the program's names, and "dense" one of reasons, by the names in torch. In a small package each name counts.
"""

_WRAPPED = "module_"
"""What the converter's own wrappers, such as that of image scales, put before a name."""


@dataclass(frozen=True)
class LayerMetadata:
    """What is written down of a package's weights.

    Attributes:
        names: Dotted names of torch parameters, by the names that the converter derives from them.
        dense: Why a weight is not compressed, by its dotted name.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    dense: Mapping[str, str] = field(default_factory=dict)

    def name(self, converted: str) -> str:
        """The name in torch of a weight of the program; its name there where none is written down."""
        while converted not in self.names and converted.startswith(_WRAPPED):
            converted = converted.removeprefix(_WRAPPED)
        return self.names.get(converted) or converted

    def as_text(self) -> str:
        """What stands in the metadata."""
        derived = {converted_name(name): name for name in self.names.values()}
        renamed: dict[str, str] = {}
        # What is written down may itself hide what follows from another name.
        others = dict(self.names)
        while others:
            read = LayerMetadata(derived | renamed)
            others = {key: name for key, name in self.names.items() if read.name(key) != name}
            renamed |= others
        listed = sorted({name for key, name in self.names.items() if key not in renamed})
        content = {"names": listed, "renamed": renamed, "dense": dict(self.dense)}
        return json.dumps(content, separators=(",", ":"))


def read_layer_metadata(user_metadata: Mapping[str, str]) -> LayerMetadata:
    """Read what an export wrote; nothing where somebody else wrote something else."""
    try:
        content = json.loads(user_metadata.get(LAYERS, "{}"))
    except (ValueError, RecursionError):
        return LayerMetadata()
    if not isinstance(content, dict):
        return LayerMetadata()
    listed = content.get("names")
    texts = [plain_text(name) for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    names = {converted_name(name): name for name in texts} | _texts(content.get("renamed"))
    return LayerMetadata(names, _texts(content.get("dense")))


def converted_name(name: str) -> str:
    """The name that coremltools derives from a dotted one."""
    return re.sub(r"\W", "_", name)


def _texts(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {
        plain_text(key): " ".join(plain_text(text).split())
        for key, text in value.items()
        if isinstance(key, str) and isinstance(text, str)
    }
