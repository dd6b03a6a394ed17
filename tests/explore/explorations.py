"""What a search could have found, for tests of what is made of it.

Shapes, weights and errors of rounding are those of a small real network; the metric falls as networks' metrics do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from lightning_compress.explore.record import (
    Candidate,
    Exploration,
    Option,
    Question,
    RungRecord,
    TensorRecord,
    Timing,
    Verdict,
)
from lightning_compress.explore.sizes import dense_bytes

BITS = {"int8": 8, **{f"palettize_{bits}bit": bits for bits in (8, 6, 4, 3, 2, 1)}}
"""Bits of a weight in each form."""

FLOAT = 0.5512
MAX_DROP = 0.01


def network() -> nn.Module:
    """A detector's layers, small."""
    torch.manual_seed(0)
    widths = (16, 24, 32, 48, 64, 64, 48)
    backbone = nn.Sequential()
    channels = 3
    for place, width in enumerate(widths):
        backbone.add_module(f"stage{place}", nn.Conv2d(channels, width, 3))
        channels = width
    heads = nn.ModuleDict({"classes": nn.Conv2d(channels, 44, 3), "boxes": nn.Conv2d(channels, 16, 3)})
    return nn.ModuleDict({"backbone": backbone, "heads": heads, "embedding": nn.Linear(96, 32)})


def tensors(of: nn.Module | None = None) -> list[TensorRecord]:
    """Each tensor of two or more dimensions with its forms, their bytes and their scores."""
    generator = np.random.default_rng(0)
    found = []
    for name, weight in (of or network()).named_parameters():
        if weight.dim() < 2:
            continue
        gradient = float(generator.lognormal(-1.0, 1.2))
        weight = weight.detach()
        options = [Option("dense", dense_bytes(weight.numel()))]
        for form, bits in BITS.items():
            error = float((weight - rounded(weight, bits)).square().sum())
            count = 64 + weight.numel() * bits // 8 + 2 * 2**bits
            score = gradient * error
            tried = bits == 4 and gradient > 0.4
            options.append(Option(form, count, score, score * 1.3 if tried else None))
        options = [options[0], *(option for option in options if option.bytes < options[0].bytes)]
        options.sort(key=lambda option: -option.bytes)
        reason = "fewer than 1,600 elements" if weight.numel() < 1600 else None
        found.append(
            TensorRecord(
                name,
                tuple(weight.shape),
                options if reason is None else options[:1],
                input_score=gradient / 40,
                reason=reason,
            )
        )
    return found


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """The weight on a grid of as many values."""
    step = 2 * weight.abs().max() / (2**bits - 1)
    return (weight / step).round() * step


def exploration(**changes: Any) -> Exploration:
    """A whole search, which ended with a package that holds on other data.

    Args:
        changes: Fields to set otherwise.
    """
    records = tensors()
    candidates = [candidate("float16", "float16", records, {}, FLOAT, 0)]
    for form in BITS:
        candidates.append(uniform(form, "kmeans", records, 1.0, len(candidates)))
    for form in ("palettize_6bit", "palettize_4bit", "palettize_3bit"):
        candidates.append(uniform(form, "data_driven", records, 0.5, len(candidates)))
    for place, bits in enumerate((3.0, 3.4, 3.8, 4.2, 4.6, 5.0)):
        forms = allocated(records, bits)
        candidates.append(measured(f"mixed_{place + 1}", "mixed", records, forms, 0.4, len(candidates)))
    chosen = next(
        entry.name for entry in sorted(candidates, key=lambda one: one.package_bytes) if entry.satisfies
    )
    timed = exploration_of(records, candidates, chosen)
    return Exploration(**{**{name: getattr(timed, name) for name in timed.__dataclass_fields__}, **changes})


