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
from coremltools.optimize.torch.palettization import DKMPalettizerConfig
from torch import distributed, nn
from lightning_compress.dkm import DKMPalettizer

torch.set_num_threads(1)
distributed.init_process_group("gloo")
rank = distributed.get_rank()
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 90), nn.ReLU(), nn.Linear(90, 7))
options = {"n_bits": 3, "weight_threshold": 100, "granularity": "per_grouped_channel", "group_size": 30}
config = DKMPalettizerConfig.from_dict({"module_name_configs": {"0": options}})
palettizer = DKMPalettizer(model, config)
model = palettizer.prepare(inplace=True)
first = model[0].weight_fake_quant
first.initialise(model[0].weight)
initial = first.palette.clone()
wrapped = nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
torch.manual_seed(rank)
for _ in range(3):
    optimizer.zero_grad()
    wrapped(torch.randn(8, 64)).square().mean().backward()
    optimizer.step()
    palettizer.step()
finalized = palettizer.finalize(wrapped.module)
torch.save({"initial": initial, "weight": finalized[0].weight, "palette": first.palette}, f"{sys.argv[1]}/{rank}.pt")
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
    for name in ("initial", "palette", "weight"):
        assert torch.equal(one[name], other[name]), name
