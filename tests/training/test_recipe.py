"""The recipe that is chosen without a file: how many windows of the material at hand are cached."""

from pathlib import Path

import pytest

from mmldm.config import load_config
from mmldm.data.manifest import Entry, Manifest
from mmldm.training.advice import advice
from mmldm.training.recipe import TARGET_WINDOWS, choose_recipe

LONGER = {"frames": ("clip.num_frames=32",), "rate": ("clip.fps=5",)}
"""Clips of 3.2 s, by either setting."""


def material(*durations: float) -> Manifest:
    return Manifest(
        root=Path("/clips"),
        entries=tuple(
            Entry(
                path=f"{i}.mp4", status="used", split="train", duration=duration, fps=25.0,
                size=1, mtime_ns=1,
            )
            for i, duration in enumerate(durations)
        ),
    )  # fmt: skip


def chosen(manifest: Manifest, *changes: str) -> int:
    recipe = choose_recipe(manifest, 10, changes)
    return recipe.data.windows_per_clip


@pytest.mark.parametrize("changes", LONGER.values(), ids=LONGER)
def test_windows_are_counted_in_the_recipes_own_clips(changes: tuple[str, ...]) -> None:
    """At most four per clip length of material: 10 s are 6.25 clips of 1.6 s, and 3.125 of 3.2 s."""
    assert chosen(material(*[10.0] * 40)) == 25
    assert chosen(material(*[10.0] * 40), *changes) == 13


def test_a_large_set_has_the_target_in_all() -> None:
    assert chosen(material(*[10.0] * 500)) == TARGET_WINDOWS / 500


def test_clips_as_long_as_a_window_have_one() -> None:
    assert chosen(material(*[1.6] * 40)) == 1
    assert chosen(material(*[1.62] * 40)) == 1, "no other frame to begin at"
    assert chosen(material(*[3.2] * 40), *LONGER["frames"]) == 1


def test_a_long_file_among_short_ones_makes_up_for_them() -> None:
    assert chosen(material(3600.0, *[1.6] * 99)) == TARGET_WINDOWS - 99


def test_windows_asked_for_by_name_stand() -> None:
    assert chosen(material(*[10.0] * 40), "data.windows_per_clip=3") == 3


def test_the_rest_is_the_shipped_recipe() -> None:
    """What follows from clips, minutes and device differs from the bundled model's recipe; nothing else."""
    recipe = choose_recipe(material(*[10.0] * 40), 600).model_dump()
    shipped = load_config("impacts").model_dump()
    assert recipe["data"].pop("folder") == "/clips"
    shipped["data"].pop("folder")
    minutes: list[float | None] = []
    for section in (recipe, shipped):
        section["data"].pop("windows_per_clip")
        for job in ("vae", "autoencoder", "generator"):
            minutes.append(section[job]["train"].pop("minutes"))
            section[job]["train"].pop("precision")
    assert minutes == [120.0, 240.0, 240.0, None, None, None]
    assert recipe.pop("budget")["minutes"] == 600 and shipped.pop("budget") is None
    assert recipe == shipped


def test_batch_is_no_larger_than_the_windows_at_hand() -> None:
    recipe = choose_recipe(material(1.6, 1.6, 1.6), 60)
    assert recipe.generator.train.batch_size == 3


@pytest.mark.parametrize(
    ("changes", "shapes"),
    [
        ((), ([24, 16, 1, 1], [12, 16, 1, 1])),
        (("clip.num_frames=28", "clip.fps=17.5"), ([24, 16, 1, 1], [12, 28, 1, 1])),
        (("clip.num_frames=32",), ([24, 32, 1, 1], [12, 32, 1, 1])),
        (("clip.sample_rate=44100",), ([24, 18, 1, 1], [12, 16, 1, 1])),
        (
            (
                "clip.num_frames=32",
                "autoencoder.model.video_encoder_config.latent_shape=[12,16,1,1]",
            ),
            ([24, 32, 1, 1], [12, 16, 1, 1]),
        ),
    ],
)
def test_latents_grow_with_longer_clips_unless_they_are_asked_for(changes, shapes) -> None:
    model = choose_recipe(material(*[10.0] * 40), 60, changes).autoencoder.model
    names = ("audio_encoder_config", "video_encoder_config")
    assert tuple(model[name]["latent_shape"] for name in names) == shapes


def told(fps: float, *changes: str) -> list[str]:
    manifest = material(*[10.0] * 40)
    entries = tuple(entry.model_copy(update={"fps": fps}) for entry in manifest.entries)
    manifest = manifest.model_copy(update={"entries": entries})
    return list(advice(choose_recipe(manifest, 60, changes), manifest))


def test_frames_that_are_taken_unevenly_are_told_with_what_mends_it() -> None:
    assert told(30) == told(29.97) == told(10) == told(59.94) == []
    (sentence,) = told(24)
    assert sentence.startswith("40 of 40 clips to train on, such as those of 24 frames a second")
    assert ": --set clip.fps=8 takes" in sentence
    assert told(24, "clip.fps=8") == []
    # Where a rate alone makes no films, with the length that does.
    (sentence,) = told(17.5)
    assert ": --set clip.fps=8.75 --set clip.num_frames=14 takes" in sentence
    assert told(17.5, "clip.fps=8.75", "clip.num_frames=14") == []


def test_a_recipe_that_makes_no_films_is_told_with_what_mends_it() -> None:
    """17.5 frames a second at 16 kHz: a frame lasts 914.29 samples, and seven of them are 64 columns."""
    (sentence,) = told(17.5, "clip.fps=17.5")
    assert "share no moments but the ends of 0.9143 s" in sentence
    assert "--set clip.num_frames=14 would do" in sentence
    assert told(17.5, "clip.fps=17.5", "clip.num_frames=14") == []
    assert told(17.5, "clip.fps=17.5", "generator.known_slots=null") == []


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [({"amx_bf16": True}, "bf16"), ({"avx512_f": True, "amx_bf16": False}, "fp32"), ({}, "fp32")],
)
def test_precision_is_the_devices_faster_one(
    capabilities: dict[str, bool], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities, raising=False)
    recipe = choose_recipe(material(1.6), 60)
    sections = [recipe.vae.train, recipe.autoencoder.train, recipe.generator.train]
    assert [section and section.precision for section in sections] == [precision] * 3
    kept = choose_recipe(material(1.6), 60, ["generator.train.precision=fp32"])
    assert kept.generator.train.precision == "fp32", "what is asked for by name stands"
