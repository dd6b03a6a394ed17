"""Every feature with every method: each cell of the matrix in tests/features/README.md is what a fit says."""

from __future__ import annotations

import pytest

from tests.features.cases import METHODS
from tests.features.features import FEATURES, outcome
from tests.features.matrix import README, readme_block, readme_cells

pytestmark = [
    pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning"),
    # Lightning names the callbacks that the resuming Trainer lacks, and schedules that it was told to cut.
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning"),
    pytest.mark.filterwarnings("ignore:the fit ended before the compression did:UserWarning"),
    pytest.mark.filterwarnings("ignore:the best checkpoint by:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*overrides the configure_model:UserWarning"),
    # A second fit goes on with the batch norm that the first one froze.
    pytest.mark.filterwarnings(r"ignore:Found \d+ module\(s\) in eval mode:UserWarning"),
    # torch.compile leaves coremltools' learned scales to Python, and says so.
    pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace:UserWarning"),
]

# torch.compile looks at the gradient of pruned weights, which are no leaves.
pytestmark.append(
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
)

QUICK = "pruning + palettization"
SLOW = (
    *("resume from", "DDP on", "`torch.compile` of"),
    *("`Distillation`, resume", "`Distillation`, DDP", "`Distillation`, `torch.compile`"),
)


def test_the_matrix_has_a_cell_for_each_method_and_feature_and_a_reason_for_each_refusal():
    text = README.read_text()
    cells = readme_cells(text)
    assert list(cells) == [(title, method) for title in FEATURES for method in METHODS]
    numbers = {int(cell.split("(")[1].rstrip(")")) for cell in cells.values() if cell != "works"}
    reasons = [line for line in readme_block(text).splitlines() if line[:1].isdigit()]
    assert numbers == set(range(1, len(reasons) + 1))


@pytest.mark.parametrize(
    ("method", "title"),
    [
        (method, title)
        if method == QUICK and not title.startswith(SLOW)
        else pytest.param(method, title, marks=pytest.mark.slow)
        for title in FEATURES
        for method in METHODS
    ],
)
def test_a_cell_says_what_happens(tmp_path, method, title):
    expected = readme_cells(README.read_text())[title, method]
    assert outcome(method, title, tmp_path).split(":")[0] == expected.split(" ")[0]
