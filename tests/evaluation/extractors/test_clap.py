"""CLAP is read from a folder of transformers, and sound goes through its own preparation."""

import pytest
import torch

from mmldm.errors import UserError
from mmldm.evaluation.extractors.clap import CLAP
from mmldm.evaluation.extractors.named import load_extractor
from mmldm.media.clip import Clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The architecture of laion/clap-htsat-unfused, narrow."""
    pytest.importorskip("transformers")
    from transformers.models.clap.configuration_clap import ClapConfig
    from transformers.models.clap.feature_extraction_clap import ClapFeatureExtractor
    from transformers.models.clap.modeling_clap import ClapModel

    torch.manual_seed(0)
    config = ClapConfig(
        text_config={
            "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 1, "vocab_size": 16, "projection_dim": 12,
        },
        audio_config={
            "hidden_size": 64, "patch_embeds_hidden_size": 8, "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 1, 1, 1], "projection_dim": 12,
        },
        projection_dim=12,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("clap")
    ClapModel(config).save_pretrained(path)
    ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad").save_pretrained(path)
    return path


def sounding(seconds: float, rate: int = 16_000) -> Clip:
    time = torch.arange(round(seconds * rate)) / rate
    sound = torch.sin(2 * torch.pi * (200 + 40 * time) * time) / 4
    return Clip(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), sound, 10, rate)


def test_clip_has_a_feature_for_every_ten_seconds(folder):
    extractor = load_extractor("clap", folder)
    short, long = extractor([sounding(1.6), sounding(12.0)])
    assert short.shape == (1, 12) and long.shape == (2, 12)
    assert extractor.dim == 12 and len(extractor.sha256) == 64
    torch.testing.assert_close(extractor([sounding(1.6)])[0], short)
    assert not torch.allclose(long[:1], short)


def test_folder_without_a_model_is_refused(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(UserError, match="no CLAP model that can be read"):
        CLAP(tmp_path)
