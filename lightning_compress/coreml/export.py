"""`CoreMLExport`: everything a user says about the package, and the one call that makes it."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import coremltools as ct
from torch import nn

from lightning_compress.coreml.capabilities import require_present
from lightning_compress.coreml.card import write_model_card
from lightning_compress.coreml.convert import Interface, convert
from lightning_compress.coreml.detector import NonMaximumSuppression
from lightning_compress.coreml.export_arguments import check_arguments, wrapped
from lightning_compress.coreml.image import ImageInput
from lightning_compress.coreml.labels import read_labels
from lightning_compress.coreml.layer_names import layer_names
from lightning_compress.coreml.structure import ExampleInputs, as_tuple
from lightning_compress.coreml.tolerance import Tolerance, default_tolerance
from lightning_compress.coreml.verification import Verification, verify_package
from lightning_compress.errors import ConfigurationError, PackageError
from lightning_compress.nice_to_have import nice_to_have
from lightning_compress.package.inspection import PackageReport, inspect
from lightning_compress.package.layer_metadata import LAYERS, LayerMetadata
from lightning_compress.package.save import require_folder, require_writable, resolve, save_package
from lightning_compress.package.targets import Capability, resolve_target, target_name
from lightning_compress.package.versions import exclusive

_PREVIEW = "com.apple.coreml.model.preview.type"
"""The metadata by which Xcode knows how to try a model."""

_FAR = 10
"""How many times the difference allowed after training is told before it: a number that half precision cannot hold."""

_PIXELS = 5
"""Half precision moves the boxes of a hardly trained detector by more than a pixel on images that are no photographs; a
wrong program moves them far. On real images `lightning-compress verify` asks for one pixel."""


@dataclass(frozen=True)
class ExportedPackage:
    """A package on the disk.

    Attributes:
        path: Its absolute path.
        package_bytes: Bytes of all its files.
        weight_bytes: Bytes of its weights.
        float16_weight_bytes: Bytes of the weights of the same model, dense, at float16.
        target: The lowest systems that run it ("iOS18 / macOS15").
        report: What it holds, layer by layer.
    """

    path: Path
    package_bytes: int
    weight_bytes: int
    float16_weight_bytes: int
    target: str
    report: PackageReport


@dataclass(frozen=True)
class CoreMLExport:
    """How a finalized module becomes a Core ML package.

    Args:
        path: Where to write the package, ending in `.mlpackage`. An earlier one is replaced whole, and stays
            if the export fails.
        minimum_deployment_target: Lowest system that the package shall run on, such as "iOS18" or "macOS15";
            None for the lowest that carries the compression.
        compute_precision: "float16", or "float32" for networks that half precision breaks. With `nms`, what follows
            the last layer with weights, which is the decoding of the boxes, is computed in float32 in either case.
        image: Present the first input as an image; None leaves it an array.
        input_names: Names of the inputs.
        output_names: Names of the outputs.
        class_labels: Labels of a classifier, or a text file with one a line. The module must return one
            probability a class: see `softmax_outputs` for one that returns logits. With `nms`, the labels of a
            detector.
        nms: Put Core ML's non-maximum suppression behind a detector, so that Vision takes the package; the
            module must return confidences and coordinates.
        author: Shown by Xcode, as are the following.
        license: License of the model.
        description: What the model does.
        version: Version of the model.
        input_descriptions: What each input takes, by name.
        output_descriptions: What each output holds, by name.
        user_metadata: Further metadata, by key.
        wrapper: Called with the finalized module; what it returns is exported. For softmax, box decoding,
            picking outputs.
        verify: Whether the package is run, and compared with the module, before it takes its place.
        tolerance: How far outputs may be apart then; None for one that fits the package: see `tolerance_for`.
        card: Whether to write a model card, a Markdown file, beside the package.

    Raises:
        ConfigurationError: If a value cannot be used.
        TargetError: If the deployment target is unknown.

    Example:
        >>> export = CoreMLExport(
        ...     "digits.mlpackage",
        ...     image=ImageInput(scale=1 / 255, color_layout="GRAYSCALE"),
        ...     class_labels=[str(digit) for digit in range(10)],
        ...     wrapper=softmax_outputs,
        ... )
    """

    path: str | Path
    minimum_deployment_target: str | None = None
    compute_precision: str = "float16"
    image: ImageInput | None = None
    input_names: Sequence[str] | None = None
    output_names: Sequence[str] | None = None
    class_labels: Sequence[str] | str | Path | None = None
    nms: NonMaximumSuppression | None = None
    author: str | None = None
    license: str | None = None
    description: str | None = None
    version: str | None = None
    input_descriptions: Mapping[str, str] | None = None
    output_descriptions: Mapping[str, str] | None = None
    user_metadata: Mapping[str, object] | None = None
    wrapper: Callable[[nn.Module], nn.Module] | None = None
    verify: bool = True
    tolerance: Tolerance | None = None
    card: bool = True

    def __post_init__(self) -> None:
        check_arguments(self)

    def validate(self, capabilities: Collection[Capability] = ()) -> None:
        """Find out before training whether the export can succeed.

        Args:
            capabilities: What the compression needs of the package.

        Raises:
            TargetError: If the deployment target cannot carry the compression; the message names the lowest
                that can.
            ConfigurationError: If the folder cannot be written, or the labels cannot be read.
        """
        resolve_target(self.minimum_deployment_target, capabilities)
        require_writable(self.path)
        self._labels()

    def run(
        self,
        module: nn.Module,
        example_inputs: ExampleInputs,
        capabilities: Collection[Capability] = (),
        *,
        reference: nn.Module | None = None,
        dense_reasons: Mapping[str, str] | None = None,
    ) -> ExportedPackage:
        """Wrap, trace, convert, check, write, verify and measure.

        Args:
            module: A finalized module; it is not changed.
            example_inputs: What to call it with.
            capabilities: What the compression needs of the package; that each is really in it is checked
                before it is written.
            reference: What the package is compared with, such as the module that was trained; by default `module`.
            dense_reasons: Why parameters of `module` are not compressed, by their dotted names, for those who look
                into the package.

        Raises:
            TraceError: If the module cannot be traced.
            ConfigurationError: If the wrapper fails, or names, labels and image do not fit the module.
            TargetError: If the deployment target cannot carry the compression.
            CompressionError: If the converted program lacks a compression that was asked for.
            VerificationError: If the package does not compute what the module does; an earlier one is then
                still there.
            PackageError: If the package cannot be written; an earlier one is then still there.
        """
        target = resolve_target(self.minimum_deployment_target, capabilities)
        model = self._converted(module, example_inputs, target, capabilities, dense_reasons)

        def verify(package: Path) -> None:
            compared = module if reference is None else reference
            self.compare(package, compared, example_inputs, capabilities, finalized=module).require_passed()

        destination = resolve(self.path)
        require_folder(destination)
        # What is said of the package is said of this one, and not of one that another job has written since.
        with exclusive(destination):
            path = save_package(model, destination, verify if self.verify else None)
            report = _inspected(path)
            if self.card:
                with nice_to_have("the model card"):
                    write_model_card(report)
        return ExportedPackage(
            path=path,
            package_bytes=report.package_bytes,
            weight_bytes=report.weight_bytes,
            float16_weight_bytes=report.float16_weight_bytes,
            target=target_name(target.value),
            report=report,
        )

    def rehearse(
        self,
        module: nn.Module,
        example_inputs: ExampleInputs,
        capabilities: Collection[Capability] = (),
        *,
        reference: nn.Module | None = None,
        further: Callable[[Path], None] | None = None,
    ) -> None:
        """Do all that `run` does but for writing the package and judging its numbers, which training will change.

        A package whose outputs overflow in half precision, or are far from what the module computes, is warned of.

        Args:
            module: A finalized module as it is before training; it is not changed.
            example_inputs: What to call it with.
            capabilities: What the compression needs of the package.
            reference: What the package will be compared with in the end; by default `module`.
            further: Called with a package that will be gone afterwards: what else will be done with the real one.

        Raises:
            CompressionError: As `run` raises it.
        """
        target = resolve_target(self.minimum_deployment_target, capabilities)
        model = self._converted(module, example_inputs, target, capabilities)
        with tempfile.TemporaryDirectory() as folder:
            package = save_package(model, Path(folder) / "rehearsal.mlpackage")
            if self.verify:
                self._warn_of_precision(
                    self.compare(package, module, example_inputs, capabilities), capabilities
                )
                if reference is not None:
                    # A wrapper may do for a finalized module what it cannot do for one in training.
                    self.compare(package, reference, example_inputs, capabilities, finalized=module)
            if further is not None:
                further(package)

    def _warn_of_precision(self, verification: Verification, capabilities: Collection[Capability]) -> None:
        if self.compute_precision != "float16":
            return
        # Quantized inputs have seen no data yet, so that any rounding may move them by a step.
        judged = Capability.INT8_ACTIVATIONS not in capabilities
        broken = [
            output.name
            for output in verification.outputs
            if not math.isfinite(output.largest)
            or (judged and not output.is_labels and output.largest > _FAR * output.allowed)
        ]
        if broken:
            warnings.warn(
                f"before training, the outputs {broken} of the package overflow in half precision or are far from the "
                "module's; if they still are after it, set compute_precision='float32'",
                stacklevel=2,
            )

    def _converted(
        self,
        module: nn.Module,
        example_inputs: ExampleInputs,
        target: ct.target,
        capabilities: Collection[Capability],
        dense_reasons: Mapping[str, str] | None = None,
    ) -> ct.models.MLModel:
        exported = self.wrapped(module)
        model = convert(
            exported,
            example_inputs,
            target=target,
            interface=Interface(self.image, self.input_names, self.output_names, self._labels(), self.nms),
            compute_precision=self.compute_precision,
        )
        self._describe(model)
        layers = LayerMetadata(layer_names(exported, module), dense_reasons or {})
        model.user_defined_metadata[LAYERS] = layers.as_text()
        require_present(capabilities, model)
        return model

    def compare(
        self,
        package: Path,
        module: nn.Module,
        example_inputs: ExampleInputs,
        capabilities: Collection[Capability] = (),
        *,
        finalized: nn.Module | None = None,
    ) -> Verification:
        """Compare a package with a module, on samples that need no data.

        Args:
            package: Path of the `.mlpackage` folder.
            module: The finalized module, or the one that was trained.
            example_inputs: What to call it with.
            capabilities: What the compression needs of the package; see `tolerance_for`.
            finalized: The finalized module, where `module` is another.

        Raises:
            VerificationError: If outputs are missing or of other sizes.
            PackageError: If the package cannot be loaded.
        """
        first = as_tuple(example_inputs)[0]
        size = None if self.image is None else (first.shape[-2], first.shape[-1])
        quantized = Capability.INT8_ACTIVATIONS in capabilities
        return verify_package(
            package,
            self.wrapped(module),
            example_inputs,
            self.tolerance_for(size, quantized_activations=quantized, pixels=_PIXELS),
            finalized=None if finalized is None else self.wrapped(finalized),
            image=self.image,
            pixel=None if self.nms is None or size is None else 1 / max(size),
        )

    def tolerance_for(
        self,
        image_size: tuple[int, int] | None = None,
        *,
        quantized_activations: bool = False,
        pixels: float = 1.0,
    ) -> Tolerance:
        """The tolerance that the export asks for, or `default_tolerance`.

        Args:
            image_size: Height and width of the images, in pixels.
            quantized_activations: Whether the package computes with quantized activations.
            pixels: How many pixels a detector's box may be off.
        """
        if self.tolerance is not None:
            return self.tolerance
        box = None if self.nms is None or image_size is None else pixels / max(image_size)
        return default_tolerance(self.compute_precision, box=box, quantized_activations=quantized_activations)

    def _labels(self) -> list[str] | None:
        if self.nms is not None and self.class_labels is None:
            raise ConfigurationError(
                "nms needs class_labels, one for each class; apps show them with the boxes"
            )
        if self.nms is not None and self.image is None:
            raise ConfigurationError("nms needs an image input: image=ImageInput(...)")
        return None if self.class_labels is None else read_labels(self.class_labels)

    def wrapped(self, module: nn.Module) -> nn.Module:
        """What is exported of a finalized module."""
        return module if self.wrapper is None else wrapped(self.wrapper, module)

    def _describe(self, model: ct.models.MLModel) -> None:
        for attribute, text in (
            ("author", self.author),
            ("license", self.license),
            ("short_description", self.description),
            ("version", self.version),
        ):
            if text is not None:
                setattr(model, attribute, str(text))
        for argument, given, features in (
            ("input_descriptions", self.input_descriptions, model.input_description),
            ("output_descriptions", self.output_descriptions, model.output_description),
        ):
            for name, description in (given or {}).items():
                if name not in list(features):
                    raise ConfigurationError(
                        f"{argument} names {name!r}; the package has {', '.join(sorted(features))}"
                    )
                features[name] = description
        if self.image is not None and self.class_labels is not None:
            kind = "imageClassifier" if self.nms is None else "objectDetector"
            model.user_defined_metadata[_PREVIEW] = kind
        for key, value in (self.user_metadata or {}).items():
            model.user_defined_metadata[str(key)] = str(value)


def _inspected(path: Path) -> PackageReport:
    try:
        return inspect(path)
    except Exception as error:
        raise PackageError(
            f"the package {str(path)!r} is written, and cannot be inspected: {error}"
        ) from error
