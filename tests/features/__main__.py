"""Fit every method with every feature, and write the matrix into the README beside: `python -m tests.features`."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings

import torch

from tests.features.matrix import render, run_all, write_block


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()):
        block = render(run_all())
    write_block(block)
    print(block)


if __name__ == "__main__":
    main()
