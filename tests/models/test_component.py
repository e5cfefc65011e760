"""Every door to a stranger's component: what it may be, and what is refused before it is built."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file, save_file

from mmldm.errors import UserError
from mmldm.models.autoencoder import load_autoencoder
from mmldm.models.component import check_component
from mmldm.models.image_vae import (
    IMAGE_VAES,
    PatchAutoencoderKL,
    TinyImageAutoencoder,
    load_image_vae,
)
from mmldm.models.pretrained_vocoder import load_vocoder
from mmldm.models.vocoder import FourierVocoder
from mmldm.types import ClipSpec, SpectrogramSpec

CLIP = ClipSpec(
    num_frames=4,
    sample_rate=8000,
    spectrogram=SpectrogramSpec(n_fft=256, hop_length=100, num_mels=32, f_max=4000.0),
)
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    folder = tmp_path / "vae"
    PatchAutoencoderKL(base_channels=8, encoder_blocks=1, decoder_blocks=1).save_pretrained(folder)
    return folder


def change(path: Path, **settings: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def retyped(folder: Path, dtype: torch.dtype) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({name: x.to(dtype) for name, x in tensors.items()}, folder / WEIGHTS)


@pytest.mark.parametrize("name", [["evil", "Evil"], {"a": 1}, 7, None, "JointGenerator"])
@pytest.mark.parametrize("load", [load_image_vae, load_autoencoder])
def test_class_is_plain_text_of_the_list(load: Callable, name: object, vae: Path) -> None:
    change(vae / "config.json", _class_name=name)
    with pytest.raises(UserError, match="which is none of"):
        load(vae)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"base_chanels": 8}, "unknown setting 'base_chanels', did you mean base_channels"),
        ({"_module": "evil"}, "unknown setting '_module'"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "unknown setting 'quantiz"),
        ({"base_channels": 10**9}, r"base_channels 1e\+09 is too large"),
        ({"decoder_blocks": 10**6}, "far more tensors than its weights hold"),
        ({"base_channels": 16}, r"wrong shape .*8.* there, .*16.* by config.json"),
        ({"patch_size": 5}, "patch_size 5 needs"),
        ({"upsample_channels": ["a"]}, "describes no network"),
        ({"base_channels": [[[[8]]]]}, "describes no network"),
    ],
)
def test_settings_are_held_against_the_weights_before_anything_is_built(
    settings: dict[str, object], sentence: str, vae: Path
) -> None:
    change(vae / "config.json", **settings)
    with pytest.raises(UserError, match=sentence):
        load_image_vae(vae)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 40 + "1" + "}" * 40, '{"a": 1e999}', "[]"]
)
def test_json_that_is_no_settings_is_refused(text: str, vae: Path) -> None:
    (vae / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json: (cannot be read as JSON|must hold)"):
        load_image_vae(vae)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float64, torch.complex64])
def test_weights_of_another_kind_of_number_are_refused(dtype: torch.dtype, vae: Path) -> None:
    retyped(vae, dtype)
    with pytest.raises(UserError, match="is of the kind .* and this network's is one of F16, BF16"):
        load_image_vae(vae)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bad", [float("nan"), -float("inf")])
def test_one_number_that_is_not_finite_is_found_in_each_kind(
    dtype: torch.dtype, bad: float, vae: Path
) -> None:
    retyped(vae, dtype)
    assert load_image_vae(vae).dtype == torch.float32
    tensors = load_file(vae / WEIGHTS)
    tensors["decoder.0.weight"].view(-1)[3] = bad
    save_file(tensors, vae / WEIGHTS)
    with pytest.raises(UserError, match=r"1 of the \d+ numbers of the tensor decoder.0.weight"):
        load_image_vae(vae)


def test_largest_numbers_of_a_kind_are_finite(vae: Path) -> None:
    tensors = load_file(vae / WEIGHTS)
    tensors["decoder.0.weight"].fill_(torch.finfo(torch.float32).max)
    save_file(tensors, vae / WEIGHTS)
    assert isinstance(check_component(vae, IMAGE_VAES), PatchAutoencoderKL)


def test_single_file_with_a_number_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    tensors = TinyImageAutoencoder().state_dict()
    tensors["decoder.1.bias"][0] = float("nan")
    save_file(tensors, tmp_path / "tae.safetensors")
    with pytest.raises(UserError, match=r"1 of the 64 numbers of the tensor decoder.1.bias"):
        load_image_vae(tmp_path / "tae.safetensors")


@pytest.mark.parametrize("name", ["../other.safetensors", "/x.safetensors", "weights.bin", 3])
def test_index_of_shards_stays_in_its_folder(name: object, vae: Path) -> None:
    index = {"weight_map": {"decoder.0.weight": name}}
    (vae / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="must name .safetensors files of its own folder"):
        load_image_vae(vae)


def test_weights_in_several_files_open(vae: Path) -> None:
    whole = load_image_vae(vae)
    (vae / WEIGHTS).unlink()
    whole.save_pretrained(vae, max_shard_size="4KB")
    assert len(list(vae.glob("*.safetensors"))) > 1
    for name, tensor in load_image_vae(vae).state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name])


def test_first_names_of_attention_are_still_read(tmp_path: Path) -> None:
    """The published image VAE of Stable Diffusion has them."""
    kl = AutoencoderKL(block_out_channels=(32,), latent_channels=4).eval()
    kl.save_pretrained(tmp_path)
    new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(tmp_path / WEIGHTS)
    for now, then in new.items():
        tensors = {name.replace(f".{now}.", f".{then}."): x for name, x in tensors.items()}
    assert "encoder.mid_block.attentions.0.query.weight" in tensors
    save_file(tensors, tmp_path / WEIGHTS, {"format": "pt"})
    images = torch.rand(1, 3, 16, 16)
    expected = kl.encode(images).latent_dist.mean
    assert torch.equal(load_image_vae(tmp_path).encode(images).latent_dist.mean, expected)


def test_refusal_leaves_no_trace_in_the_networks_built_next(vae: Path) -> None:
    change(vae / "config.json", decoder_blocks=10**6)
    with pytest.raises(UserError):
        load_image_vae(vae)
    layers = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(500))
    assert layers[0].weight.device.type == "cpu"
    assert layers[0].weight.abs().sum() > 0


def test_vocoders_are_held_to_the_same_rules(tmp_path: Path) -> None:
    own = FourierVocoder(CLIP.spectrogram.model_dump(mode="json"), 8000, width=8, depth=1)
    own.save_pretrained(tmp_path)
    change(tmp_path / "config.json", depth=10**6)
    with pytest.raises(UserError, match="far more tensors"):
        load_vocoder(tmp_path, CLIP)
    change(tmp_path / "config.json", depth=1, kernel_sise=7)
    with pytest.raises(UserError, match="did you mean kernel_size"):
        load_vocoder(tmp_path, CLIP)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"dtype": "float16"}, "config.json states 'float16', and the weights are float32"),
        ({"auto_map": {"AutoModel": "evil.Evil"}}, "unknown setting 'auto_map'"),
        ({"upsample_initial_channel": 10**9}, "is too large"),
        ({"architectures": [["evil", "Evil"]]}, "is no vocoder that is known here"),
    ],
)
def test_hifigan_of_transformers_is_held_to_the_same_rules(
    settings: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    speecht5 = pytest.importorskip("transformers.models.speecht5")
    config = speecht5.SpeechT5HifiGanConfig(
        model_in_dim=32, sampling_rate=8000, upsample_initial_channel=16, upsample_rates=(10, 10),
        upsample_kernel_sizes=(20, 20), resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1, 3),),
    )  # fmt: skip
    speecht5.SpeechT5HifiGan(config).save_pretrained(tmp_path)
    assert load_vocoder(tmp_path, CLIP).sample_rate == 8000
    change(tmp_path / "config.json", **settings)
    with pytest.raises(UserError, match=sentence):
        load_vocoder(tmp_path, CLIP)
