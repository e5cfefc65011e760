"""YAMNet hears in real clips what their list says, and takes files of its layout."""

import csv

import pytest
import torch
from safetensors.torch import save_file

from mmldm.errors import UserError
from mmldm.evaluation.extractors.yamnet import YAMNet, YAMNetNetwork
from mmldm.media.clip import Clip
from mmldm.media.reader import read_audio
from mmldm.types import ClipSpec

from . import layouts

HEARD = (
    "bbb_1s_vp8.webm", "chaplin.mp4", "gen_ovi_1344x704_0.mp4", "mdn_crystal.webm",
    "mdn_friday.mp4", "mdn_stream_of_water.mp4", "nasa_13013_8k_multistream.mp4",
    "smpte_ticks_1080p.mp4",
)  # fmt: skip


@pytest.fixture(scope="module")
def yamnet(shared):
    return YAMNet(shared / "weights" / "yamnet_relu6_fp16.safetensors")


def sounding(waveform: torch.Tensor, rate: int) -> Clip:
    return Clip(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), waveform, 10, rate)


def test_layout_has_the_networks_tensors_and_shapes():
    own = {name: tuple(t.shape) for name, t in YAMNetNetwork().state_dict().items()}
    assert own == layouts.YAMNET


@pytest.mark.parametrize("name", HEARD)
def test_top_class_of_a_real_clip_is_the_listed_one(yamnet, shared, name):
    with (shared / "clips" / "MANIFEST.csv").open(encoding="utf-8", newline="") as file:
        [row] = [row for row in csv.DictReader(file) if row["name"] == name]
    spec = ClipSpec(num_frames=1, fps=1 / float(row["asec"]), sample_rate=48_000)
    [features] = yamnet([sounding(read_audio(shared / "clips" / name, spec), 48_000)])
    with torch.no_grad():
        scores = yamnet.network.fc(features).sigmoid().mean(0)
    listed, score = row["yamnet"].partition(";")[0].rsplit(" ", 1)
    with (shared / "weights" / "yamnet_class_map.csv").open(encoding="utf-8", newline="") as file:
        names = [row["display_name"] for row in csv.DictReader(file)]
    assert names[scores.argmax()] == listed
    assert scores.max().item() == pytest.approx(float(score), abs=0.15)


def test_features_have_a_row_for_every_half_second(yamnet):
    tone = torch.sin(torch.arange(16_000 * 2) * 0.3) / 4
    [two, short] = yamnet([sounding(tone, 16_000), sounding(tone[:4_000], 16_000)])
    assert two.shape == (3, 1024) and short.shape == (1, 1024)
    assert (two >= 0).all() and two.std() > 0


def test_sample_rate_of_a_clip_changes_its_features_little(yamnet):
    def sweep(rate: int) -> Clip:
        time = torch.arange(2 * rate, dtype=torch.float64) / rate
        return sounding((torch.sin(2 * torch.pi * (300 + 900 * time) * time) / 4).float(), rate)

    low, high, other = yamnet([sweep(16_000), sweep(48_000), sounding(torch.zeros(32_000), 16_000)])
    assert (low - high).norm() < 0.01 * (low - other).norm()


def test_other_file_under_the_published_name_is_refused(tmp_path):
    path = tmp_path / "yamnet_relu6_fp16.safetensors"
    save_file(layouts.drawn(layouts.YAMNET), path)
    with pytest.raises(UserError, match="not the published file"):
        YAMNet(path)
    assert YAMNet(path.rename(tmp_path / "mine.safetensors")).dim == 1024
