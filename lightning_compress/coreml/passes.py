"""The passes of a conversion: coremltools' own, and where ours stand among them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import coremltools as ct
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

# Registers the converters of torch operations that coremltools lacks.
import lightning_compress.coreml.torch_ops  # noqa: F401
from lightning_compress.coreml.batch_norm_folding import FoldBatchNorm
from lightning_compress.coreml.batch_norm_vectors import ShareBatchNormVectors
from lightning_compress.coreml.fused_names import FUSION, FuseBatchNorm
from lightning_compress.coreml.metadata_buffers import Selected
from lightning_compress.coreml.rearranged_constants import FoldTranspose, RecognizeConstants
from lightning_compress.coreml.shared_constants import ShareConstants

_NAMESPACE = "lightning_compress"
_RECOGNIZE, _TRANSPOSE, _BATCH_NORM, _FUSE, _VECTORS, _SHARE = (
    f"{_NAMESPACE}::{name}"
    for name in (
        "recognize_constants",
        "fold_transpose",
        "fold_batch_norm",
        "fuse_batch_norm",
        "share_batch_norm_vectors",
        "share_constants",
    )
)

for _name, _pass in (
    (_RECOGNIZE, RecognizeConstants),
    (_TRANSPOSE, FoldTranspose),
    (_BATCH_NORM, FoldBatchNorm),
    (_FUSE, FuseBatchNorm),
    (_VECTORS, ShareBatchNormVectors),
    (_SHARE, ShareConstants),
):
    if _name not in PASS_REGISTRY:
        PASS_REGISTRY.add(_NAMESPACE, _pass, False, _name.partition("::")[2])


def conversion_passes(selected: Collection[Selected]) -> Any:
    """What `coremltools.convert` takes as its `pass_pipeline`.

    What is of ours and changes values comes before constants are cast to float16: values are recognised exactly, and
    factors are rounded once.

    Args:
        selected: The tensors that are to be stored compressed.
    """
    pipeline = ct.PassPipeline.DEFAULT
    # It drops the axis of vectors, and scales that are not the tensor's; what it is for, `write_constant` writes.
    pipeline.remove_passes({"common::canonicalize_quantized_lut_pattern"})
    # Once constants have been computed, and before anything is computed from them.
    _insert_before(pipeline, "common::const_deduplication", _RECOGNIZE)
    _insert_before(pipeline, "common::const_deduplication", _TRANSPOSE)
    _insert_before(pipeline, FUSION, _BATCH_NORM)
    _insert_before(pipeline, FUSION, _FUSE)
    # coremltools fuses those behind dense layers.
    pipeline.insert_pass(pipeline.passes.index(FUSION) + 1, _VECTORS)
    # Passes may change a constant in the one place that takes it; none comes after this.
    pipeline.append_pass(_SHARE)
    pipeline.set_options(_RECOGNIZE, {"selected": tuple(selected)})
    return pipeline


def _insert_before(pipeline: Any, existing: str, name: str) -> None:
    pipeline.insert_pass(pipeline.passes.index(existing), name)
