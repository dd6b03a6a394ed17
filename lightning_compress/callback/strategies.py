"""Which of Lightning's strategies keep a prepared module whole."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher, _XLALauncher

from lightning_compress.errors import StrategyError
from lightning_compress.methods.mechanism.method import Method

_SHARDED = (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)


def check_strategy(trainer: L.Trainer) -> None:
    """Refuse strategies that would lose the prepared state.

    Raises:
        StrategyError: With the reason and the strategies that work.
    """
    strategy = trainer.strategy
    name = type(strategy).__name__
    if isinstance(strategy, _SHARDED):
        raise StrategyError(
            f"the strategy {name} shards parameters across processes, and masks, palettes and scales are computed from "
            f"whole weights; use strategy='ddp', or a single device"
        )
    launcher = strategy.launcher
    if isinstance(launcher, _MultiProcessingLauncher) and not isinstance(launcher, _XLALauncher):
        start = getattr(launcher, "_start_method", "spawn")
        raise StrategyError(
            f"the strategy {name} starts its processes by {start!r} "
            f"(ddp_{'notebook' if start == 'fork' else start}) and hands "
            "the trained weights back without the compression's own; use strategy='ddp', which runs "
            "the script once per process"
        )


def check_precision(trainer: L.Trainer, methods: Sequence[Method]) -> None:
    """Refuse precisions in which the compression cannot compute.

    Args:
        trainer: The Trainer.
        methods: The techniques.

    Raises:
        StrategyError: With the reason and the precisions that work.
    """
    for method in methods:
        if trainer.precision in ("bf16-true", "16-true") and not method.trains_in_half_precision:
            raise StrategyError(
                f"the precision {trainer.precision!r} turns the weights themselves into half precision, in which the "
                f"steps between integers are lost; {method.schema.technique} works with '32-true', 'bf16-mixed' and "
                "'16-mixed'"
            )
