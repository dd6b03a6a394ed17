"""Processes of one job that something else has started: torchrun, or srun on a cluster. They agree on a folder.

Processes that Lightning starts get the folder as a word. These have only their environment, are not started in the same
second, and form a group with their first fit, which is too late.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from pathlib import Path

import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, Store

from lightning_compress.errors import CompressionError

_PATIENCE = datetime.timedelta(minutes=10)
"""Nodes of a cluster may begin long after each other."""

_PREFIX, _FOLDER, _ERROR = "lightning-compress", "folder", "error"


def launcher_environment() -> ClusterEnvironment | None:
    """What torchrun or srun has told this process; None where neither has started it beside others."""
    found: ClusterEnvironment | None = None
    if TorchElasticEnvironment.detect():
        found = TorchElasticEnvironment()
    elif SLURMEnvironment.detect() and "SLURM_STEP_ID" in os.environ:
        # Without a step the processes were not started by srun, whatever the allocation could hold.
        found = SLURMEnvironment()
    return found if found is not None and found.world_size() > 1 else None


class Agreement:
    """The folder of a job that several processes run, chosen by the first and told to the others.

    Args:
        environment: What their launcher has told them.
    """

    def __init__(self, environment: ClusterEnvironment) -> None:
        self._store = _store(environment)

    @contextlib.contextmanager
    def telling_failure(self) -> Iterator[None]:
        """Choose within this, on the first process: where that fails, the others fail too."""
        try:
            yield
        except BaseException as error:
            self._store.set(_ERROR, f"{type(error).__name__}: {error}")
            self._store.set(_FOLDER, "")
            raise

    def tell(self, path: Path) -> None:
        """Tell the others what the first process has chosen."""
        self._store.set(_FOLDER, os.fspath(path))

    def wait(self) -> Path:
        """Wait for the choice, on every other process.

        Raises:
            CompressionError: The first process has failed, or is not there.
        """
        try:
            path = self._store.get(_FOLDER).decode()
            if path:
                return Path(path)
            error = self._store.get(_ERROR).decode()
        except (dist.DistNetworkError, dist.DistStoreError) as lost:
            raise CompressionError(
                f"the first process of this job has not told its folder within {_PATIENCE}: {lost}"
            ) from lost
        raise CompressionError(f"rank 0 failed: {error}")


def _store(environment: ClusterEnvironment) -> Store:
    """A store that all processes of the job can reach.

    torchrun keeps one. Elsewhere the first process keeps one as long as it lives, at a port beside that of the group
    that Lightning will form.
    """
    is_kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)
    store = TCPStore(
        environment.main_address,
        environment.main_port + (0 if is_kept else 1),
        is_master=not is_kept and environment.global_rank() == 0,
        timeout=_PATIENCE,
        wait_for_workers=False,
    )
    # A restart of torchrun is another attempt in the same store.
    return PrefixStore(f"{_PREFIX}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
