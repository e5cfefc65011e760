"""Copies are found out; new clips of the same world are not taken for copies."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from mmldm.errors import UserError
from mmldm.evaluation.memorisation import (
    Neighbours,
    fingerprints,
    memorisation_report,
    nearest_pairs,
    pairs_sheet,
)
from mmldm.types import AV
from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip


@pytest.fixture(scope="module")
def clips():
    return [render_clip(ImpactsConfig(seed=8), index).clip for index in range(60)]


@pytest.fixture(scope="module")
def neighbours(clips):
    return Neighbours(fingerprints(clips[:36]))


def grainy(clip, seed):
    generator = torch.Generator().manual_seed(seed)
    grain = 8 * torch.randn(clip.frames.shape, generator=generator)
    frames = (clip.frames + grain).clamp(0, 255).to(torch.uint8)
    hiss = 1e-3 * torch.randn(clip.waveform.shape, generator=generator)
    return dataclasses.replace(clip, frames=frames, waveform=clip.waveform + hiss)


def test_training_clip_is_its_own_neighbour_at_no_distance(clips, neighbours):
    distances, indices = neighbours.nearest(fingerprints(clips[:36]), chunk=7)
    assert indices.tolist() == list(range(36))
    assert distances.max() < 1e-6


def test_grainy_copies_are_found_and_new_clips_are_far(clips, neighbours):
    copies = [grainy(clip, seed) for seed, clip in enumerate(clips[10:16])]
    distances, indices = neighbours.nearest(fingerprints(copies))
    assert indices.tolist() == list(range(10, 16))
    held_out, _ = neighbours.nearest(fingerprints(clips[36:]))
    assert distances.max() < held_out.min() / 2


def test_nearest_is_that_of_all_pairs(neighbours, clips):
    queries = fingerprints(clips[36:])
    every = torch.cdist(neighbours.embed(queries), neighbours.embed(fingerprints(clips[:36])))
    distances, indices = neighbours.nearest(queries, chunk=5)
    torch.testing.assert_close(distances, every.min(1).values, rtol=1e-4, atol=1e-5)
    assert torch.equal(indices, every.argmin(1))


def test_random_training_clips_are_one_apart_and_modalities_count_alike():
    generator = torch.Generator().manual_seed(0)
    training = AV(
        0.01 * torch.randn(200, 30, generator=generator),
        5 + 3 * torch.randn(200, 70, generator=generator),
    )
    points = Neighbours(training).embed(training)
    squares = torch.cdist(points, points).square()
    assert squares.sum() / (200 * 199) == pytest.approx(1, abs=1e-3)
    for part in points.split([30, 70], dim=1):
        half = torch.cdist(part, part).square().sum() / (200 * 199)
        assert half == pytest.approx(0.5, abs=1e-3)


def test_silent_training_clips_leave_the_picture_to_decide(clips):
    silent = [dataclasses.replace(c, waveform=torch.zeros_like(c.waveform)) for c in clips[:6]]
    prints = fingerprints(silent)
    distances, indices = Neighbours(prints).nearest(prints)
    assert indices.tolist() == list(range(6))
    assert distances.max() < 1e-6


def test_clips_of_another_picture_size_have_the_same_fingerprint_length(clips):
    (large,) = (
        dataclasses.replace(
            clips[0], frames=clips[0].frames.repeat_interleave(2, 2).repeat_interleave(2, 3)
        ),
    )
    for a, b in zip(fingerprints([large]), fingerprints(clips[:1]), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_report_tells_copying_from_inventing():
    generator = torch.Generator().manual_seed(0)
    held_out = 1 + 0.1 * torch.randn(400, generator=generator)
    inventing = memorisation_report(1 + 0.1 * torch.randn(400, generator=generator), held_out)
    assert inventing["share_near"] < 0.05
    low, high = inventing["median_held_out_interval"]
    assert low < inventing["median_held_out"] < high
    assert inventing["median"] == pytest.approx(1, abs=0.03)
    copying = memorisation_report(torch.cat([held_out[:376], torch.zeros(24)]), held_out)
    assert copying["share_near"] == pytest.approx(0.07, abs=0.02)
    assert copying["quantile_5"] < copying["quantile_5_held_out_interval"][0]
    assert json.loads(json.dumps(copying)) == copying


@pytest.mark.parametrize(("held_out", "share"), [(7, 1 / 8), (100, 1 / 101), (396, 3 / 397)])
def test_few_held_out_clips_expect_more_near_ones_of_a_model_that_invents(held_out, share):
    """Both drawn from one law, 2,000 times; the law does not matter."""
    generator = torch.Generator().manual_seed(held_out)
    reports = [
        memorisation_report(
            *torch.rand(40 + held_out, generator=generator).square().split([40, held_out])
        )
        for _ in range(2000 if held_out < 100 else 300)
    ]
    assert reports[0]["expected_near"] == pytest.approx(share)
    shares = np.array([report["share_near"] for report in reports])
    assert shares.mean() == pytest.approx(share, abs=3.5 * shares.std() / len(shares) ** 0.5)
    counts = (40 * shares).round()
    low, high = (round(40 * end) for end in reports[0]["expected_range"])
    assert ((counts >= low) & (counts <= high)).mean() >= 0.94
    assert (counts == high).any() and (counts > high).mean() <= 0.04


def test_sheet_shows_the_nearest_pairs_first(clips, neighbours):
    mixed = [clips[40], grainy(clips[3], 0), clips[41]]
    distances, indices = neighbours.nearest(fingerprints(mixed))
    pairs = nearest_pairs(distances, indices, 2)
    assert (pairs[0].generated, pairs[0].training) == (1, 3)
    assert pairs[0].distance < pairs[1].distance
    asked = []

    def training(index):
        asked.append(index)
        return clips[index]

    sheet = pairs_sheet(pairs, lambda index: mixed[index], training)
    assert asked == [pair.training for pair in pairs]
    alone = pairs_sheet(pairs[:1], lambda index: mixed[index], training)
    assert sheet.height > 1.9 * alone.height


def test_one_training_clip_is_not_enough(clips):
    with pytest.raises(UserError, match="at least 2"):
        Neighbours(fingerprints(clips[:1]))
