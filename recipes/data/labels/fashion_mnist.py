"""Fashion-MNIST by torchvision's class, from wherever its raw files are."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchvision.datasets import FashionMNIST
from torchvision.transforms import v2

from lightning_compress.errors import DataError

from ..datamodule import RecipeDataModule
from .transforms import resized

_FILES = tuple(
    f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)


class RawFashionMNIST(FashionMNIST):  # type: ignore[misc]  # torchvision has no types
    """torchvision's Fashion-MNIST, read from a folder that holds the raw files themselves."""

    def __init__(self, folder: Path, *, train: bool, transform: object) -> None:
        self._folder = str(folder)
        super().__init__(str(folder), train=train, transform=transform, download=False)

    @property
    def raw_folder(self) -> str:
        """Where torchvision looks for the raw files; elsewhere it is `root/FashionMNIST/raw`."""
        return self._folder


class FashionMNISTDataModule(RecipeDataModule):
    """Fashion-MNIST (Xiao et al., arXiv 1708.07747): 60,000 training and 10,000 validation images, 28 x 28.

    Args:
        root: where the four raw files are, compressed (`.gz`) or not: in `root` itself, in `root/raw`, or in
            `root/FashionMNIST/raw`, torchvision's own place. Debian's package dataset-fashion-mnist has them
            in `/usr/share/datasets/fashion-mnist`.
        num_classes: 10.
        image_size: height and width that the images are resized to, as RGB.
        batch_size: images a step and process.
        num_workers: processes that load.
        download: whether missing files are downloaded into `root`.
        augment: whether training images are mirrored and moved at random.

    Raises:
        DataError: files that are missing, cannot be downloaded, or are damaged.
    """

    task = "classification"

    def __init__(
        self,
        root: str = "/usr/share/datasets/fashion-mnist",
        *,
        num_classes: int = 10,
        image_size: int = 64,
        batch_size: int = 64,
        num_workers: int = 0,
        download: bool = False,
        augment: bool = True,
    ) -> None:
        super().__init__(
            num_classes=num_classes, image_size=image_size, batch_size=batch_size, num_workers=num_workers
        )
        self.root = Path(root).expanduser()
        self.download = download
        self.augment = augment

    def prepare_data(self) -> None:
        """Downloads what is missing, where that was asked for."""
        if not self.download or _find_raw_folder(self.root) is not None:
            return
        try:
            FashionMNIST(str(self.root), download=True)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"Fashion-MNIST could not be downloaded into data.root={str(self.root)!r}: {error}. Without "
                f"a network put {', '.join(_FILES)} there (Debian: package dataset-fashion-mnist)."
            ) from error

    def read(self) -> tuple[FashionMNIST, FashionMNIST, list[str]]:
        """Both splits and torchvision's names of the classes."""
        augment = [v2.RandomHorizontalFlip(), v2.RandomCrop(28, padding=2)] if self.augment else None
        with _uncompressed(self.root) as folder:
            try:
                train = RawFashionMNIST(
                    folder, train=True, transform=resized(self.image_size, augment=augment)
                )
                val = RawFashionMNIST(folder, train=False, transform=resized(self.image_size))
            # torchvision checks the files' headers and lengths by assertions and by what numpy and torch
            # raise.
            except (AssertionError, RuntimeError, ValueError, KeyError, IndexError) as error:
                raise DataError(
                    f"The Fashion-MNIST files in {str(self.root)!r} are damaged: {error!r}"
                ) from error
        return train, val, list(FashionMNIST.classes)


def _find_raw_folder(root: Path) -> Path | None:
    for folder in (root, root / "raw", root / "FashionMNIST" / "raw"):
        if all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in _FILES):
            return folder
    return None


@contextmanager
def _uncompressed(root: Path) -> Iterator[Path]:
    """A folder with the four files uncompressed; a temporary one where they are compressed."""
    folder = _find_raw_folder(root)
    if folder is None:
        raise DataError(
            f"data.root={str(root)!r} does not hold Fashion-MNIST's files: {', '.join(_FILES)}, each with or "
            "without .gz, in that folder, in raw/ or in FashionMNIST/raw/. Debian's package "
            "dataset-fashion-mnist has them in /usr/share/datasets/fashion-mnist; data.download=true fetches "
            "them."
        )
    with tempfile.TemporaryDirectory() as temporary:
        for name in _FILES:
            if (folder / name).is_file():
                Path(temporary, name).symlink_to((folder / name).resolve())
                continue
            try:
                with gzip.open(folder / f"{name}.gz") as packed, open(Path(temporary, name), "wb") as plain:
                    shutil.copyfileobj(packed, plain)
            except (OSError, EOFError, zlib.error) as error:
                raise DataError(f"{folder / name!s}.gz is damaged: {error}") from error
        yield Path(temporary)
