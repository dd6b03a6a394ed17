"""The keys of a palettized weight, as coremltools names them, and what values they may have."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from lightning_compress.dkm.clustering import ESTIMATORS, MODES
from lightning_compress.dkm.weight_palette import LUT_DTYPES
from lightning_compress.errors import ConfigurationError
from lightning_compress.methods.annealing import Annealing, check_annealing
from lightning_compress.methods.mechanism.configuration import Keys, unwrapped
from lightning_compress.methods.mechanism.schedule import Point, check_point
from lightning_compress.package.targets import PALETTE_BITS

GROUPED = "per_grouped_channel"
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "granularity": ("per_tensor", GROUPED),
    "palett_mode": MODES,
    "estimator": ESTIMATORS,
    "indivisible": ("refuse", "scalars"),
    "kmeans_init": ("auto", "opt1d", "kmeans++", "cpu.kmeans++", "nf", "nf_fit"),
    "per_channel_scaling_factor_scheme": ("min_max", "abs"),
    "lut_dtype": tuple(LUT_DTYPES),
    "dtype": ("qint8", "quint8", "float32"),
}
_COUNTS = ("group_size", "cluster_dim", "kmeans_max_iter")
VECTOR_TAU = 0.12
"""The temperature of vectors by default, as a share of the squared error that is left of one."""

_RENAMED = {"partition_size": "group_size", "cluster_dtype": "lut_dtype"}


@dataclass(frozen=True)
class PaletteOptions:
    """The keys of coremltools' `ModuleDKMPalettizerConfig`, with their defaults unless told, and six more.

    Keys that say only how coremltools computes are accepted and do nothing: `palett_max_mem`, `palett_shard`,
    `palett_dist`, `palett_unique`, `palett_min_tsize`, `palett_batch_mode`, `kmeans_batch_threshold`, `kmeans_n_init`,
    `kmeans_error_bnd`, `kmeans_opt1d_threshold`, `quant_min`, `quant_max`, `dtype`, `palett_lambda` and
    `add_extra_centroid`.

    Attributes:
        n_bits: A palette has 2**n_bits entries; None for 4 bits in `Linear` layers and 2 in all others.
        estimator: How gradients reach a weight, "dkm" or "straight_through" (see `lightning_compress.dkm.palettize`).
        kmeans_max_iter: Updates of the centroids in a step. None for 3 of scalars, as in coremltools, and 1 of vectors,
            for which more cost as much again and gain nothing: palettes go on from where the step before left them.
        indivisible: What becomes of a weight that vectors of `cluster_dim` channels do not divide, or that has fewer
            of them than the palette has entries: "refuse", or "scalars", a palette of as many bits a weight.
        palett_tau: The temperature in squared units of weights: softer for small weights than for large ones. None for
            1e-4 of scalars, as in coremltools, and of vectors for the share `VECTOR_TAU` of the squared error that
            their bits leave, at which few of many entries matter to a vector: steps cost less, and fits end as well.
        relative_tau: The temperature as a share of a weight's variance, when its first palette is made. It takes the
            place of `palett_tau`.
        annealing: Lets the temperature fall, None for not: a mapping of `factor`, the share of the first temperature
            that is left, and of the points between which it falls, `begin_step` and `end_step`, by default the fit's.
        exact: Attend from every weight to every centroid instead of evaluating both on a grid of the weights' range.
        native: Let the passes written in C serve where they are built; otherwise torch does.
    """

    n_bits: int | None = None
    weight_threshold: int = 2048
    granularity: str = "per_tensor"
    group_size: int | None = None
    channel_axis: int = 0
    enable_per_channel_scale: bool = False
    milestone: Point = 0
    cluster_dim: int | None = None
    quant_min: int = -128
    quant_max: int = 127
    dtype: str = "qint8"
    lut_dtype: str = "f32"
    quantize_activations: bool = False
    cluster_permute: tuple[int, ...] | None = None
    palett_max_mem: float = 1.0
    kmeans_max_iter: int | None = None
    prune_threshold: float = 1e-7
    kmeans_init: str = "auto"
    kmeans_opt1d_threshold: int = 1024
    enforce_zero: bool = False
    palett_mode: str = "dkm"
    palett_tau: float | None = None
    palett_epsilon: float = 1e-4
    palett_lambda: float = 0.0
    add_extra_centroid: bool = False
    palett_cluster_tol: float = 0.0
    palett_min_tsize: int = 64 * 1024
    palett_unique: bool = False
    palett_shard: bool = False
    palett_batch_mode: bool = False
    palett_dist: bool = False
    per_channel_scaling_factor_scheme: str = "min_max"
    percentage_palett_enable: float = 1.0
    kmeans_batch_threshold: int = 4
    kmeans_n_init: int = 10
    zero_threshold: float = 1e-7
    kmeans_error_bnd: float = 0.0
    estimator: str = "dkm"
    indivisible: str = "refuse"
    relative_tau: float | None = None
    annealing: Annealing | None = None
    exact: bool = False
    native: bool = True

    @classmethod
    def of(cls, keys: Keys) -> PaletteOptions:
        """The options that checked keys give."""
        values = {key: unwrapped(value) for key, value in keys.items()}
        if values.get("cluster_permute") is not None:
            values["cluster_permute"] = tuple(values["cluster_permute"])
        if values.get("annealing") is not None:
            values["annealing"] = Annealing(**values["annealing"])
        return cls(**values)

    @property
    def temperature(self) -> float:
        """Of scalars, where no share of a variance is asked for."""
        return 1e-4 if self.palett_tau is None else self.palett_tau

    def share_of_variance(self, entries: int, cluster_dim: int) -> float | None:
        """The temperature as a share of a weight's variance, for a palette of so many vectors of so many channels.

        R bits an element leave a squared error of at least the variance times 4**-R of elements that are normal
        (Cover and Thomas, Elements of Information Theory, 10.3).

        Returns:
            The share, or None for the temperature as it is.
        """
        if self.relative_tau is None and self.palett_tau is None and cluster_dim > 1:
            return VECTOR_TAU * cluster_dim * math.pow(entries, -2 / cluster_dim)
        return self.relative_tau

    @property
    def is_grouped(self) -> bool:
        """Whether groups of channels have palettes of their own."""
        return self.granularity == GROUPED


_TYPES = {item.name: str(item.type) for item in fields(PaletteOptions)}


def check_options(keys: Keys, source: str) -> None:
    """Refuse values that no weight could use.

    Args:
        keys: As the user gave them.
        source: Where they came from, for messages.

    Raises:
        ConfigurationError: With the value, `source` and what is valid.
    """
    bits = keys.get("n_bits")
    if bits is not None and (type(bits) is not int or bits not in PALETTE_BITS):
        raise ConfigurationError(f"n_bits of {source} is {bits!r}; valid are {list(PALETTE_BITS)}")
    check_point(keys.get("milestone", 0), f"milestone of {source}")
    for key, choices in _CHOICES.items():
        if key in keys and unwrapped(keys[key]) not in choices:
            raise ConfigurationError(f"{key} of {source} is {keys[key]!r}; valid are {list(choices)}")
    for key in _COUNTS:
        value = keys.get(key)
        missing = value is None and (key not in keys or "None" in _TYPES[key])
        if not missing and (type(value) is not int or value < 1):
            raise ConfigurationError(f"{key} of {source} is {value!r}; valid is an int from 1")
    _check_groups(keys, source)
    if keys.get("quantize_activations"):
        raise ConfigurationError(
            f"quantize_activations of {source} is true, which does nothing in coremltools 9 when the model is "
            'converted; leave it out, and join LinearQuantization(weight_dtype="float32") to quantize activations'
        )
    for key, value in keys.items():
        if key not in (
            *_CHOICES,
            *_COUNTS,
            "n_bits",
            "milestone",
            "cluster_permute",
            "annealing",
            "relative_tau",
        ):
            _check_type(key, value, source)
    _check_ranges(keys, source)
    check_annealing(keys.get("annealing"), source)


def refuse_renamed(configuration: Any) -> None:
    """Refuse keys that coremltools has given another name, wherever in a configuration they stand.

    Raises:
        ConfigurationError: With the new name.
    """
    if isinstance(configuration, Mapping):
        for key, value in configuration.items():
            if key in _RENAMED:
                raise ConfigurationError(
                    f"{key!r} of DKMPalettization is deprecated in coremltools; use {_RENAMED[key]!r} instead"
                )
            refuse_renamed(value)
    elif isinstance(configuration, Iterable) and not isinstance(configuration, str):
        for entry in configuration:
            refuse_renamed(entry)


def _check_groups(keys: Keys, source: str) -> None:
    granularity = unwrapped(keys.get("granularity", "per_tensor"))
    if granularity == GROUPED and keys.get("group_size") is None:
        raise ConfigurationError(f"granularity of {source} is {GROUPED}, which needs a group_size")
    if granularity == "per_tensor" and keys.get("group_size") is not None:
        raise ConfigurationError(
            f"group_size of {source} is {keys['group_size']}, which has no meaning with granularity per_tensor; set "
            f"granularity to {GROUPED}"
        )
    if keys.get("channel_axis", 0) not in (0, None):
        raise ConfigurationError(
            f"channel_axis of {source} is {keys['channel_axis']!r}; valid is 0, the output channels; use "
            "cluster_permute for another axis"
        )
    permutation = keys.get("cluster_permute")
    if permutation is None:
        return
    if not isinstance(permutation, list | tuple) or sorted(permutation, key=str) != list(
        range(len(permutation))
    ):
        raise ConfigurationError(
            f"cluster_permute of {source} is {permutation!r}; valid is an order of a weight's axes, such as "
            "[1, 0, 2, 3]"
        )


def _check_type(key: str, value: Any, source: str) -> None:
    kind = _TYPES[key]
    if value is None and "None" in kind:
        return
    valid = {
        "bool": isinstance(value, bool),
        "int": type(value) is int,
        "float": type(value) in (int, float) and math.isfinite(value),
    }
    name = kind.partition(" ")[0]
    if key != "channel_axis" and name in valid and not valid[name]:
        raise ConfigurationError(f"{key} of {source} is {value!r}; valid is {_ARTICLES[name]}")


_ARTICLES = {"bool": "true or false", "int": "an int", "float": "a finite float"}


def _check_ranges(keys: Keys, source: str) -> None:
    temperature, relative = keys.get("palett_tau"), keys.get("relative_tau")
    if temperature is not None and not temperature > 0:
        raise ConfigurationError(
            f"palett_tau of {source} is {temperature}; valid is null, or a float above 0"
        )
    if relative is not None:
        if temperature is not None:
            raise ConfigurationError(
                f"{source} has palett_tau {temperature} and relative_tau {relative}, which both set the "
                "temperature; give one of them"
            )
        if isinstance(relative, bool) or not isinstance(relative, int | float) or not 0 < relative < math.inf:
            raise ConfigurationError(
                f"relative_tau of {source} is {relative!r}; valid is null, or a float above 0, such as 0.1"
            )
    for key in ("palett_epsilon", "prune_threshold", "weight_threshold"):
        if keys.get(key, 0) < 0:
            raise ConfigurationError(f"{key} of {source} is {keys[key]}; valid is anything from 0")
    for key in ("zero_threshold", "percentage_palett_enable", "palett_cluster_tol"):
        if not 0 <= keys.get(key, 0) <= 1:
            raise ConfigurationError(f"{key} of {source} is {keys[key]}; valid is a float from 0 to 1")
