"""`--precision` as a person meets it: said once, written down, and made again in it."""

import json
from pathlib import Path

import pytest

from mmldm.pipelines.provenance import provenance_of

from .commandline import mmldm

pytestmark = pytest.mark.slow

SAID = "note: sampled in bf16; --precision fp32 keeps more digits\n"


def test_a_clip_in_bfloat16_says_so_and_is_made_again_in_it(
    run_folder: Path, tmp_path: Path
) -> None:
    model = ("--model", run_folder, "--out", tmp_path, "--device", "cpu")
    plain = mmldm("generate", *model, "-n", 1)
    assert plain.succeeded() and plain.err == "", "float32 is what one expects"
    rounded = mmldm("generate", *model, "-n", 2, "--precision", "bf16")
    rounded.succeeded()
    assert rounded.err == SAID
    places = [tmp_path / "joint-0", tmp_path / "joint-0-2"]
    files = [place / f"{place.name}_000.mp4" for place in places]
    machines = [provenance_of(file).machine for file in files]
    assert [machine.precision for machine in machines] == ["fp32", "bf16"]
    assert files[0].read_bytes() != files[1].read_bytes()
    # The weights that a clip names are those on the disk.
    assert len({provenance_of(file).asked.model_sha256 for file in files}) == 1

    again = mmldm("generate", "--again", files[1], "--out", tmp_path / "again", "--device", "cpu")
    again.succeeded()
    assert again.err == SAID
    (made,) = (tmp_path / "again").glob("*/*.mp4")
    assert made.read_bytes() == files[1].read_bytes()
    words = ("generate", "--again", files[1], "--precision", "fp32")
    assert "leave --precision out" in mmldm(*words).complaint()


def test_a_clip_that_a_device_chose_is_made_again_as_it_was(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU nobody asks for bfloat16: what the device chose stands in the clip alone."""
    model = ("--model", run_folder, "--out", tmp_path, "--device", "cpu")
    with monkeypatch.context() as on_a_gpu:
        on_a_gpu.setattr("mmldm.pipelines.precision.multiplies_bfloat16", lambda device: True)
        assert mmldm("generate", *model, "-n", 1).err == SAID
    file = tmp_path / "joint-0" / "joint-0_000.mp4"
    made_from = provenance_of(file)
    assert "precision" not in made_from.asked.settings
    assert made_from.machine.precision == "bf16"
    again = mmldm("generate", "--again", file, "--out", tmp_path / "again", "--device", "cpu")
    assert again.err == SAID and "0 clips" not in again.succeeded()
    (made,) = (tmp_path / "again").glob("*/*.mp4")
    assert made.read_bytes() == file.read_bytes()


def test_every_command_that_samples_takes_it(
    run_folder: Path, clip_folder: Path, tmp_path: Path
) -> None:
    clip = sorted(clip_folder.glob("wood/*.mp4"))[0]
    more = ("--model", run_folder, "--out", tmp_path, "--device", "cpu", "--precision", "bf16")
    for command in (
        ("extend", clip, "--seconds", 0.4),
        ("retake", clip, "--from", 0.1, "--to", 0.3),
        ("reconstruct", clip),
    ):
        result = mmldm(*command, *more)
        result.succeeded()
        assert result.err.count(SAID) == 1, command[0]
    (settings,) = tmp_path.glob("reconstruction-*/settings.json")
    assert json.loads(settings.read_text())["asked"]["settings"]["precision"] == "bf16"


def test_an_image_vae_alone_keeps_clips_in_bfloat16_too(run_folder: Path, tmp_path: Path) -> None:
    size = ("--size", 32, "--seconds", 2, "--clips", 1, "--workers", 1)
    mmldm("synthesize", tmp_path / "long", *size).succeeded()
    film = next((tmp_path / "long").glob("*/*.mp4"))
    vae = run_folder / "vae" / "export"
    words = ("reconstruct", film, "--vae", vae, "--size", 64, "--device", "cpu")
    kept = [
        mmldm(*words, "--out", tmp_path / name, "--precision", name).succeeded().splitlines()[0]
        for name in ("fp32", "bf16")
    ]
    psnr = [float(line.split()[2]) for line in kept]
    assert psnr[0] == pytest.approx(psnr[1], abs=0.5)


@pytest.mark.parametrize("command", ["generate", "extend", "retake", "reconstruct", "app"])
def test_no_other_precision_is_taken(command: str, clip_folder: Path, tmp_path: Path) -> None:
    clip = sorted(clip_folder.glob("wood/*.mp4"))[0]
    own = {
        "generate": (),
        "extend": (clip, "--seconds", 1),
        "retake": (clip, "--from", 0, "--to", 1),
        "reconstruct": (clip,),
        "app": (),
    }[command]
    out = () if command == "app" else ("--out", tmp_path / "out")
    refused = mmldm(command, *own, *out, "--precision", "fp8")
    if "needs gradio" in refused.err:
        pytest.skip("the page's extra is not here")
    assert refused.complaint() == "--precision must be fp32, tf32 or bf16, not 'fp8'."


def test_tf32_on_a_cpu_leaves_nothing(run_folder: Path, tmp_path: Path) -> None:
    words = ("--model", run_folder, "--out", tmp_path, "--device", "cpu", "--precision", "tf32")
    assert "tf32 is of NVIDIA GPUs" in mmldm("generate", *words).complaint()
    assert not list(tmp_path.iterdir())
