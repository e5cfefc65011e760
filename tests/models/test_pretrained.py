"""Pretrained U-Nets: every accepted layout gives the stock function, and what differs is refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file

from mmldm.errors import UserError
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.image_vae import load_image_vae
from mmldm.models.pretrained import initialise_decoder, require_unet
from mmldm.types import AV

from .original_layout import original_unet, original_vae

pytestmark = pytest.mark.slow

DECODER = {
    "block_out_channels": [8, 16, 16], "layers_per_block": 2, "cross_attention": [True, True, False],
    "cross_attention_dim": 8, "attention_heads": 2, "norm_num_groups": 4,
}  # fmt: skip


def autoencoder(seed: int = 0, channels: int = 4, fold: int = 1) -> MultiModalAutoencoder:
    torch.manual_seed(seed)
    encoder = {"latent_shape": [4, 1, 2, 2], "block_out_channels": [8, 8], "layers_per_block": 1,
               "head_dim": 4}  # fmt: skip
    one = {"mean": [0.0] * channels, "std": [1.0] * channels}
    return MultiModalAutoencoder(
        audio_encoder_config=encoder,
        video_encoder_config=encoder,
        latent_statistics={"audio": one, "video": one},
        image_latent_shape=(channels, 8, 8),
        num_frames=2,
        adapter_config={"hidden_channels": 4, "embedding_dim": 8},
        semantic_config={
            "width": 8,
            "block_out_channels": [8],
            "layers_per_block": 1,
            "head_dim": 4,
        },
        decoder_config=DECODER,
        decoder_patch_size=fold,
        num_classes=2,
        prompt_tokens=3,
        contrastive_dim=4,
    ).eval()


def stock_unet(**changes: object) -> UNet2DConditionModel:
    """Another draw of the same architecture, as a class of diffusers."""
    torch.manual_seed(9)
    config = {k: v for k, v in autoencoder().decoder.config.items() if k[0] != "_"}
    return UNet2DConditionModel(**{**config, **changes}).eval()


def write(unet: UNet2DConditionModel, layout: str, folder: Path) -> str:
    if layout == "unet folder":
        unet.save_pretrained(folder)
        return str(folder)
    if layout == "pipeline folder":
        unet.save_pretrained(folder / "unet")
        return str(folder)
    file = folder / "model.safetensors"
    tensors = original_unet(unet) if layout == "original file" else unet.state_dict()
    save_file(tensors, file)
    return str(file)


@pytest.mark.parametrize(
    "layout", ["unet folder", "pipeline folder", "original file", "diffusers file"]
)
def test_initialised_decoder_is_the_stock_unet_bit_for_bit(layout: str, tmp_path: Path) -> None:
    stock, model = stock_unet(), autoencoder()
    report = initialise_decoder(model, write(stock, layout, tmp_path))
    noisy, t = torch.randn(3, 4, 8, 8), torch.tensor([3, 500, 999])
    context = torch.randn(3, 5, 8)
    # With gradients: what only samples on a CPU multiplies by another library (`arithmetic.linear`).
    assert torch.equal(model.decoder(noisy, t, context), stock(noisy, t, context).sample)
    with torch.no_grad():
        sampled = model.decoder(noisy, t, context)
        assert torch.allclose(sampled, stock(noisy, t, context).sample, atol=1e-5)
    assert set(report.loaded) == {f"decoder.{name}" for name in stock.state_dict()}
    assert report.unexpected == ()


def test_before_training_all_conditions_together_leave_the_stock_function(tmp_path: Path) -> None:
    """Features and pooled latent start at exactly zero; only the context is ours."""
    stock, model = stock_unet(), autoencoder()
    initialise_decoder(model, write(stock, "pipeline folder", tmp_path))
    images, latents = (
        AV(torch.randn(2, 1, 4, 8, 8), torch.randn(2, 2, 4, 8, 8)),
        torch.randn(2, 4, 1, 2, 2),
    )
    steps = AV(torch.tensor([[7], [900]]), torch.tensor([[1, 2], [3, 4]]))
    # With gradients, as in the test before this one.
    conditions = model.condition(AV(latents, latents), torch.tensor([[0, 1], [0, 1]]))
    ours = model.denoise(images, steps, conditions)
    rows = torch.cat([x.flatten(0, 1) for x in images])
    theirs = stock(rows, torch.cat([t.flatten() for t in steps]), conditions.context).sample
    assert torch.equal(torch.cat([x.flatten(0, 1) for x in ours]), theirs)


def test_report_accounts_for_every_tensor_and_the_rest_is_left_alone(tmp_path: Path) -> None:
    model = autoencoder()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    report = initialise_decoder(model, write(stock_unet(), "original file", tmp_path))
    assert sorted([*report.loaded, *report.new]) == sorted(before)
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in report.new)
    moved = [name for name in report.loaded if not torch.equal(after[name], before[name])]
    assert len(moved) > len(report.loaded) / 2  # norms and biases start equal in every draw
    text = str(report)
    assert f"{len(report.loaded)} tensors loaded" in text
    assert "adapters" in text and "decoder" not in text.partition("new")[2]


@pytest.mark.parametrize("layout", ["original file", "diffusers file"])
def test_tensor_without_a_place_is_reported_by_name(layout: str, tmp_path: Path) -> None:
    unet = stock_unet()
    tensors = original_unet(unet) if layout == "original file" else unet.state_dict()
    stranger = (
        "model.diffusion_model.label_emb.0.weight"
        if layout == "original file"
        else "class_embedding.weight"
    )
    save_file({**tensors, stranger: torch.zeros(3)}, tmp_path / "m.safetensors")
    report = initialise_decoder(autoencoder(), str(tmp_path / "m.safetensors"))
    assert report.unexpected == (stranger,)
    assert stranger in str(report)


@pytest.mark.parametrize("layout", ["original file", "diffusers file"])
def test_other_shape_is_refused_with_tensor_and_both_shapes(layout: str, tmp_path: Path) -> None:
    file = write(stock_unet(cross_attention_dim=12), layout, tmp_path)
    with pytest.raises(UserError, match=r"attn2\.to_k\.weight \(8, 12\) there, \(8, 8\) here"):
        initialise_decoder(autoencoder(), file)


def test_missing_tensor_is_refused_by_name(tmp_path: Path) -> None:
    tensors = original_unet(stock_unet())
    del tensors["model.diffusion_model.middle_block.0.in_layers.2.weight"]
    save_file(tensors, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match=r"missing \(mid_block.resnets.0.conv1.weight\)"):
        initialise_decoder(autoencoder(), str(tmp_path / "m.safetensors"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"attention_head_dim": 4}, "attention_head_dim is 4 there and 2 here"),
        ({"in_channels": 9}, "in_channels is 9 there and 4 here"),
        ({"act_fn": "gelu"}, "act_fn is gelu there and silu here"),
    ],
)
def test_other_setting_of_a_folder_is_refused_though_shapes_may_agree(
    changes: dict, sentence: str, tmp_path: Path
) -> None:
    folder = write(stock_unet(**changes), "pipeline folder", tmp_path)
    with pytest.raises(UserError, match=sentence):
        initialise_decoder(autoencoder(), folder)


def test_folded_cells_are_refused(tmp_path: Path) -> None:
    folder = write(stock_unet(), "unet folder", tmp_path)
    with pytest.raises(UserError, match="decoder_patch_size must be 1, not 2"):
        initialise_decoder(autoencoder(fold=2, channels=1), folder)


@pytest.mark.parametrize("name", ["sd-v1-5.ckpt", "unet.bin", "vae.pt"])
@pytest.mark.parametrize("read", [require_unet, load_image_vae])
def test_pickle_is_refused_before_it_is_opened(name: str, read: Callable[[str], object]) -> None:
    with pytest.raises(UserError, match=f"{name} is a pickle.*convert"):
        read(name)


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("absent.safetensors", "is not there"),
        ("empty", "holds no U-Net: neither config.json nor unet/config.json"),
        ("nobody/no-such-unet", "neither a folder here nor a name"),
    ],
)
def test_source_that_is_not_there_is_refused_early(
    place: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=sentence):
        require_unet(place)


def test_one_original_file_serves_unet_and_image_vae(tmp_path: Path) -> None:
    stock, kl = stock_unet(), small_kl_vae()
    foreign = {"cond_stage_model.transformer.text_model.x": torch.zeros(2)}
    file = tmp_path / "sd.safetensors"
    save_file({**original_unet(stock), **original_vae(kl), **foreign}, file)
    report = initialise_decoder(autoencoder(), str(file))
    assert report.unexpected == ()
    assert_same_vae(load_image_vae(file), kl)


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
def test_kl_vae_of_the_original_layout_says_its_own_sizes(prefix: str, tmp_path: Path) -> None:
    kl = small_kl_vae(widths=(32, 32, 64), layers=1, channels=3)
    file = tmp_path / "vae.safetensors"
    save_file({**original_vae(kl, prefix), "loss.logvar": torch.zeros(1)}, file)
    loaded = load_image_vae(file)
    assert loaded.config.latent_channels == 3
    assert_same_vae(loaded, kl)


def test_kl_vae_with_a_missing_or_foreign_tensor_is_refused_by_name(tmp_path: Path) -> None:
    tensors = original_vae(small_kl_vae(), "")
    tensors["encoder.down.0.attn.0.q.weight"] = tensors.pop("decoder.mid.attn_1.q.weight")
    save_file(tensors, tmp_path / "vae.safetensors")
    with pytest.raises(
        UserError, match=r"(?s)missing \(decoder.mid_block.*unexpected \(encoder.down"
    ):
        load_image_vae(tmp_path / "vae.safetensors")


def test_single_file_of_a_diffusers_vae_is_sent_back_to_its_folder(tmp_path: Path) -> None:
    small_kl_vae().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="give the folder, whose config.json"):
        load_image_vae(tmp_path / "diffusion_pytorch_model.safetensors")


def small_kl_vae(
    widths: tuple[int, ...] = (32, 64), layers: int = 2, channels: int = 4
) -> AutoencoderKL:
    torch.manual_seed(3)
    return AutoencoderKL(
        block_out_channels=widths,
        layers_per_block=layers,
        latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
    ).eval()


def assert_same_vae(loaded: Any, kl: AutoencoderKL) -> None:
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        z = kl.encode(images).latent_dist.mean
        assert torch.equal(loaded.encode(images).latent_dist.mean, z)
        assert torch.equal(loaded.decode(z).sample, kl.decode(z).sample)
