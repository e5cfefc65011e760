"""A stranger's model runs no code, and is refused in a sentence before it costs memory or minutes."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmldm.errors import UserError
from mmldm.pipelines.published import BUNDLED
from mmldm.pipelines.sounding_video import SoundingVideoPipeline

pytestmark = pytest.mark.slow


def change(path: Path, **settings: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def refused(folder: Path, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        SoundingVideoPipeline.from_pretrained(folder)


def evil(path: Path, mark: Path) -> None:
    path.write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\nclass Evil: pass\n")


@pytest.mark.parametrize("name", [["evil", "Evil"], "Evil", ["SoundingVideoPipeline"], None, 1])
def test_index_cannot_name_a_pipeline_of_its_own(copied, tmp_path, name):
    mark = tmp_path / "ran"
    evil(copied / "evil.py", mark)
    change(copied / "model_index.json", _class_name=name)
    refused(copied, "not of SoundingVideoPipeline")
    assert not mark.exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize("place", ["evil.py", "vae/evil.py", "generator/modeling.so"])
def test_folder_with_code_is_refused(copied, tmp_path, place):
    mark = tmp_path / "ran"
    evil(copied / place, mark)
    refused(copied, "holds code")
    assert not mark.exists()


@pytest.mark.parametrize("part", ["vae", "generator", "scheduler"])
def test_index_inside_a_component_is_refused(copied, part):
    text = json.dumps({"_class_name": "StableDiffusionPipeline", "vae": ["this", "object"]})
    (copied / part / "model_index.json").write_text(text)
    refused(copied, "model_index.json, which belongs to whole models alone")


@pytest.mark.parametrize("name", [["evil", "Evil"], "UNet2DModel", "AutoencoderTiny", {}, None])
def test_config_names_a_class_of_the_list_as_plain_text(copied, name):
    change(copied / "generator" / "config.json", _class_name=name)
    refused(copied, "none of JointGenerator")


def test_component_may_not_lead_out_of_the_folder(copied, tmp_path):
    outside = Path(shutil.move(copied / "vae", tmp_path / "vae"))
    (copied / "vae").symlink_to(outside)
    refused(copied, "outside the model")


@pytest.mark.parametrize(
    ("part", "setting", "value", "sentence"),
    [
        ("generator", "widht", 64, "unknown setting 'widht', did you mean width"),
        ("generator", "auto_map", {"AutoModel": "evil.Evil"}, "unknown setting 'auto_map'"),
        ("generator", "depth", 10**9, "too large|far more|do not fit"),
        ("vae", "base_channels", 10**9, "too large|far more|do not fit"),
        ("autoencoder", "num_frames", 10**9, "too large|far more|do not fit|describes no network"),
        ("scheduler", "num_train_timesteps", 10**10, "num_train_timesteps 10000000000"),
        ("decoder_scheduler", "num_train_timesteps", 10**10, "num_train_timesteps 10000000000"),
        ("scheduler", "beta_strat", 0.1, "unknown setting 'beta_strat', did you mean beta_start"),
    ],
)
def test_setting_that_is_unknown_or_out_of_proportion_is_named(
    copied, part, setting, value, sentence
):
    name = "scheduler_config.json" if "scheduler" in part else "config.json"
    change(copied / part / name, **{setting: value})
    refused(copied, sentence)


@pytest.mark.parametrize(
    "physics", [{"num_frames": 10**9}, {"height": 10**6}, {"width": 10**6}, {"sample_rate": 10**12}]
)
def test_clip_out_of_proportion_is_refused(copied, physics):
    index = json.loads((copied / "model_index.json").read_text())
    change(copied / "model_index.json", clip_spec=index["clip_spec"] | physics)
    refused(copied, f"clip_spec.*{next(iter(physics))}")


def test_clip_of_another_length_than_the_autoencoders_is_refused(copied):
    index = json.loads((copied / "model_index.json").read_text())
    change(copied / "model_index.json", clip_spec=index["clip_spec"] | {"num_frames": 16})
    refused(copied, "clips of 8 frames, but clip_spec states 16")


def test_module_that_a_folder_names_is_not_what_is_imported(copied):
    """Modules may move: a class is found by its name, and a folder written before opens."""
    change(copied / "model_index.json", vae=["mmldm.models.long_gone", "PatchAutoencoderKL"])
    assert SoundingVideoPipeline.from_pretrained(copied).vae is not None
    assert "mmldm.models.long_gone" not in sys.modules


def test_component_that_is_replaced_cannot_name_a_module_either(copied, pipeline):
    change(copied / "model_index.json", vae=["antigravity", "Popen"])
    with pytest.raises(UserError, match="unknown library 'antigravity'"):
        SoundingVideoPipeline.from_pretrained(copied, vae=pipeline.vae)
    assert "antigravity" not in sys.modules


def test_settings_that_schedulers_keep_of_each_other_are_known(copied):
    """diffusers writes what another scheduler's config held beside its own settings."""
    change(copied / "scheduler" / "scheduler_config.json", solver_order=2, skip_prk_steps=True)
    assert SoundingVideoPipeline.from_pretrained(copied).scheduler is not None


def test_unknown_entry_of_the_index_is_named(copied):
    change(copied / "model_index.json", text_encoder=["transformers", "CLIPTextModel"])
    refused(copied, "unknown entry 'text_encoder'")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["vae", "autoencoder", "generator"])
def test_weights_that_are_no_numbers_are_refused(copied, part, bad):
    path = next((copied / part).glob("*.safetensors"))
    tensors = load_file(path)
    name = max(tensors, key=lambda name: tensors[name].numel())
    tensors[name].view(-1)[-1] = bad
    save_file(tensors, path, {"format": "pt"})
    refused(copied, "NaN|infinite|finite")


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64, torch.uint8])
def test_weights_of_another_kind_of_number_are_refused(copied, dtype):
    path = next((copied / "generator").glob("*.safetensors"))
    tensors = load_file(path)
    name = max(tensors, key=lambda name: tensors[name].numel())
    save_file({**tensors, name: tensors[name].to(dtype)}, path, {"format": "pt"})
    refused(copied, name)


def test_json_that_holds_no_finite_number_is_refused(copied):
    path = copied / "generator" / "config.json"
    path.write_text(path.read_text().replace('"mlp_ratio": 4.0', '"mlp_ratio": 1e999'))
    assert "1e999" in path.read_text()
    refused(copied, "config.json")


@pytest.mark.parametrize("option", [{"trust_remote_code": True}, {"custom_pipeline": "evil"}])
def test_code_cannot_be_asked_for(copied, option):
    with pytest.raises(UserError, match="hold no code"):
        SoundingVideoPipeline.from_pretrained(copied, **option)


def test_whole_folder_and_the_bundled_model_open(copied):
    for folder in (copied, BUNDLED):
        assert SoundingVideoPipeline.from_pretrained(folder).generator is not None
