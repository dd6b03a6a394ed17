"""What packages take on a device: timed by Core ML itself, never estimated.

- `on_device`: the script that times; it is carried to a Mac as it is, and needs nothing else of this package.
- `request`: what it is asked, and the folder that is carried.
- `results`: what it found, brought back into the search.
"""

from __future__ import annotations

from lightning_compress.explore.profiling.request import carry, request
from lightning_compress.explore.profiling.results import Failure, Profile, read_profile, with_timings

__all__ = ["Failure", "Profile", "carry", "read_profile", "request", "with_timings"]
