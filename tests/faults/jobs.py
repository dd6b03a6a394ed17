"""A small fit as a job of one or more processes, which may be killed at any time and started again.

A job resumes from its newest checkpoint, as a scheduler would have it, and leaves in its folder `net.mlpackage`, the
digest of every tensor after each epoch on each rank (`digests/`), and its log.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_compress import (
    Compression,
    CoreMLExport,
    Distillation,
    DKMPalettization,
    MagnitudePruning,
    SensitivePalettization,
)
from lightning_compress.methods import Method
from tests.features.cases import METHODS, Digits, digits, make_trainer
from tests.forking import end_with

JOBS: dict[str, Callable[[], list[Method]]] = {
    **METHODS,
    # 256 and 10 channels: the groups are 32 and 5, which two and three processes divide or not.
    "grouped palettization": lambda: [
        DKMPalettization(
            n_bits=2,
            module_name_configs={
                "conv": {"n_bits": 2, "granularity": "per_grouped_channel", "group_size": 8},
                "head": {"n_bits": 4, "granularity": "per_grouped_channel", "group_size": 2},
            },
        )
    ],
    "scaled palettization": lambda: [
        DKMPalettization(n_bits=4, enable_per_channel_scale=True, milestone=0.5)
    ],
    "annealed palettization by vectors": lambda: [
        DKMPalettization(n_bits=4, cluster_dim=2, relative_tau=0.3, milestone=0.1, annealing={"factor": 0.01})
    ],
    "palettization by data": lambda: [SensitivePalettization(n_bits=2, bias_correction=True)],
    "n:m pruning": lambda: [MagnitudePruning(n_m_ratio=[3, 4], module_name_configs={"conv": None})],
}

EPOCHS, BATCHES, BATCH_SIZE = 2, 4, 16
PHASES = ("start", "step", "checkpoint", "export", "end")


class ResumableLoader:
    """Batches in an order that follows from epoch and rank, and a place in it that a checkpoint holds.

    The protocol is that of torchdata's `StatefulDataLoader`, which Lightning knows.
    """

    def __init__(self, dataset: TensorDataset, rank: int = 0, world_size: int = 1) -> None:
        self.dataset, self.rank, self.world_size = dataset, rank, world_size
        self.epoch, self.position = 0, 0
        self._resumes = False

    def __len__(self) -> int:
        return len(self.dataset) // (BATCH_SIZE * self.world_size)

    def __iter__(self) -> Iterator[list[Tensor]]:
        if not self._resumes:
            self.position = 0
        self._resumes = False
        order = torch.randperm(len(self.dataset), generator=torch.Generator().manual_seed(self.epoch))
        batches = order[self.rank :: self.world_size].split(BATCH_SIZE)
        while self.position < len(self):
            batch = batches[self.position]
            self.position += 1
            if self.position == len(self):
                self.epoch += 1
            yield [tensor[batch] for tensor in self.dataset.tensors]

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]
        self._resumes = self.position < len(self)


class ResumableDigits(Digits):
    """`Digits` on a `ResumableLoader`."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train_dataloader(self) -> Any:
        count = BATCHES * BATCH_SIZE * self.trainer.world_size
        return ResumableLoader(digits(0, count), self.trainer.global_rank, self.trainer.world_size)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(digits(1400, 1464), batch_size=64)


@dataclass(frozen=True)
class Job:
    """What to run, and where.

    Attributes:
        name: A key of `JOBS`.
        folder: The job's own folder.
        world_size: Number of processes.
        stop_after: Raise after so many optimizer steps, in place of a kill.
        failing_export: Whether the export fails on rank 0.
        slow_export: Seconds that the export takes longer.
        timeout: Seconds after which the process group gives up, or `None` for its own.
        is_taught: Whether the module is drawn to what it was in float, in its outputs and those of its batch norm.
    """

    name: str
    folder: str
    world_size: int = 1
    stop_after: int | None = None
    failing_export: bool = False
    slow_export: float = 0.0
    timeout: float | None = None
    is_taught: bool = False

    @property
    def package(self) -> Path:
        """Where the package is written."""
        return Path(self.folder) / "net.mlpackage"

    def newest_checkpoint(self) -> str | None:
        """The last checkpoint that was written."""
        paths = (Path(self.folder) / "checkpoints").glob("*.ckpt")
        newest = max(paths, key=lambda path: path.stat().st_mtime_ns, default=None)
        return None if newest is None else str(newest)


class Progress(L.Callback):
    """Says in a file which phase the fit is in, and writes digests after each epoch."""

    def __init__(self, job: Job, rank: int) -> None:
        self.job, self.rank = job, rank
        self.steps = 0

    def enter(self, phase: str) -> None:
        """Write the phase and how often a phase was entered."""
        if self.rank == 0:
            self.steps += 1
            path = Path(self.job.folder) / "phase"
            path.with_suffix(".new").write_text(f"{phase} {self.steps}")
            path.with_suffix(".new").replace(path)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.enter("step")
        if self.job.stop_after is not None and trainer.global_step >= self.job.stop_after:
            raise InterruptedError(f"stopped after {self.job.stop_after} steps")

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        self.enter("checkpoint")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        folder = Path(self.job.folder) / "digests"
        folder.mkdir(exist_ok=True)
        tensors = pl_module.state_dict()
        path = folder / f"epoch{trainer.current_epoch}_rank{self.rank}.json"
        path.write_text(json.dumps({name: digest(tensor) for name, tensor in tensors.items()}))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.enter("export")


