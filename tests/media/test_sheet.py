"""Contact sheets: frames and spectrogram on one time axis, low frequencies at the bottom."""

from __future__ import annotations

import math

import numpy as np
import torch

from mmldm.media.clip import Clip
from mmldm.media.sheet import (
    CAPTION_HEIGHT,
    MARGIN,
    SPECTROGRAM_HEIGHT,
    TILE_WIDTH,
    FilmSheet,
    contact_sheet,
    spectrogram_picture,
)


def tone_clip(frequency: float, start: float = 0.0, frames: int = 16) -> Clip:
    """Grey frames that turn white, and a tone that starts, at `start` seconds."""
    time = torch.arange(frames * 1600) / 16000
    waveform = 0.5 * torch.sin(2 * math.pi * frequency * time) * (time >= start)
    pictures = torch.full((frames, 3, 64, 64), 60, dtype=torch.uint8)
    pictures[math.ceil(start * 10) :] = 255
    return Clip(pictures, waveform, 10.0, 16000)


def brightness(clip: Clip) -> np.ndarray:
    return np.asarray(spectrogram_picture(clip, 320, 96)).astype(float).sum(axis=2)


def test_low_frequencies_are_at_the_bottom() -> None:
    low, high = (brightness(tone_clip(f))[:, 100].argmax() for f in (200.0, 6000.0))
    assert low > 75 > 25 > high


def test_picture_and_sound_change_at_the_same_place() -> None:
    sheet = np.asarray(contact_sheet([tone_clip(1000.0, start=0.8)], ["a"])).astype(int)
    tiles = sheet[MARGIN + CAPTION_HEIGHT + 30, MARGIN : MARGIN + 16 * TILE_WIDTH].sum(axis=1)
    top = MARGIN + CAPTION_HEIGHT + TILE_WIDTH + 2
    sound = sheet[top : top + SPECTROGRAM_HEIGHT, MARGIN : MARGIN + 16 * TILE_WIDTH].sum(axis=2)
    lit = np.flatnonzero(tiles > 700)[0]
    row = sound[:, 12 * TILE_WIDTH].argmax()
    heard = np.flatnonzero(sound[row] > sound[row].max() / 2)[0]
    assert lit == 8 * TILE_WIDTH
    assert abs(heard - lit) < TILE_WIDTH // 3  # 33 ms, half the spectrogram's window


def test_long_short_and_silent_clips_stack_with_captions() -> None:
    silent = Clip(torch.zeros(16, 3, 8, 8, dtype=torch.uint8), torch.zeros(25600), 10.0, 16000)
    short = Clip(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(100), 10.0, 16000)
    clips = [tone_clip(500.0), tone_clip(500.0, frames=80), silent, short]
    sheet = contact_sheet(clips, ["one", "lång 雨", "", "short"])
    assert sheet.width == 16 * TILE_WIDTH + 2 * MARGIN
    one = contact_sheet(clips[:1], ["one"])
    assert sheet.height == 4 * (one.height - MARGIN) + MARGIN


def test_a_film_in_pieces_has_the_sheet_of_its_whole() -> None:
    """Frames of ten minutes at their places, the sound's beginning where it is, and no wider than others."""
    film, step = FilmSheet(10.0, 16000), 16
    for piece in range(375):
        clip = tone_clip(1000.0, start=0.0 if piece >= 150 else 9.0, frames=step)
        film.add(clip.frames, clip.waveform)
    sheet = np.asarray(film.picture("ten minutes")).astype(int)
    assert sheet.shape[1] == 16 * TILE_WIDTH + 2 * MARGIN
    tiles = sheet[MARGIN + CAPTION_HEIGHT + 30, MARGIN : MARGIN + 16 * TILE_WIDTH].sum(axis=1)
    top = MARGIN + CAPTION_HEIGHT + TILE_WIDTH + 2
    sound = sheet[top : top + SPECTROGRAM_HEIGHT, MARGIN : MARGIN + 16 * TILE_WIDTH].sum(axis=2)
    row = sound[:, -100].argmax()
    heard = np.flatnonzero(sound[row] > sound[row].max() / 2)[0]
    assert abs(heard - 150 / 375 * 16 * TILE_WIDTH) < 4
    # The first tile at or after that instant is lit.
    assert np.flatnonzero(tiles > 700)[0] == math.ceil(150 / 375 * 16) * TILE_WIDTH


def test_a_long_clip_is_as_wide_as_others_and_its_sound_is_where_it_is() -> None:
    late = tone_clip(1000.0, start=45.0, frames=900)
    sheet = contact_sheet([late], ["90 s"])
    assert sheet.width == 16 * TILE_WIDTH + 2 * MARGIN
    picture = brightness(late)
    row = picture[:, -20].argmax()
    assert abs(np.flatnonzero(picture[row] > picture[row].max() / 2)[0] - 160) < 4
