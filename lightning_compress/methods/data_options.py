"""Keys that several techniques share that are driven by data."""

from __future__ import annotations

import math

from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.mechanism.configuration import Keys
from lightning_compress.methods.mechanism.layer_inputs import matrix_form
from lightning_compress.methods.mechanism.tensors import TensorReference


def check_data_options(keys: Keys, source: str) -> None:
    """Refuse values that no tensor could use.

    Args:
        keys: As the user gave them; those of other kinds are passed over.
        source: Where they came from, for messages.

    Raises:
        ConfigurationError: With the value, `source` and what is valid.
    """
    for key in ("bias_correction", "use_activation_order_heuristic", "sensitive"):
        if key in keys and not isinstance(keys[key], bool):
            raise ConfigurationError(f"{key} of {source} is {keys[key]!r}; valid is true or false")
    dampening = keys.get("hessian_dampening", 0.01)
    if type(dampening) not in (int, float) or not math.isfinite(dampening) or dampening < 0:
        raise ConfigurationError(
            f"hessian_dampening of {source} is {dampening!r}; valid is a share of the mean curvature from 0, such as "
            "0.01"
        )


def without_inputs(reference: TensorReference, technique: str) -> str | None:
    """Why a technique that looks at what a weight is multiplied by leaves a tensor, or None."""
    if matrix_form(reference) is not None:
        return None
    kind = "a parameter of no known layer" if reference.kind is None else reference.kind.name
    return (
        f"{technique} looks at what a layer multiplies its weight by, and {kind} has none that it could see"
    )