def exploration_of(records: list[TensorRecord], candidates: list[Candidate], chosen: str) -> Exploration:
    """The search around its candidates."""
    best = next(entry for entry in candidates if entry.name == chosen)
    return Exploration(
        question=Question(
            "val/map",
            max_drop=MAX_DROP,
            budget=7200.0,
            rungs=("kmeans", "data_driven", "mixed", "short_fit", "full_fit"),
            left_alone=("embedding.weight",),
        ),
        digest="sha256:5f1c0d9c3b6e",
        tensors=records,
        candidates=candidates,
        rungs=[
            RungRecord(
                "kmeans", "not satisfied", 212.0, "the smallest that keeps the limit is palettize_8bit"
            ),
            RungRecord("data_driven", "not satisfied", 148.0, ""),
            RungRecord("mixed", "satisfied", 251.0, f"{chosen} keeps the limit"),
            RungRecord("short_fit", "not needed", 0.0, ""),
            RungRecord("full_fit", "not affordable", 9400.0, "the budget has 6,589 s left"),
        ],
        chosen=chosen,
        verdict=Verdict(1000, 0.5490, 0.0081, 0.5455, 0.0083, 0.0035, 0.0029, True),
        seconds={"sensitivity": 61.4, "making packages": 402.8, "measuring packages": 147.0, "verdict": 38.2},
        pictures={"float16": "float16.png", chosen: f"{best.name}.png"},
    )


def allocated(records: list[TensorRecord], bits: float) -> dict[str, str]:
    """For each tensor the smallest form whose score a byte is below a price, as an allocation would have it."""
    price = 10 ** (-3.0 - bits)
    forms = {}
    for record in records:
        worth = [option for option in record.options[1:] if (option.score or 0.0) / option.bytes < 50 * price]
        if worth:
            forms[record.name] = worth[-1].form
    return forms


def uniform(form: str, rung: str, records: list[TensorRecord], strength: float, place: int) -> Candidate:
    """All tensors in one form."""
    forms = {record.name: form for record in records if form in (option.form for option in record.options)}
    return measured(f"{rung}_{form}", rung, records, forms, strength, place)


def measured(
    name: str, rung: str, records: list[TensorRecord], forms: Mapping[str, str], strength: float, place: int
) -> Candidate:
    """A candidate with the metric that its scores let one expect."""
    expected = strength * sum(
        record.option(forms[record.name]).score or 0.0 for record in records if record.name in forms
    )
    value = FLOAT * 2 / (1 + math.exp(min(0.9 * expected, 50))) + 0.0004 * math.sin(7 * place)
    value = max(value, 0.0)
    return candidate(name, rung, records, forms, round(value, 4), place, expected=expected)


def candidate(
    name: str,
    rung: str,
    records: list[TensorRecord],
    forms: Mapping[str, str],
    value: float,
    place: int,
    **more: Any,
) -> Candidate:
    """A candidate with the bytes of its forms."""
    weights = 20_000 + sum(record.option(forms.get(record.name, "dense")).bytes for record in records)
    drop = FLOAT - value
    return Candidate(
        name=name,
        rung=rung,
        forms=forms,
        package=f"{name}/{name}.mlpackage",
        package_bytes=weights + 31_300,
        weight_bytes=weights,
        value=value,
        drop=drop,
        satisfies=drop <= MAX_DROP,
        seconds=18.0 + place,
        **more,
    )


def timings(device: str = "MacBook Pro, M3, macOS 15.1") -> list[Timing]:
    """What a device could have measured."""
    return [
        Timing("ALL", 1.62, 50, {"NeuralEngine": 60, "CPU": 2}, device),
        Timing("CPU_ONLY", 6.9, 50, {"CPU": 62}, device),
    ]


def draw_pictures(found: Exploration, folder: Path) -> None:
    """Sheets of noise where the pictures of a search lie."""
    generator = np.random.default_rng(1)
    for name in found.pictures.values():
        pixels = generator.integers(0, 255, (12, 48, 3), dtype=np.uint8)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((768, 192)).save(folder / name)
