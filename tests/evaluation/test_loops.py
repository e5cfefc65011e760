"""A film that repeats itself, its prefix or another one is found, and one that does not is not."""

import pytest
import torch

from mmldm.evaluation.loops import continued, lag_similarities, loops
from mmldm.evaluation.protocol import find_protocol
from mmldm.evaluation.rollouts import CONTINUED, SEEDS

RULES = find_protocol("default")
FRAMES = RULES.spec.num_frames


def window(generator, frames=None):
    """Fingerprints of a window of noise."""
    video = torch.rand(FRAMES * 16, generator=generator) if frames is None else frames
    return {"video": video, "audio": torch.rand(32, generator=generator)}


def drawn(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return [window(generator) for _ in range(count)]


def test_a_loop_has_its_similarity_at_its_lag():
    film = drawn(2, 0) * 3
    found = lag_similarities(film, FRAMES)
    assert found.argmax().item() + FRAMES == 2 * FRAMES
    assert found.max().item() == pytest.approx(1)
    assert lag_similarities(drawn(6, 1), FRAMES).max() < 0.3


def test_films_that_loop_stand_out_of_real_ones():
    real = [drawn(6, seed) for seed in range(20)]
    made = [drawn(6, 40 + seed) for seed in range(6)] + [drawn(2, 60 + s) * 3 for s in range(6)]
    found = loops({"generated": made, "real": real}, RULES)
    assert found["real"].share <= 0.1
    assert found["generated"].share == pytest.approx(0.5, abs=0.2)
    assert found["generated"].threshold < 0.5
    assert loops({"generated": made}, RULES)["generated"].share is None


def continuations(copies_prefix=False, copies_seeds=False):
    films = []
    for prefix in range(3):
        first = drawn(1, 100 + prefix)[0]
        common = drawn(CONTINUED, 200 + prefix)
        for seed in range(SEEDS):
            own = drawn(CONTINUED, 300 + 10 * prefix + seed)
            if copies_prefix:
                own = [first] * CONTINUED
            elif copies_seeds:
                own = common
            films.append([first, *own])
    return films


def test_copies_of_the_prefix_and_of_each_other_are_found():
    real, anchor = [drawn(6, seed) for seed in range(20)], drawn(60, 99)
    told = continued(continuations(), real, anchor, RULES)
    assert told["prefix_copies"]["share"] < 0.2 and told["seed_copies"]["share"] < 0.2
    assert told["windows"][0]["diversity"] == pytest.approx(1, abs=0.2)
    assert told["windows"][0]["others"] == pytest.approx(1, abs=0.2)
    told = continued(continuations(copies_prefix=True), real, anchor, RULES)
    assert told["prefix_copies"]["share"] == 1 and told["seed_copies"]["share"] == 1
    told = continued(continuations(copies_seeds=True), real, anchor, RULES)
    assert told["prefix_copies"]["share"] < 0.2 and told["seed_copies"]["share"] == 1
    assert told["windows"][1]["diversity"] == pytest.approx(0, abs=1e-4)
    assert told["windows"][1]["others"] > 0.8
    assert "prefix_copies" not in continued(continuations(), [], anchor, RULES)
