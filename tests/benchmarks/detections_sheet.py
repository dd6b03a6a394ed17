"""The picture at the top of the README, from a finished job: `python -m tests.benchmarks.detections_sheet outputs/…`.

A column for each package of the job: what it finds in the same validation images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.v2.functional import to_pil_image

from lightning_compress.runtime import load

ROOT = Path(__file__).resolve().parents[2]
TITLES = {
    "float16": "float16",
    "post_training_6bit": "6 bits, after training",
    "post_training_2bit": "2 bits, after training",
    "palettize_2bit": "2 bits, in training",
}
CAPTION, TEXT, GAP = 32, 18, 6


def sheet(folder: Path, numbers: list[int], threshold: float) -> Image.Image:
    """Draw it.

    Args:
        folder: Of a run of the main job.
        numbers: Which validation images to show.
        threshold: The least confidence drawn.
    """
    config = OmegaConf.load(folder / ".hydra" / "config.yaml")
    data = instantiate(config.data)
    data.setup()
    images = data.sample_images(max(numbers) + 1)[numbers]
    task = instantiate(config.recipe.task)
    columns = []
    for name, title in TITLES.items():
        with torch.no_grad():
            outputs = task.run(load(folder / f"{name}.mlpackage", precision="float16"), [images * 255])
        grid = task.picture(images * 255, outputs, data.class_names, threshold=threshold, columns=1)
        columns.append(_captioned(to_pil_image(grid), title))
    width = sum(column.width for column in columns) + GAP * (len(columns) - 1)
    picture = Image.new("RGB", (width, columns[0].height), "white")
    for index, column in enumerate(columns):
        picture.paste(column, (index * (column.width + GAP), 0))
    return picture


def _captioned(image: Image.Image, title: str) -> Image.Image:
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    picture = Image.new("RGB", (image.width, image.height + CAPTION), "white")
    picture.paste(image, (0, CAPTION))
    font = ImageFont.truetype(str(fonts / "DejaVuSans-Bold.ttf"), TEXT)
    ImageDraw.Draw(picture).text((6, 6), title, fill="black", font=font)
    return picture


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the run's folder")
    parser.add_argument("--images", type=int, nargs="+", default=[2, 3], help="numbers of validation images")
    parser.add_argument("--threshold", type=float, default=0.3, help="least confidence drawn")
    parser.add_argument("--path", type=Path, default=ROOT / ".github" / "detections.jpg")
    arguments = parser.parse_args()
    sheet(arguments.folder, arguments.images, arguments.threshold).save(arguments.path, quality=85)
    print(f"{arguments.path}: {arguments.path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
