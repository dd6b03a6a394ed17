"""Recurrent layers, attention, non-maximum suppression and random values against their documented formulas."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - coremltools' own name for it
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FEW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

seeds = st.integers(0, 2**16)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def sequence_of(states, output_sequence):
    return np.stack(states) if output_sequence else states[-1][None]


recurrent = given(
    seed=seeds,
    steps=st.integers(1, 4),
    batch=st.integers(1, 2),
    direction=st.sampled_from(["forward", "reverse"]),
    output_sequence=st.booleans(),
    biased=st.booleans(),
)


@FEW
@recurrent
def test_rnn(programs, seed, steps, batch, direction, output_sequence, biased):
    x, h = normal(seed, steps, batch, 3), normal(seed + 1, batch, 2)
    w_ih, w_hh, bias = normal(seed + 2, 2, 3), normal(seed + 3, 2, 2), normal(seed + 4, 2)
    options = {"bias": bias} if biased else {}
    body = lambda x, h: mb.rnn(  # noqa: E731
        x=x,
        initial_h=h,
        weight_ih=w_ih,
        weight_hh=w_hh,
        direction=direction,
        output_sequence=output_sequence,
        activation="tanh",
        **options,
    )
    sequence, last = programs.run(body, {"x": x, "h": h}, target=ct.target.iOS17)
    states = []
    for inputs in x if direction == "forward" else x[::-1]:
        h = np.tanh(inputs @ w_ih.T + h @ w_hh.T + (bias if biased else 0))
        states.append(h)
    np.testing.assert_allclose(sequence, sequence_of(states, output_sequence), atol=1e-5)
    np.testing.assert_allclose(last, h, atol=1e-5)


@FEW
@recurrent
def test_gru(programs, seed, steps, batch, direction, output_sequence, biased):
    x, h = normal(seed, steps, batch, 3), normal(seed + 1, batch, 2)
    w_ih, w_hh, bias = normal(seed + 2, 6, 3), normal(seed + 3, 6, 2), normal(seed + 4, 6)
    options = {"bias": bias} if biased else {}
    body = lambda x, h: mb.gru(  # noqa: E731
        x=x,
        initial_h=h,
        weight_ih=w_ih,
        weight_hh=w_hh,
        direction=direction,
        output_sequence=output_sequence,
        **options,
    )
    sequence, last = programs.run(body, {"x": x, "h": h}, target=ct.target.iOS17)
    (ir, io, iz), (hr, ho, hz) = np.split(w_ih, 3), np.split(w_hh, 3)
    br, bo, bz = np.split(bias if biased else np.zeros(6, np.float32), 3)
    states = []
    for inputs in x if direction == "forward" else x[::-1]:
        r = sigmoid(inputs @ ir.T + h @ hr.T + br)
        z = sigmoid(inputs @ iz.T + h @ hz.T + bz)
        o = np.tanh(inputs @ io.T + (r * h) @ ho.T + bo)
        h = (1 - z) * o + z * h
        states.append(h)
    np.testing.assert_allclose(sequence, sequence_of(states, output_sequence), atol=1e-5)
    np.testing.assert_allclose(last, h, atol=1e-5)


@FEW
@given(seed=seeds, steps=st.integers(1, 4), batch=st.integers(1, 2))
def test_gru_that_resets_after_the_product_is_pytorchs(programs, seed, steps, batch):
    layer = torch.nn.GRU(3, 2)
    x, h = normal(seed, steps, batch, 3), normal(seed + 1, batch, 2)

    def reordered(parameter):
        reset, update, new = np.split(parameter.detach().numpy(), 3)
        return np.concatenate([reset, new, update])

    body = lambda x, h: mb.gru(  # noqa: E731
        x=x,
        initial_h=h,
        weight_ih=reordered(layer.weight_ih_l0),
        weight_hh=reordered(layer.weight_hh_l0),
        input_bias=reordered(layer.bias_ih_l0),
        bias=reordered(layer.bias_hh_l0),
        reset_after=True,
        output_sequence=True,
    )
    sequence, last = programs.run(body, {"x": x, "h": h})
    with torch.no_grad():
        expected, final = layer(torch.from_numpy(x), torch.from_numpy(h)[None])
    np.testing.assert_allclose(sequence, expected, atol=1e-5)
    np.testing.assert_allclose(last, final[0], atol=1e-5)


def lstm_reference(x, h, c, w_ih, w_hh, bias, peephole, clip):
    (pi, pf, po), states = np.split(peephole, 3), []
    for inputs in x:
        i, f, o, z = np.split(inputs @ w_ih.T + h @ w_hh.T + bias, 4, -1)
        i, f = sigmoid(i + pi * c), sigmoid(f + pf * c)
        c = np.clip(f * c + i * np.tanh(z), -clip, clip)
        h = sigmoid(o + po * c) * np.tanh(c)
        states.append(h)
    return states, h, c


@FEW
@given(
    seed=seeds,
    steps=st.integers(1, 4),
    batch=st.integers(1, 2),
    direction=st.sampled_from(["forward", "reverse", "bidirectional"]),
    output_sequence=st.booleans(),
    peepholes=st.booleans(),
    clip=st.sampled_from([None, 0.5]),
)
def test_lstm(programs, seed, steps, batch, direction, output_sequence, peepholes, clip):
    both = direction == "bidirectional"
    width = 4 if both else 2
    x, h, c = normal(seed, steps, batch, 3), normal(seed + 1, batch, width), normal(seed + 2, batch, width)
    sides = [
        (
            normal(s, 8, 3),
            normal(s + 1, 8, 2),
            normal(s + 2, 8),
            normal(s + 3, 6) if peepholes else np.zeros(6, "f"),
        )
        for s in (seed + 3, seed + 7)
    ]
    names = ("weight_ih", "weight_hh", "bias", "peephole")
    options = dict(zip(names, sides[0], strict=True))
    if both:
        options |= {f"{name}_back": value for name, value in zip(names, sides[1], strict=True)}
    if not peepholes:
        options = {name: value for name, value in options.items() if not name.startswith("peephole")}
    if clip is not None:
        options["clip"] = np.float32(clip)
    body = lambda x, h, c: mb.lstm(  # noqa: E731
        x=x, initial_h=h, initial_c=c, direction=direction, output_sequence=output_sequence, **options
    )
    sequence, last_h, last_c = programs.run(body, {"x": x, "h": h, "c": c}, target=ct.target.iOS17)
    parts = []
    for side, one in zip(
        sides if both else sides[:1], ["forward", "reverse"] if both else [direction], strict=True
    ):
        at = slice(2, 4) if both and one == "reverse" else slice(0, 2)
        states, final_h, final_c = lstm_reference(
            x[::-1] if one == "reverse" else x, h[:, at], c[:, at], *side, clip or np.inf
        )
        states = states[::-1] if both and one == "reverse" and output_sequence else states
        parts.append((sequence_of(states, output_sequence), final_h, final_c))
    for actual, expected in zip((sequence, last_h, last_c), zip(*parts, strict=True), strict=True):
        np.testing.assert_allclose(actual, np.concatenate(expected, -1), atol=1e-5)


@pytest.mark.parametrize("mask", ["none", "boolean", "float"])
@FEW
@given(seed=seeds, batch=st.integers(1, 2), heads=st.integers(1, 2))
def test_scaled_dot_product_attention(programs, mask, seed, batch, heads):
    q, k, v = (normal(seed + i, batch, heads, n, e) for i, (n, e) in enumerate([(3, 4), (5, 4), (5, 2)]))
    added, options = np.zeros((3, 5), np.float32), {}
    if mask == "boolean":
        keep = normal(seed + 4, 3, 5) > -0.5
        keep[:, 0] = True
        added, options = np.where(keep, 0, -np.inf), {"attn_mask": keep}
    if mask == "float":
        added = normal(seed + 4, 3, 5)
        options = {"attn_mask": added}
    body = lambda q, k, v: mb.scaled_dot_product_attention(query=q, key=k, value=v, **options)  # noqa: E731
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(4) + added
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = weights / weights.sum(-1, keepdims=True) @ v
    actual = programs.run(body, {"q": q, "k": k, "v": v})[0]
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def overlap(a, b):
    left, right = max(a[0] - a[2] / 2, b[0] - b[2] / 2), min(a[0] + a[2] / 2, b[0] + b[2] / 2)
    top, bottom = max(a[1] - a[3] / 2, b[1] - b[3] / 2), min(a[1] + a[3] / 2, b[1] + b[3] / 2)
    inner = max(right - left, 0) * max(bottom - top, 0)
    return inner / (a[2] * a[3] + b[2] * b[3] - inner)


def suppressed(boxes, scores, iou_threshold, score_threshold, per_class):
    best, labels, kept = scores.max(1), scores.argmax(1), []
    for i in np.argsort(-best, kind="stable"):
        if best[i] < score_threshold:
            continue
        rivals = [j for j in kept if not per_class or labels[i] == labels[j]]
        if all(overlap(boxes[i], boxes[j]) <= iou_threshold for j in rivals):
            kept.append(i)
    return kept


@FEW
@given(
    seed=seeds,
    iou=st.floats(0.1, 0.7),
    score=st.floats(0, 0.6),
    per_class=st.booleans(),
    most=st.integers(1, 12),
)
def test_non_maximum_suppression(programs, seed, iou, score, per_class, most):
    generator = np.random.default_rng(seed)
    boxes = generator.uniform([0, 0, 0.5, 0.5], [2, 2, 2, 2], (2, 9, 4)).astype(np.float32)
    scores = generator.uniform(0, 1, (2, 9, 3)).astype(np.float32)
    iou, score = np.float32(iou), np.float32(score)
    shared = {"iou_threshold": iou, "max_boxes": most, "per_class_suppression": per_class}
    body = lambda boxes, scores: mb.non_maximum_suppression(  # noqa: E731
        boxes=boxes, scores=scores, score_threshold=score, **shared
    )
    older = programs.run(body, {"boxes": boxes, "scores": scores}, target=ct.target.iOS16)
    body = lambda boxes, scores: mb.non_maximum_suppression(boxes=boxes, scores=scores, **shared)  # noqa: E731
    turned = {"boxes": boxes.swapaxes(1, 2).copy(), "scores": scores.swapaxes(1, 2).copy()}
    newer = programs.run(body, turned, target=ct.target.iOS17)
    for n in range(2):
        kept = suppressed(boxes[n], scores[n], iou, score, per_class)[:most]
        assert older[2][n].tolist() == [*kept, *[-1] * (most - len(kept))]
        assert older[3][n] == len(kept)
        np.testing.assert_array_equal(older[0][n, : len(kept)], boxes[n, kept])
        np.testing.assert_array_equal(older[1][n, : len(kept)], scores[n, kept])
        kept = suppressed(boxes[n], scores[n], iou, -1, per_class)[:most]
        assert newer[2][n].tolist() == [*kept, *[-1] * (most - len(kept))]
        np.testing.assert_array_equal(newer[0][n, :, : len(kept)], boxes[n, kept].T)
        np.testing.assert_array_equal(newer[1][n, :, : len(kept)], scores[n, kept].T)


def test_random_values_have_their_distribution(programs):
    x = np.zeros((1, 4), np.float32)
    shape = [2000, 4]
    body = lambda x: (  # noqa: E731
        mb.random_normal(shape=shape, mean=np.float32(1), stddev=np.float32(2)),
        mb.random_uniform(shape=shape, low=np.float32(-1), high=np.float32(3)),
        mb.random_bernoulli(shape=shape, prob=np.float32(0.3)),
        mb.random_normal(shape=shape, seed=7),
        mb.random_categorical(x=x, mode="logits", size=2000, seed=3),
    )
    module = programs.build(body, {"x": x}, target=ct.target.iOS16)
    torch.manual_seed(0)
    first = list(module(torch.from_numpy(x)).values())
    second = list(module(torch.from_numpy(x)).values())
    assert first[0].mean() == pytest.approx(1, abs=0.1)
    assert first[0].std() == pytest.approx(2, abs=0.1)
    assert (first[1].min() >= -1, first[1].max() < 3) == (True, True)
    assert first[1].mean() == pytest.approx(1, abs=0.1)
    assert first[2].mean() == pytest.approx(0.3, abs=0.05)
    assert set(first[2].unique().tolist()) == {0.0, 1.0}
    assert first[4].unique().tolist() == [0.0, 1.0, 2.0, 3.0]
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[3], second[3])
