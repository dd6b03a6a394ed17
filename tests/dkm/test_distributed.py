"""Two processes under DDP end with one palette, the same as a single process makes first."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

SCRIPT = """
import sys
import torch
from torch import distributed, nn
from lightning_compress.methods.mechanism.preparation import PreparedModule
from lightning_compress.methods.palettization import DKMPalettization

torch.set_num_threads(1)
distributed.init_process_group("gloo")
rank = distributed.get_rank()
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 90), nn.ReLU(), nn.Linear(90, 8))
grouped = {"n_bits": 3, "weight_threshold": 100, "granularity": "per_grouped_channel", "group_size": 30}
vectors = {"n_bits": 3, "weight_threshold": 100, "cluster_dim": 2}
preparation = PreparedModule(model, [DKMPalettization(module_name_configs={"0": grouped, "2": vectors})])
preparation.start_training()
palettes = [technique.palette for technique in preparation.techniques()]
initial = [palette.clone() for palette in palettes]
wrapped = nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
torch.manual_seed(rank)
for _ in range(3):
    optimizer.zero_grad()
    wrapped(torch.randn(8, 64)).square().mean().backward()
    optimizer.step()
    preparation.step()
weights = [preparation.finalize()[index].weight for index in (0, 2)]
torch.save({"initial": initial, "weights": weights, "palettes": palettes}, f"{sys.argv[1]}/{rank}.pt")
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_ranks_agree_on_palettes_whatever_their_number_of_groups(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, str(script), str(tmp_path)], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name in ("initial", "palettes", "weights"):
        assert all(torch.equal(a, b) for a, b in zip(one[name], other[name], strict=True)), name
