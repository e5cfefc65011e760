"""Extractors are built by name; what is missing is said before anything is loaded."""

import pytest
import torch
from safetensors.torch import save_file

from mmldm.errors import UserError
from mmldm.evaluation.extractors.extractor import of_clips, of_windows
from mmldm.evaluation.extractors.named import BUILDERS, load_extractor

from . import layouts

LAYOUTS = {
    "yamnet": layouts.YAMNET,
    "i3d": layouts.I3D,
    "i3d-pooled": layouts.I3D,
    "squeezenet": layouts.SQUEEZENET,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_named_extractor_reads_its_layout_and_leaves_the_random_generator_alone(name, tmp_path):
    path = tmp_path / "mine.safetensors"
    save_file({k: torch.zeros(shape) for k, shape in LAYOUTS[name].items()}, path)
    before = torch.get_rng_state()
    extractor = load_extractor(name, path)
    assert torch.equal(torch.get_rng_state(), before)
    assert extractor.name == name
    assert len(extractor.sha256) == 64
    network = extractor.network  # type: ignore[attr-defined]
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("name", BUILDERS)
def test_missing_weights_are_a_sentence(name, tmp_path, monkeypatch):
    monkeypatch.setenv("MMLDM_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match=r"needs its weights, and there is no .* get the file from"):
        load_extractor(name)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match="no extractor 'c3d'; there are yamnet, .*, clap"):
        load_extractor("c3d")


def test_windows_of_clips_are_one_set_or_one_mean_a_clip():
    features = [torch.tensor([[0.0, 2.0], [2.0, 4.0]]), torch.tensor([[5.0, 5.0]])]
    assert of_windows(features).shape == (3, 2)
    assert of_clips(features).tolist() == [[1.0, 3.0], [5.0, 5.0]]
