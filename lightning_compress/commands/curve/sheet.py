"""One sheet of pictures: the same samples as each package sees them, one row a package."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from lightning_compress.commands.curve.report import WORKFLOWS, Curve, Measured
from lightning_compress.package.rendering import in_megabytes

_WIDTH = 1280
"""Of the rows, in pixels, at most."""

_GAP = 8
_TEXT = 17
_LINE = _TEXT + 5


class _Line(NamedTuple):
    text: str
    color: str
    is_bold: bool


def draw_sheet(curve: Curve, path: Path) -> bool:
    """Put the pictures that were drawn when the packages were measured below each other, with what they are.

    Args:
        curve: What was measured.
        path: Of the PNG file.

    Returns:
        Whether there was any picture.
    """
    rows = [
        (measured, picture) for measured in curve.measured() if (picture := _picture(measured)) is not None
    ]
    if not rows:
        return False
    captions = [_caption(measured, curve) for measured, _ in rows]
    left = 3 * _GAP + max(_font(line.is_bold).getlength(line.text) for lines in captions for line in lines)
    width = round(left) + max(picture.width for _, picture in rows)
    height = _GAP + sum(
        max(picture.height, len(lines) * _LINE) + _GAP
        for lines, (_, picture) in zip(captions, rows, strict=True)
    )
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    y = _GAP
    for lines, (_, picture) in zip(captions, rows, strict=True):
        sheet.paste(picture, (round(left), y))
        top = y + max(0, (picture.height - len(lines) * _LINE) // 2)
        for number, line in enumerate(lines):
            place = (_GAP, top + number * _LINE)
            draw.text(place, line.text, fill=line.color, font=_font(line.is_bold))
        # A caption may be higher than a row of small pictures.
        y += max(picture.height, len(lines) * _LINE) + _GAP
    sheet.save(path)
    return True


def _caption(measured: Measured, curve: Curve) -> list[_Line]:
    is_good = measured.drop <= curve.tolerance
    metric = f"{curve.reference.metric} {measured.result.value:.3f}"
    return [
        _Line(measured.name, "black", True),
        _Line(WORKFLOWS.get(measured.workflow, "without compression"), "#444444", False),
        _Line(in_megabytes(measured.result.package_bytes), "#444444", False),
        _Line(metric, "#00703c" if is_good else "#b00020", True),
    ]


def _picture(measured: Measured) -> Image.Image | None:
    path = Path(measured.result.package).with_suffix(".png")
    if not path.is_file():
        return None
    with Image.open(path) as file:
        picture = file.convert("RGB")
    if picture.width > _WIDTH:
        size = (_WIDTH, round(picture.height * _WIDTH / picture.width))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return picture


def _font(is_bold: bool) -> ImageFont.FreeTypeFont:
    # Pillow's own font has no bold face, and Pillow 10.0 takes no Path.
    name = "DejaVuSans-Bold.ttf" if is_bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), _TEXT)
