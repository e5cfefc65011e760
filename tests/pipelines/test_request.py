"""What a person asks for: one form, and a sentence for what does not fit."""

import pytest
import torch

from mmldm.errors import UserError
from mmldm.pipelines.request import clip_count
from mmldm.pipelines.seeds import class_indices, clip_seeds, spread_classes


def test_number_of_clips_is_asked_for_or_one_per_given_clip_or_four():
    assert [clip_count(None, n) for n in (0, 1, 2, 7)] == [4, 1, 2, 7]
    assert [clip_count(5, 0), clip_count(5, 1), clip_count(3, 3)] == [5, 5, 3]


def test_classes_are_given_by_name_or_index_once_or_per_clip():
    names = ["wood", "metal"]
    assert class_indices(None, names, 2) is None
    assert class_indices("metal", names, 2).tolist() == [1, 1]
    assert class_indices(["metal", 0], names, 2).tolist() == [1, 0]


def test_a_model_without_classes_refuses_a_class():
    with pytest.raises(UserError, match="without classes"):
        class_indices("wood", [], 1)


def test_one_seed_stands_for_consecutive_ones():
    assert clip_seeds(3, 5, None) == [5, 6, 7]
    assert clip_seeds(2, [9, 1], None) == [9, 1]


def test_unseeded_requests_differ_and_follow_the_global_seed():
    torch.manual_seed(0)
    first, second = clip_seeds(2, None, None), clip_seeds(2, None, None)
    torch.manual_seed(0)
    assert clip_seeds(2, None, None) == first
    assert len({*first, *second}) == 4


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"class_labels": "metall"}, "did you mean 'metal'"),
        ({"class_labels": 2}, "unknown class 2"),
        ({"class_labels": ["wood"]}, "1 class labels for 4 clips"),
        ({"num_samples": 0}, "at least 1"),
        ({"seed": [1, 2]}, "2 seeds or generators for 4 clips"),
        ({"seed": 1, "generator": torch.Generator()}, "not both"),
        ({"audio": torch.zeros(5)}, "5 samples lasts .* and a frame"),
        ({"audio": torch.full((6400,), float("nan"))}, "finite"),
        ({"frames": torch.zeros(8, 3, 32, 32)}, "uint8"),
        ({"frames": torch.zeros(8, 3, 16, 16, dtype=torch.uint8)}, r"\(8, 3, 16, 16\)"),
        ({"audio": torch.zeros(3, 6400), "num_samples": 4}, "does not fit 3 given clips"),
        ({"scheduler": "unpic"}, "did you mean unipc"),
        ({"num_inference_steps": 0}, "from 1 to 1000"),
        ({"decoder_steps": 0}, "from 1 to 1000"),
        ({"output_type": "pil"}, "output_type"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_a_request_that_does_not_fit_is_answered_with_a_sentence(pipeline, request_, sentence):
    with pytest.raises(UserError, match=sentence):
        pipeline(**request_)


def test_audio_and_frames_together_are_refused(pipeline, waveforms, frames):
    with pytest.raises(UserError, match="nothing is left to generate"):
        pipeline(audio=waveforms[0], frames=frames[0])


def test_seeds_in_a_row_have_classes_by_their_shares_and_each_its_own():
    even = spread_classes(range(1000), [1.0] * 6)
    counts = torch.bincount(even, minlength=6)
    assert counts.max() - counts.min() <= 4
    assert len(set(spread_classes(range(4), [1] * 6).tolist())) == 4
    # Wherever one starts, at the ends of what a seed may be, too.
    for first in (12345, 2**63, 2**64 - 600):
        skewed = spread_classes(range(first, first + 600), [3, 2, 1])
        assert (
            torch.bincount(skewed, minlength=3) - torch.tensor([300, 200, 100])
        ).abs().max() <= 4
    assert torch.equal(spread_classes([7, 3], [1] * 6), torch.stack([even[7], even[3]]))
