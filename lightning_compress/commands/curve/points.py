"""The points of a curve: how weights are compressed at each, after training and in training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from lightning_compress.arguments import refusal, require_whole
from lightning_compress.commands.jobs.building import COMPRESSED_FIT, LENGTHS
from lightning_compress.commands.jobs.whole_job import with_compression
from lightning_compress.coreml.post_training import PostTrainingForm
from lightning_compress.counted import counted
from lightning_compress.errors import ConfigurationError, did_you_mean

TECHNIQUES = {"prune": "pruning", "palettize": "palettes", "quantize": "integers"}
"""Techniques of a curve as forms after training and `curve.methods` call them, and in words."""


@dataclass(frozen=True)
class Point:
    """A form of compressed weights, made by both workflows.

    Attributes:
        form: After training.
        technique: A name in `TECHNIQUES`.
        label: What sets it apart from others of the technique: "2 bits", "75%".
        arguments: What the technique's method takes beside `curve.methods` to do the same in training.
    """

    form: PostTrainingForm
    technique: str
    label: str
    arguments: Mapping[str, Any]

    @property
    def name(self) -> str:
        """As files and tables name it: "palettize_2bit"."""
        return self.form.name


def points_after_training(curve: DictConfig) -> list[Point]:
    """The points whose packages are made of the float16 package.

    Args:
        curve: The configuration's `curve`.

    Raises:
        ConfigurationError: A list that is none, a value that Core ML has not, or nothing at all.
    """
    return _points({key: (f"curve.{key}", curve[key]) for key in ("sparsities", "bits", "int8")})


def points_in_training(curve: DictConfig) -> list[Point]:
    """The points that are trained, as `points_after_training`; what `curve.in_training` leaves open is the same."""
    given = curve.in_training
    return _points(
        {
            key: (f"curve.{key}", curve[key])
            if given[key] is None
            else (f"curve.in_training.{key}", given[key])
            for key in ("sparsities", "bits", "int8")
        }
    )


def require_points(curve: DictConfig) -> None:
    """Refuse a curve without points, lengths of fits that it does not have, and thresholds that are no numbers.

    Raises:
        ConfigurationError: Naming what is wrong and what is valid.
    """
    trained = [point.name for point in points_in_training(curve)]
    if not trained and not points_after_training(curve):
        raise ConfigurationError(
            "there is no point to measure: curve.sparsities and curve.bits are empty, and curve.int8 is false; give a "
            "value, such as curve.bits=[4,2]"
        )
    thresholds = curve.weight_threshold
    if not isinstance(thresholds, DictConfig):
        raise refusal("curve.weight_threshold", thresholds, f"a number for each of {', '.join(TECHNIQUES)}")
    for technique in TECHNIQUES:
        require_whole(f"curve.weight_threshold.{technique}", thresholds.get(technique), 0)
    for name, lengths in curve.lengths.items():
        key = f"curve.lengths.{name}"
        if name not in trained:
            raise ConfigurationError(
                f"{key} is of no point in training{did_you_mean(str(name), trained)} "
                f"Valid are {', '.join(trained) or 'none'}."
            )
        unknown = (
            [str(entry) for entry in lengths if entry not in LENGTHS]
            if isinstance(lengths, DictConfig)
            else [""]
        )
        if unknown:
            raise ConfigurationError(
                f"{key}={OmegaConf.to_container(curve.lengths)[name]!r} "  # type: ignore[index]
                f"is no length of a fit{did_you_mean(unknown[0], LENGTHS)} Valid in it are "
                f"{', '.join(sorted(LENGTHS))}."
            )


def config_of_point(config: DictConfig, point: Point) -> DictConfig:
    """The configuration of the fit of one point, in the form of a job's: `train` would do the same with it.

    Args:
        config: Of the curve.
        point: Which is trained.
    """
    method = OmegaConf.to_container(config.curve.methods[point.technique], resolve=True)
    assert isinstance(method, dict)
    own = with_compression(
        config, {"name": point.name, "methods": {point.technique: {**method, **point.arguments}}}
    )
    with open_dict(own):
        own[COMPRESSED_FIT].trainer.merge_with(config.curve.lengths.get(point.name, {}))
    return own


def _points(given: Mapping[str, tuple[str, Any]]) -> list[Point]:
    key, int8 = given["int8"]
    if not isinstance(int8, bool):
        raise ConfigurationError(f"{key}={int8!r} is neither true nor false")
    points = [
        *_of_list(*given["sparsities"], "prune", "sparsities such as [0.5,0.75]"),
        *_of_list(*given["bits"], "palettize", "widths such as [4,2]"),
    ]
    if int8:
        points.append(Point(PostTrainingForm(quantize="int8"), "quantize", "int8", {}))
    return list({point.name: point for point in points}.values())


def _of_list(key: str, values: Any, technique: str, such: str) -> Iterator[Point]:
    if not isinstance(values, ListConfig | Sequence) or isinstance(values, str):
        raise ConfigurationError(f"{key}={values!r} is no list; give {such}, or [] for none")
    for value in values:
        try:
            form = PostTrainingForm(**{technique: value})
        except ConfigurationError as error:
            raise ConfigurationError(f"{key}={list(values)}: {error}") from error
        if technique == "prune":
            yield Point(form, technique, f"{100 * value:g}%", {"target_sparsity": value})
        else:
            yield Point(form, technique, counted(value, "bit"), {"n_bits": value})
