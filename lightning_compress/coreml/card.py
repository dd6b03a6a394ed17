"""The model card beside a package: what it is, how well it does, how it is compressed, how an app uses it.

Whoever made the package wrote its names and descriptions; the card shows them as they are.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lightning_compress.coreml.detector import CONFIDENCE, COORDINATES
from lightning_compress.counted import counted
from lightning_compress.markdown import code_block, code_span, escaped, markdown_table
from lightning_compress.package.inspection import Layer, PackageReport
from lightning_compress.package.interface import Feature, PackageFunction
from lightning_compress.package.layer_metadata import LAYERS
from lightning_compress.package.rendering import format_bytes, storage
from lightning_compress.package.save import write_whole

METRICS = "metrics"
"""Key in the metadata of a package's metrics, a JSON object."""

_NOT_SHOWN = ("com.github.apple.", "com.apple.")
"""Prefixes of metadata that tools write for one another."""


def write_model_card(report: PackageReport) -> Path:
    """Write the card of a package beside it: `net.md` for `net.mlpackage`.

    Args:
        report: What `inspect` says of the package.

    Returns:
        The path of the card.
    """
    path = report.path.with_suffix(".md")
    write_whole(path, model_card(report).encode(errors="replace"))
    return path


def model_card(report: PackageReport) -> str:
    """A package's card as Markdown.

    Metrics are read from the metadata `metrics`, a JSON object, which `lightning-compress train` writes once the
    package has been measured.

    Args:
        report: What `inspect` says of the package.
    """
    parts = [
        f"# {_line(report.path.stem)}",
        escaped(report.description),
        _facts(report),
        _metrics(report),
        *(f"Known to go wrong: {escaped(problem)}" for problem in report.known_problems),
        *_functions(report),
        _labels(report),
        "## Compression by layer",
        _layers(report.layers),
        "## In Swift",
        _swift(report),
        _metadata(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(report: PackageReport) -> str:
    ratio = report.float16_weight_bytes / max(report.weight_bytes, 1)
    rows = [
        ("package", format_bytes(report.package_bytes)),
        ("weights", format_bytes(report.weight_bytes)),
        ("weights at float16", f"{format_bytes(report.float16_weight_bytes)} ({ratio:.2f} times as large)"),
        ("runs on", f"{report.target} and later"),
        ("version", _line(report.version)),
        ("author", _line(report.author)),
        ("license", _line(report.license)),
    ]
    return markdown_table(("", ""), [row for row in rows if row[1]])


def _metrics(report: PackageReport) -> str:
    text = report.user_metadata.get(METRICS)
    if text is None:
        return ""
    try:
        metrics = json.loads(text)
    except (ValueError, RecursionError):
        return f"## Metrics\n\n{escaped(text)}"
    if not isinstance(metrics, dict):
        return f"## Metrics\n\n{escaped(text)}"
    rows = [
        (_line(name), f"{value:.4f}" if isinstance(value, float) else _line(str(value)))
        for name, value in metrics.items()
    ]
    return "## Metrics\n\n" + markdown_table(("metric", "value"), rows)


def _functions(report: PackageReport) -> list[str]:
    if len(report.functions) == 1:
        return ["## Inputs and outputs", _features(report.functions[0])]
    return [
        part
        for function in report.functions
        for part in (f"## Inputs and outputs of {code_span(function.name)}", _features(function))
    ]


def _features(function: PackageFunction) -> str:
    rows = []
    for kind, group in (("input", function.inputs), ("output", function.outputs)):
        for feature in group:
            shape = " x ".join(str(extent) for extent in feature.shape)
            rows.append(
                (kind, code_span(feature.name), _line(feature.type), shape, _line(feature.description))
            )
    return markdown_table(("", "name", "type", "shape", "description"), rows)


def _labels(report: PackageReport) -> str:
    if not report.labels:
        return ""
    shown = ", ".join(map(_line, report.labels[:20])) + (", …" if len(report.labels) > 20 else "")
    return f"{counted(len(report.labels), 'label')}: {shown}"


def _layers(layers: Iterable[Layer]) -> str:
    rows = [
        (
            code_span(layer.name),
            "x".join(str(extent) for extent in layer.shape),
            html.escape(storage(layer), quote=False),
            f"{layer.sparsity:.1%}",
            format_bytes(layer.float16_bytes),
            format_bytes(layer.stored_bytes),
        )
        for layer in layers
        if len(layer.shape) > 1
    ]
    return markdown_table(("layer", "shape", "stored as", "zeros", "at float16", "stored"), rows)


def _metadata(report: PackageReport) -> str:
    rows = [
        (key, value)
        for key, value in report.user_metadata.items()
        if key not in (METRICS, LAYERS) and not key.startswith(_NOT_SHOWN)
    ]
    if not rows:
        return ""
    return "## Metadata\n\n" + "\n\n".join(
        f"{_line(key)}:\n\n{code_block(_readable(value))}" for key, value in rows
    )


def _line(text: str) -> str:
    """A text that is one line of Markdown."""
    return escaped(" ".join(text.split()))


def _readable(value: str) -> str:
    try:
        content = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return json.dumps(content, indent=2) if isinstance(content, dict) else value


def _swift(report: PackageReport) -> str:
    return code_block(_code(report), "swift")


def _code(report: PackageReport) -> str:
    name = _identifier(report.path.stem)
    outputs = {output.name for output in report.outputs}
    takes_image = bool(report.inputs) and report.inputs[0].type.startswith("image")
    if takes_image and report.labels and {CONFIDENCE, COORDINATES} <= outputs:
        return _DETECTOR.format(name=name)
    if takes_image and report.labels:
        return _CLASSIFIER.format(name=name)
    return _plain(name, report.inputs, report.outputs)


def _identifier(name: str) -> str:
    """What Xcode makes of a name in the code that it generates for a package."""
    name = re.sub(r"\W", "_", name)
    return f"_{name}" if name[:1].isdigit() else name


_CLASSIFIER = """\
import CoreML
import Vision

let model = try VNCoreMLModel(for: {name}(configuration: MLModelConfiguration()).model)
let request = VNCoreMLRequest(model: model) {{ request, _ in
    guard let labels = request.results as? [VNClassificationObservation] else {{ return }}
    for label in labels.prefix(3) {{
        print(label.identifier, label.confidence)
    }}
}}
request.imageCropAndScaleOption = .scaleFill
try VNImageRequestHandler(cgImage: image).perform([request])"""

_DETECTOR = """\
import CoreML
import Vision

let model = try VNCoreMLModel(for: {name}(configuration: MLModelConfiguration()).model)
model.featureProvider = try MLDictionaryFeatureProvider(dictionary: [
    "iouThreshold": 0.45, "confidenceThreshold": 0.4,  // optional: other thresholds than the package's
])
let request = VNCoreMLRequest(model: model) {{ request, _ in
    guard let objects = request.results as? [VNRecognizedObjectObservation] else {{ return }}
    for object in objects {{
        // Vision's boxes have their origin in the lower left corner, in shares of the image's sides.
        print(object.labels[0].identifier, object.confidence, object.boundingBox)
    }}
}}
request.imageCropAndScaleOption = .scaleFill
try VNImageRequestHandler(cgImage: image).perform([request])"""


def _plain(name: str, inputs: Sequence[Feature], outputs: Sequence[Feature]) -> str:
    names = {feature.name: _identifier(feature.name) for feature in (*inputs, *outputs)}
    arguments = ", ".join(f"{names[feature.name]}: {names[feature.name]}" for feature in inputs)
    lines = [
        "import CoreML",
        "",
        *(
            f"// {names[feature.name]}: "
            + (
                f"CVPixelBuffer, {' x '.join(map(str, feature.shape))}"
                if feature.type.startswith("image")
                else f"MLMultiArray, {' x '.join(map(str, feature.shape))}"
            )
            for feature in inputs
        ),
        f"let model = try {name}(configuration: MLModelConfiguration())",
        f"let result = try model.prediction({arguments})",
        *(f"print(result.{names[feature.name]})" for feature in outputs),
    ]
    return "\n".join(lines)