def digest(tensor: Tensor) -> str:
    """A hash of the bits of a tensor."""
    return hashlib.sha256(
        tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    ).hexdigest()[:16]


def fit(job: Job, rank: int) -> None:
    """Run a job's fit in this process, from its newest checkpoint if there is one."""
    L.seed_everything(1, verbose=False)
    wrapper = failing if job.failing_export else sleeping(job.slow_export) if job.slow_export else None
    export = CoreMLExport(job.package, wrapper=wrapper, verify=False)
    distillation = Distillation(weight=1.0, warm_up=0.5, modules=["norm"]) if job.is_taught else None
    compression = Compression(*JOBS[job.name](), module="model", export=export, distillation=distillation)
    progress = Progress(job, rank)
    saving = ModelCheckpoint(Path(job.folder) / "checkpoints", every_n_train_steps=1, save_top_k=-1)
    settings: dict[str, Any] = {
        "max_epochs": EPOCHS,
        "enable_checkpointing": True,
        "use_distributed_sampler": False,
    }
    if job.world_size > 1:
        strategy: dict[str, Any] = {"process_group_backend": "gloo"}
        if job.timeout is not None:
            import datetime

            strategy["timeout"] = datetime.timedelta(seconds=job.timeout)
        settings |= {"strategy": L.pytorch.strategies.DDPStrategy(**strategy), "devices": job.world_size}
    trainer = make_trainer(Path(job.folder), [compression, progress, saving], **settings)
    progress.enter("start")
    trainer.fit(ResumableDigits(), ckpt_path=job.newest_checkpoint())
    progress.enter("end")


def failing(module: torch.nn.Module) -> torch.nn.Module:
    """A wrapper that cannot be."""
    raise ValueError("this network has no such output")


def sleeping(seconds: float) -> Callable[[torch.nn.Module], torch.nn.Module]:
    """A wrapper that takes its time."""

    def wrap(module: torch.nn.Module) -> torch.nn.Module:
        import time

        time.sleep(seconds)
        return module

    return wrap


def start(job: Job) -> list[int]:
    """Fork the processes of a job, each the leader of a group of its own, and return their ids.

    Forking spares them the import of torch and coremltools. The parent must not have started threads.
    """
    Path(job.folder).mkdir(parents=True, exist_ok=True)
    port = free_port()
    identifiers = []
    for rank in range(job.world_size):
        sys.stdout.flush()
        sys.stderr.flush()
        identifier = os.fork()
        if identifier == 0:
            log = os.open(Path(job.folder) / f"log{rank}.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            end_with(functools.partial(_fit, job, rank, port), log)
        identifiers.append(identifier)
    return identifiers


def _fit(job: Job, rank: int, port: int) -> None:
    if job.world_size > 1:
        os.environ.update(
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            WORLD_SIZE=str(job.world_size),
            NODE_RANK="0",
            LOCAL_RANK=str(rank),
        )
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    fit(job, rank)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait(identifiers: list[int]) -> list[int]:
    """Wait for all processes; their exit codes, negative for a signal."""
    return [os.waitstatus_to_exitcode(os.waitpid(identifier, 0)[1]) for identifier in identifiers]


def package_bytes(package: Path) -> dict[str, bytes]:
    """What a package holds, by file; the manifest's random identifiers left out."""
    return {
        str(path.relative_to(package)): path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and path.name != "Manifest.json"
    }


def run_apart(*jobs: Job) -> list[list[int]]:
    """Run jobs one after the other, away from this process's threads; the exit codes by rank."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.faults.jobs", as_json(list(jobs))],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if result.returncode:
        raise RuntimeError(result.stderr[-3000:])
    codes: list[list[int]] = json.loads(result.stdout.splitlines()[-1])
    return codes


def differing_tensors(job: Job) -> list[str]:
    """The tensors that were not the same on all ranks after an epoch, bit by bit."""
    found = []
    for epoch in range(EPOCHS):
        ranks = [
            json.loads((Path(job.folder) / "digests" / f"epoch{epoch}_rank{rank}.json").read_text())
            for rank in range(job.world_size)
        ]
        names = {name for rank in ranks for name in rank}
        found += [
            f"{name} after epoch {epoch}" for name in names if len({rank.get(name) for rank in ranks}) > 1
        ]
    return found


def main() -> None:
    """Run the jobs given as JSON on the command line one after the other; prints their exit codes as JSON."""
    torch.set_num_threads(1)
    jobs = [Job(**entry) for entry in json.loads(sys.argv[1])]
    print(json.dumps([wait(start(job)) for job in jobs]))


def as_json(jobs: list[Job]) -> str:
    """The argument of `main`."""
    return json.dumps([asdict(job) for job in jobs])


if __name__ == "__main__":
    main()
