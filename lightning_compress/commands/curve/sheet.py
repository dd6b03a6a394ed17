"""One sheet of pictures: the same samples as each package sees them, one row a package."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from lightning_compress.commands.curve.report import WORKFLOWS, Curve, Measured
from lightning_compress.package.rendering import in_megabytes

_WIDTH = 1280
"""Of the rows, in pixels, at most."""

_CAPTION = 250
_GAP = 8
_TEXT = 17


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
    width = _CAPTION + max(picture.width for _, picture in rows)
    height = sum(picture.height + _GAP for _, picture in rows) + _GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    y = _GAP
    for measured, picture in rows:
        sheet.paste(picture, (_CAPTION, y))
        is_good = measured.drop <= curve.tolerance
        lines = [
            (measured.name, "black", True),
            (WORKFLOWS.get(measured.workflow, "without compression"), "#444444", False),
            (in_megabytes(measured.result.package_bytes), "#444444", False),
            (
                f"{curve.reference.metric} {measured.result.value:.3f}",
                "#00703c" if is_good else "#b00020",
                True,
            ),
        ]
        top = y + max(0, (picture.height - len(lines) * (_TEXT + 5)) // 2)
        for line, (text, color, is_bold) in enumerate(lines):
            draw.text((_GAP, top + line * (_TEXT + 5)), text, fill=color, font=_font(is_bold))
        y += picture.height + _GAP
    sheet.save(path)
    return True


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
