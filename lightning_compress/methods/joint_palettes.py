"""Palettes of a network's weights computed in one go, in whatever order a forward pass asks for the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from lightning_compress.dkm.joint_palettes import PalettizedWeight, cluster_together, joins
from lightning_compress.errors import WeightError
from lightning_compress.methods.mechanism.method import TensorState

MOST_WEIGHTS = 25 * 2**20 // 4
"""Weights that are clustered together.

Their gradients are there when the last of them has one; with as many in one go as data-parallel training sends in one
message (25 MiB of gradients), sending goes on beside the backward pass as before.
"""


@runtime_checkable
class Member(Protocol):
    """What is palettized: a technique on a weight."""

    def to_cluster(self, weight: Tensor) -> PalettizedWeight | None:
        """What clustering takes at this moment of training, or None where the weight stays as it is."""

    def join_others(self, joint: JointPalettes) -> None:
        """From now on, ask `joint` for what is clustered."""


class JointPalettes:
    """Clusters all its weights when the first of them is asked for, and hands the others out when they are.

    What is handed out once is computed anew the next time, from what weights and palettes are then: a second reading of
    a weight, or a second forward pass, begins a new clustering, of all weights that were asked for after the last one
    that this weight began.
    """

    def __init__(self) -> None:
        self._chains: dict[Member, ParametrizationList] = {}
        self._waiting: dict[Member, _Clustered] = {}
        # Of those that were clustered with a member, the ones that nobody asked for.
        self._left: dict[Member, set[Member]] = {}

    def add(self, member: Member, chain: ParametrizationList) -> None:
        """Add a weight.

        Args:
            member: What is done to it.
            chain: Its parametrizations, of which the member is the first.
        """
        self._chains[member] = chain
        member.join_others(self)

    def take(self, member: Member, weight: Tensor) -> tuple[Tensor, Tensor] | None:
        """A clustered weight and its improved palettes, as `WeightPalette.cluster`.

        Args:
            member: Whose weight.
            weight: The weight as it comes to the member.

        Returns:
            None where the weight is no other's business: it is not the trained tensor itself, or nothing is clustered
            with it.
        """
        chain = self._chains.get(member)
        if chain is None or chain.original is not weight:
            return None
        clustered = self._waiting.pop(member, None)
        if clustered is None or not clustered.is_of(member, weight):
            self._cluster(member)
            clustered = self._waiting.pop(member, None)
        return None if clustered is None else (clustered.weight, clustered.palettes)

    def forget(self) -> None:
        """Drop what nobody has asked for."""
        for member, clustered in self._waiting.items():
            self._left.setdefault(clustered.first, set()).add(member)
        self._waiting.clear()

    def _cluster(self, first: Member) -> None:
        left = self._left.setdefault(first, set())
        left |= {member for member, clustered in self._waiting.items() if clustered.first is first}
        left.discard(first)
        together = {}
        for member, chain in self._chains.items():
            weight = chain.original
            waiting = self._waiting.get(member)
            if member in left or (waiting is not None and waiting.is_of(member, weight)):
                continue
            request = _request(member, weight)
            if request is not None:
                together[member] = request
        if first not in together or len(together) == 1:
            return
        try:
            results = cluster_together(list(together.values()))
        except WeightError:
            # Whoever asks for the bad weight is told.
            return
        state = _mode()
        for (member, request), result in zip(together.items(), results, strict=True):
            self._waiting[member] = _Clustered(first, request, _version(request), state, *result)


class _Clustered(NamedTuple):
    """A clustered weight that waits to be asked for.

    Attributes:
        first: The member that was asked for when it was clustered.
        request: What it was clustered from.
        version: The state in which that was.
        mode: The mode of autograd.
        weight: The clustered weight.
        palettes: Its improved palettes.
    """

    first: Member
    request: PalettizedWeight
    version: tuple[int, ...]
    mode: tuple[bool, bool]
    weight: Tensor
    palettes: Tensor

    def is_of(self, member: Member, weight: Tensor) -> bool:
        """Whether it is what a member's weight would now be clustered to."""
        now = member.to_cluster(weight)
        then = self.request
        return (
            now is not None
            and (now.form is then.form or now.form == then.form)
            and now.weight is then.weight
            and now.entries is then.entries
            and self.version == _version(now)
            and self.mode == _mode()
        )


def _request(member: Member, weight: Tensor) -> PalettizedWeight | None:
    """What is to be clustered of a member that lets others come with it."""
    # A weight that is computed has a gradient of its own to go through, once; transforms of functions have none.
    if type(weight) not in (Tensor, nn.Parameter) or not weight.is_leaf or weight.is_inference():
        return None
    request = member.to_cluster(weight)
    return request if request is not None and joins(request.form, weight) else None


def _version(request: PalettizedWeight) -> tuple[int, ...]:
    """What changes as a weight or its palettes are written to."""
    weight, entries = request.weight, request.entries
    return weight._version, weight.data_ptr(), entries._version, entries.data_ptr()


def _mode() -> tuple[bool, bool]:
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled()


def join_palettes(states: Sequence[TensorState]) -> None:
    """Put weights together that can be clustered in one go, in the order of the network, no more than `MOST_WEIGHTS`.

    Args:
        states: Palettes in place; those whose tensor another technique makes stay by themselves.
    """
    joint, size = JointPalettes(), 0
    for state in states:
        owner, technique = state.reference.owners[0], state.technique
        chain = owner.module.parametrizations[owner.parameter]  # type: ignore[index]
        assert isinstance(chain, ParametrizationList)
        if not (chain.is_tensor and chain[0] is technique and isinstance(technique, Member)):
            continue
        size += state.reference.numel
        if size > MOST_WEIGHTS:
            joint, size = JointPalettes(), state.reference.numel
        joint.add(technique, chain)
