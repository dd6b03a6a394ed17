from __future__ import annotations

import coremltools as ct
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_compress.errors import ConfigurationError, TargetError
from lightning_compress.package.targets import (
    Capability,
    lowest_target,
    palettization_capabilities,
    resolve_target,
    target_name,
    target_names,
)

LOWEST = {
    Capability.SPARSE_WEIGHTS: "iOS16",
    Capability.LUT: "iOS16",
    Capability.INT8_WEIGHTS: "iOS16",
    Capability.INT8_ACTIVATIONS: "iOS17",
}


@pytest.mark.parametrize("capability", Capability)
def test_none_given_means_the_lowest_target_that_carries_what_was_asked(capability):
    assert resolve_target(None, [capability]) == ct.target[LOWEST.get(capability, "iOS18")]


def test_without_compression_the_lowest_target_is_where_ml_programs_begin():
    assert resolve_target(None) == ct.target.iOS15


@pytest.mark.parametrize(
    "name", ["iOS18", "ios18", "IOS18", "iOS 18", "macOS15", "macos15", "watchOS11", "tvos18"]
)
def test_names_of_every_platform_are_understood_in_any_case(name):
    assert resolve_target(name) == ct.target.iOS18


@given(st.sets(st.sampled_from(Capability)), st.sampled_from(target_names()))
def test_a_target_is_accepted_exactly_if_it_is_no_lower_than_the_lowest_that_works(capabilities, name):
    if ct.target[name] >= lowest_target(capabilities):
        assert resolve_target(name, capabilities) == ct.target[name]
    else:
        with pytest.raises(TargetError, match="the lowest target that can is"):
            resolve_target(name, capabilities)


@pytest.mark.parametrize(
    ("requested", "lowest"), [("iOS16", "iOS18"), ("macOS13", "macOS15"), ("watchos9", "watchOS11")]
)
def test_a_target_too_low_is_refused_naming_what_it_lacks_and_the_lowest_that_can_on_the_same_platform(
    requested, lowest
):
    with pytest.raises(TargetError) as raised:
        resolve_target(requested, [Capability.LUT_3_BIT])
    assert requested in str(raised.value)
    assert "3 bits" in str(raised.value)
    assert f"the lowest target that can is {lowest}." in str(raised.value)


def test_an_unknown_target_is_refused_with_the_nearest_and_all_valid_ones():
    with pytest.raises(
        TargetError, match=r"'iOS19' is unknown; did you mean 'iOS1\d.*Valid are iOS15, .*macOS15"
    ):
        resolve_target("iOS19")


def test_a_target_before_ml_programs_is_refused():
    with pytest.raises(
        TargetError, match=r"'macOS11' cannot hold an ML Program; the lowest target that can is macOS12"
    ):
        resolve_target("macOS11")


def test_palettization_asks_for_what_its_options_need():
    assert palettization_capabilities(4) == {Capability.LUT}
    assert palettization_capabilities(3) == {Capability.LUT_3_BIT}
    assert palettization_capabilities(
        2, grouped=True, per_channel_scale=True, cluster_dim=2, int8_lut=True
    ) == {
        Capability.LUT,
        Capability.LUT_GROUPED,
        Capability.LUT_PER_CHANNEL_SCALE,
        Capability.LUT_VECTOR,
        Capability.LUT_INT8,
    }


@pytest.mark.parametrize("n_bits", [0, 5, 7, 9, 16])
def test_widths_that_core_ml_has_not_are_refused_with_those_it_has(n_bits):
    with pytest.raises(ConfigurationError, match=rf"n_bits={n_bits} .*valid are \(1, 2, 3, 4, 6, 8\)"):
        palettization_capabilities(n_bits)


def test_targets_are_named_as_people_know_them():
    assert target_name(9) == "iOS18 / macOS15"
