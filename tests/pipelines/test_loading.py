"""A model folder that is not whole is answered with a sentence, never half loaded."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmldm.errors import UserError
from mmldm.pipelines.provenance import sha256_of_parts
from mmldm.pipelines.sounding_video import SoundingVideoPipeline


def weights(folder: Path, part: str) -> Path:
    return next((folder / part).glob("*.safetensors"))


def test_a_folder_that_does_not_exist_is_a_plain_error(tmp_path):
    with pytest.raises(UserError, match="no such model folder"):
        SoundingVideoPipeline.from_pretrained(tmp_path / "nowhere")


def test_a_folder_that_is_no_model_is_a_plain_error(tmp_path):
    with pytest.raises(UserError, match="not a saved model"):
        SoundingVideoPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("part", ["vae", "autoencoder", "generator", "scheduler"])
def test_a_missing_component_is_named(copied, part):
    shutil.rmtree(copied / part)
    with pytest.raises(UserError, match=f"'{part}' is missing"):
        SoundingVideoPipeline.from_pretrained(copied)


def test_missing_weights_are_named(copied):
    weights(copied, "generator").unlink()
    with pytest.raises(UserError, match="weights of 'generator' are missing"):
        SoundingVideoPipeline.from_pretrained(copied)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights_are_found(copied, keep):
    file = weights(copied, "autoencoder")
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match="copy it again"):
        SoundingVideoPipeline.from_pretrained(copied)


def test_weights_of_another_depth_are_refused(copied):
    config = copied / "generator" / "config.json"
    settings = json.loads(config.read_text()) | {"depth": 3}
    config.write_text(json.dumps(settings))
    with pytest.raises(
        UserError, match=r"generator does not fit .* tensors 9 missing \(blocks.2.*"
    ):
        SoundingVideoPipeline.from_pretrained(copied)


def test_weights_of_another_width_are_refused(copied):
    config = copied / "generator" / "config.json"
    settings = json.loads(config.read_text()) | {"width": 64}
    config.write_text(json.dumps(settings))
    with pytest.raises(
        UserError, match=r"of the wrong shape \(.* \(32.*\) there, \(64.*\) by config"
    ):
        SoundingVideoPipeline.from_pretrained(copied)


def test_a_foreign_folder_cannot_choose_what_is_imported(copied):
    index = json.loads((copied / "model_index.json").read_text())
    index["vae"] = ["subprocess", "Popen"]
    (copied / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="unknown library 'subprocess'"):
        SoundingVideoPipeline.from_pretrained(copied)


def test_a_class_that_does_not_exist_is_refused(copied):
    index = json.loads((copied / "model_index.json").read_text())
    index["generator"] = ["mmldm.models.generator", "Generator"]
    (copied / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="is a Generator, which is none of JointGenerator"):
        SoundingVideoPipeline.from_pretrained(copied)


def test_a_hub_name_that_cannot_be_reached_is_a_plain_error():
    with pytest.raises(UserError, match="cannot be loaded"):
        SoundingVideoPipeline.from_pretrained("nobody/no-such-model", local_files_only=True)


def test_a_model_from_before_a_setting_counts_as_the_same() -> None:
    """Clips name their model by this hash, and can be made again."""

    def hash_of(**settings: object) -> str:
        generator = SimpleNamespace(config={"video_latent_shape": [4, 8, 1, 1], **settings})
        return sha256_of_parts({"generator": generator}, {"_name_or_path": str(settings)})

    assert hash_of() == hash_of(patch_size=1) != hash_of(patch_size=2)
    assert hash_of(width=1) != hash_of()
