"""Names that a finalized module's buffers carry to the converter: one side writes them, the other reads them.

`_COREML_/<parameter>/<key>` is coremltools' own convention, so a finalized module converts by coremltools alone.
`_BY_VALUE_/<parameter>/<key>` says the same of tensors that coremltools' converter takes apart before it makes
constants of them, such as the weights of recurrent layers; it does not look at these.
"""

from __future__ import annotations

CONVERTED = "_COREML_"
"""First part of the names of buffers of tensors that become one constant each."""

BY_VALUE = "_BY_VALUE_"
"""First part of the names of buffers of tensors whose values are looked for in the converted program."""

METADATA_VERSION = f"{CONVERTED}/metadata_version"
"""Name of the buffer with the version of coremltools' convention."""

PRUNED, PALETTIZED, QUANTIZED = 1, 2, 3
"""coremltools' numbers of techniques."""
