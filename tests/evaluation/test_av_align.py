"""AV-Align's onsets and matching are those of second implementations, and of librosa, OpenCV if installed."""

import numpy as np
import pytest
import torch

from mmldm.errors import UserError
from mmldm.evaluation import av_align as published
from mmldm.evaluation.features import build_measures
from mmldm.evaluation.metrics import metrics
from mmldm.evaluation.protocol import find_protocol
from mmldm.media.resampling import resample
from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip

RULES = find_protocol("default")


@pytest.fixture(scope="module")
def sounds(real):
    """Hits of three materials, noise that swells, and silence with one click; each at 22,050 Hz."""
    found = [resample(clip.waveform, clip.sample_rate, published.RATE).numpy() for clip in real[:8]]
    rng = np.random.default_rng(0)
    found.append((rng.standard_normal(40_000) * np.linspace(0, 0.5, 40_000)).astype(np.float32))
    found.append(np.zeros(30_000, dtype=np.float32))
    found[-1][12_345] = 0.5
    return found


def second_envelope(sound):
    """The same by scipy's short-time transform and one mel band after the other."""
    signal = pytest.importorskip("scipy.signal")
    window = signal.get_window("hann", 2048)
    _, _, spectra = signal.stft(sound.astype(float), 22_050, window, 2048, 2048 - 512, padded=False)
    power = np.abs(spectra * window.sum()) ** 2

    def hertz(mel):
        return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    top = 15 + 27 * np.log(11_025 / 1000) / np.log(6.4)
    edges = [hertz(mel) for mel in np.linspace(0, top, 130)]
    bins = np.arange(1025) * 22_050 / 2048
    levels = []
    for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
        band = np.interp(bins, [low, middle, high], [0, 2 / (high - low), 0])
        levels.append(10 * np.log10(np.maximum(1e-10, band @ power)))
    levels = np.maximum(levels, np.max(levels) - 80)
    rises = np.maximum(0, levels[:, 1:] - levels[:, :-1]).mean(0)
    return np.concatenate([[0, 0, 0], rises])[: levels.shape[1]]


def second_picks(rises):
    """Böck's rule as librosa words it: the highest of two, .07 over the mean of nine, and two hops apart."""
    x = (rises - rises.min()) / (rises.max() - rises.min())
    found: list[int] = []
    for n in range(len(x)):
        alone = not found or n - found[-1] > 1
        is_highest = n == 0 or x[n] >= x[n - 1]
        if alone and is_highest and x[n] >= x[max(0, n - 4) : n + 5].mean() + 0.07:
            found.append(n)
    return found


def second_share(onsets, peaks, fps):
    used = [False] * len(peaks)
    for onset in onsets:
        for j, peak in enumerate(peaks):
            if not used[j] and abs(onset - peak) < 1 / fps:
                used[j] = True
                break
    return sum(used) / max(1, len(onsets) + len(peaks) - sum(used))


def test_rises_are_those_of_a_second_implementation(sounds):
    for sound in sounds:
        wanted = second_envelope(sound)
        np.testing.assert_allclose(published.envelope(sound), wanted, rtol=1e-9, atol=1e-9)


def test_onsets_are_those_of_a_second_implementation(sounds):
    found = [published.picked(published.envelope(sound)).tolist() for sound in sounds]
    assert found == [second_picks(published.envelope(sound)) for sound in sounds]
    assert all(1 <= len(onsets) <= 12 for onsets in found[:8])
    assert published.picked(np.zeros(60)).tolist() == []


def test_a_click_is_heard_where_it_is():
    click = torch.zeros(16_000)
    click[8_000:8_400] = 0.3 * torch.randn(400, generator=torch.Generator().manual_seed(0))
    (onset,) = published.onsets(click, 16_000)
    assert onset == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("seed", range(20))
def test_each_peak_serves_one_onset_as_in_the_program(seed):
    rng = np.random.default_rng(seed)
    onsets, peaks = (np.sort(rng.uniform(0, 1.6, size=rng.integers(9))) for _ in range(2))
    wanted = second_share(onsets.tolist(), peaks.tolist(), 10)
    assert published.av_align(onsets, peaks, 10) == pytest.approx(wanted)


def test_without_events_it_is_0_and_one_peak_is_not_shared():
    empty = np.empty(0)
    assert published.av_align(empty, empty, 10) == 0
    assert published.av_align(np.array([0.48, 0.52]), np.array([0.5]), 10) == 1 / 2


def test_peaks_are_higher_than_both_neighbours_and_than_rounding():
    flow = np.array([0.2, 0.2, 0.5, 0.1, 0.09, 0.05, 0.09, 0.0, 0.3, 0.3, 0.1, 0.11, 0.1])
    assert published.peaks(flow, 10).tolist() == [0.2, 1.1]


def test_without_opencv_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(UserError, match=r"pip install 'mmldm\[flow\]'"):
        published.opencv()
    found = build_measures(["flow", "alarms"], None, RULES, lambda *_: None)
    assert [measure.name for measure in found.built] == ["alarms"]
    assert "optical flow" in found.missing["flow"]


def test_metric_counts_clips_without_events_as_0():
    metric = next(metric for metric in metrics(10.0) if metric.name == "av-align")
    rows = [
        {"onsets": torch.tensor([0.5]), "peaks": torch.tensor([0.45])},
        {"onsets": torch.zeros(0), "peaks": torch.zeros(0)},
    ]
    (value,) = metric.values(rows, [], RULES)
    assert (value.value, value.n) == (0.5, 2)


def test_onsets_are_librosas(sounds):
    librosa = pytest.importorskip("librosa")
    for sound in sounds:
        wanted = librosa.onset.onset_detect(y=sound, sr=published.RATE)
        assert published.picked(published.envelope(sound)).tolist() == wanted.tolist()


def test_flow_is_opencvs_on_grey_pictures_and_a_step_to_the_side_is_its_length():
    cv2 = pytest.importorskip("cv2")
    clip = render_clip(ImpactsConfig(seed=11), 0).clip
    flow = published.optical_flow(clip.frames)
    assert flow[0] == flow[1] and len(flow) == len(clip.frames)
    bgr = [frame.permute(1, 2, 0).numpy()[..., ::-1].copy() for frame in clip.frames]
    grey = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in bgr]
    field = cv2.calcOpticalFlowFarneback(grey[3], grey[4], None, 0.5, 3, 15, 3, 5, 1.2, 0)
    wanted = cv2.mean(cv2.magnitude(field[..., 0], field[..., 1]))[0]
    assert flow[4] == pytest.approx(wanted, rel=1e-5)
