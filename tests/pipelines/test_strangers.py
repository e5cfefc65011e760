"""A stranger's model runs no code, and is refused in a sentence before it costs memory or minutes."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmldm.cli.generate import BUNDLED
from mmldm.errors import UserError
from mmldm.pipelines.sounding_video import SoundingVideoPipeline


@pytest.fixture(scope="module")
def saved(pipeline, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def foreign(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def change(path: Path, **settings: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def refused(folder: Path, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        SoundingVideoPipeline.from_pretrained(folder)


def evil(path: Path, mark: Path) -> None:
    path.write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\nclass Evil: pass\n")


@pytest.mark.parametrize("name", [["evil", "Evil"], "Evil", ["SoundingVideoPipeline"], None, 1])
def test_index_cannot_name_a_pipeline_of_its_own(foreign, tmp_path, name):
    mark = tmp_path / "ran"
    evil(foreign / "evil.py", mark)
    change(foreign / "model_index.json", _class_name=name)
    refused(foreign, "not of SoundingVideoPipeline")
    assert not mark.exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize("place", ["evil.py", "vae/evil.py", "generator/modeling.so"])
def test_folder_with_code_is_refused(foreign, tmp_path, place):
    mark = tmp_path / "ran"
    evil(foreign / place, mark)
    refused(foreign, "holds code")
    assert not mark.exists()


@pytest.mark.parametrize("part", ["vae", "generator", "scheduler"])
def test_index_inside_a_component_is_refused(foreign, part):
    text = json.dumps({"_class_name": "StableDiffusionPipeline", "vae": ["this", "object"]})
    (foreign / part / "model_index.json").write_text(text)
    refused(foreign, "model_index.json, which belongs to whole models alone")


@pytest.mark.parametrize("name", [["evil", "Evil"], "UNet2DModel", "AutoencoderTiny", {}, None])
def test_config_names_a_class_of_the_list_as_plain_text(foreign, name):
    change(foreign / "generator" / "config.json", _class_name=name)
    refused(foreign, "none of JointGenerator")


def test_component_may_not_lead_out_of_the_folder(foreign, tmp_path):
    outside = Path(shutil.move(foreign / "vae", tmp_path / "vae"))
    (foreign / "vae").symlink_to(outside)
    refused(foreign, "outside the model")


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
    foreign, part, setting, value, sentence
):
    name = "scheduler_config.json" if "scheduler" in part else "config.json"
    change(foreign / part / name, **{setting: value})
    refused(foreign, sentence)


@pytest.mark.parametrize(
    "physics", [{"num_frames": 10**9}, {"height": 10**6}, {"width": 10**6}, {"sample_rate": 10**12}]
)
def test_clip_out_of_proportion_is_refused(foreign, physics):
    index = json.loads((foreign / "model_index.json").read_text())
    change(foreign / "model_index.json", clip_spec=index["clip_spec"] | physics)
    refused(foreign, f"clip_spec.*{next(iter(physics))}")


def test_clip_of_another_length_than_the_autoencoders_is_refused(foreign):
    index = json.loads((foreign / "model_index.json").read_text())
    change(foreign / "model_index.json", clip_spec=index["clip_spec"] | {"num_frames": 16})
    refused(foreign, "clips of 8 frames, but clip_spec states 16")


def test_module_that_a_folder_names_is_not_what_is_imported(foreign):
    """Modules may move: a class is found by its name, and a folder written before opens."""
    change(foreign / "model_index.json", vae=["mmldm.models.long_gone", "PatchAutoencoderKL"])
    assert SoundingVideoPipeline.from_pretrained(foreign).vae is not None
    assert "mmldm.models.long_gone" not in sys.modules


def test_component_that_is_replaced_cannot_name_a_module_either(foreign, pipeline):
    change(foreign / "model_index.json", vae=["antigravity", "Popen"])
    with pytest.raises(UserError, match="unknown library 'antigravity'"):
        SoundingVideoPipeline.from_pretrained(foreign, vae=pipeline.vae)
    assert "antigravity" not in sys.modules


def test_settings_that_schedulers_keep_of_each_other_are_known(foreign):
    """diffusers writes what another scheduler's config held beside its own settings."""
    change(foreign / "scheduler" / "scheduler_config.json", solver_order=2, skip_prk_steps=True)
    assert SoundingVideoPipeline.from_pretrained(foreign).scheduler is not None


def test_unknown_entry_of_the_index_is_named(foreign):
    change(foreign / "model_index.json", text_encoder=["transformers", "CLIPTextModel"])
    refused(foreign, "unknown entry 'text_encoder'")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["vae", "autoencoder", "generator"])
def test_weights_that_are_no_numbers_are_refused(foreign, part, bad):
    path = next((foreign / part).glob("*.safetensors"))
    tensors = load_file(path)
    name = max(tensors, key=lambda name: tensors[name].numel())
    tensors[name].view(-1)[-1] = bad
    save_file(tensors, path, {"format": "pt"})
    refused(foreign, "NaN|infinite|finite")


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64, torch.uint8])
def test_weights_of_another_kind_of_number_are_refused(foreign, dtype):
    path = next((foreign / "generator").glob("*.safetensors"))
    tensors = load_file(path)
    name = max(tensors, key=lambda name: tensors[name].numel())
    save_file({**tensors, name: tensors[name].to(dtype)}, path, {"format": "pt"})
    refused(foreign, name)


def test_json_that_holds_no_finite_number_is_refused(foreign):
    path = foreign / "generator" / "config.json"
    path.write_text(path.read_text().replace('"mlp_ratio": 4.0', '"mlp_ratio": 1e999'))
    assert "1e999" in path.read_text()
    refused(foreign, "config.json")


@pytest.mark.parametrize("option", [{"trust_remote_code": True}, {"custom_pipeline": "evil"}])
def test_code_cannot_be_asked_for(foreign, option):
    with pytest.raises(UserError, match="hold no code"):
        SoundingVideoPipeline.from_pretrained(foreign, **option)


def test_whole_folder_and_the_bundled_model_open(foreign):
    for folder in (foreign, BUNDLED):
        assert SoundingVideoPipeline.from_pretrained(folder).generator is not None
