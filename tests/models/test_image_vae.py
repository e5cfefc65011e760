"""Image VAEs: shapes, learning, files of every accepted kind, refusals that name the fault."""

import math
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from mmldm.errors import UserError
from mmldm.models.image_vae import PatchAutoencoderKL, TinyImageAutoencoder, load_image_vae


def tiny_vae() -> PatchAutoencoderKL:
    return PatchAutoencoderKL(
        base_channels=16, encoder_blocks=1, decoder_blocks=1, upsample_channels=(8,)
    )


def diffusers_vae() -> AutoencoderKL:
    return AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)


@pytest.mark.parametrize("patch_size", [2, 4, 8])
def test_latents_are_patch_size_times_smaller(patch_size: int) -> None:
    upsample = (8,) * (int(math.log2(patch_size)) - 1)
    vae = PatchAutoencoderKL(
        patch_size=patch_size,
        base_channels=16,
        encoder_blocks=1,
        decoder_blocks=1,
        upsample_channels=upsample,
    )
    latents = vae.encode(torch.randn(2, 3, 32, 16)).latent_dist
    assert latents.mean.shape == latents.logvar.shape == (2, 4, 32 // patch_size, 16 // patch_size)
    assert vae.decode(latents.mode()).sample.shape == (2, 3, 32, 16)


def test_patch_size_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="upsample_channels"):
        PatchAutoencoderKL(patch_size=8)


def test_default_vae_costs_what_the_small_preset_may() -> None:
    with torch.device("meta"):
        vae = PatchAutoencoderKL()
        image, latent = torch.empty(1, 3, 64, 64), torch.empty(1, 4, 16, 16)
        with FlopCounterMode(display=False) as encode:
            vae.encode(image)
        with FlopCounterMode(display=False) as decode:
            vae.decode(latent)
    assert encode.get_total_flops() < 0.095e9
    assert decode.get_total_flops() < 0.22e9


def test_vae_learns_to_reconstruct() -> None:
    torch.manual_seed(0)
    vae = tiny_vae()
    images = torch.nn.functional.interpolate(torch.randn(8, 3, 4, 4), 16, mode="bilinear").tanh()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        out = vae.decode(vae.encode(images).latent_dist.mode()).sample
        loss = (out - images).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]
    assert all(p.grad is not None for p in vae.parameters())


@pytest.mark.parametrize("make", [tiny_vae, TinyImageAutoencoder, diffusers_vae])
@pytest.mark.parametrize("subfolder", ["", "vae"])
def test_saved_vae_comes_back_equal(make, subfolder: str, tmp_path: Path) -> None:
    vae = make().eval()
    vae.save_pretrained(tmp_path / subfolder)
    loaded = load_image_vae(tmp_path)
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    assert type(loaded) is type(vae)
    assert not loaded.training
    assert torch.equal(loaded.encode(images).latent_dist.mean, vae.encode(images).latent_dist.mean)


@pytest.mark.parametrize(("channels", "norm"), [(4, False), (32, True)])
def test_taesd_file_decides_channels_and_norm(channels: int, norm: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = TinyImageAutoencoder(channels, midblock_norm=norm).eval()
    file = tmp_path / "tae.safetensors"
    save_file(vae.half().state_dict(), file)
    loaded = load_image_vae(file)
    assert loaded.config.latent_channels == channels
    assert loaded.config.midblock_norm is norm
    assert loaded.dtype == torch.float32
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(
        loaded.encode(images).latent_dist.mean, vae.float().encode(images).latent_dist.mean
    )


def test_point_posterior_has_no_spread() -> None:
    dist = TinyImageAutoencoder().encode(torch.rand(1, 3, 16, 16)).latent_dist
    assert torch.equal(dist.sample(), dist.mode())
    assert (dist.logvar == -30).all()


def test_tiny_autoencoder_reads_the_published_range() -> None:
    vae = TinyImageAutoencoder()
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(
        vae.encode(image * 2 - 1).latent_dist.mean, vae.encoder((image * 2 - 1 + 1) / 2)
    )
    z = torch.randn(1, 4, 2, 2)
    assert torch.allclose((vae.decode(z).sample + 1) / 2, vae.decoder(z), atol=1e-6)


def test_tensors_that_differ_are_named(tmp_path: Path) -> None:
    state = TinyImageAutoencoder().state_dict()
    state["stranger"] = state.pop("encoder.2.weight")
    file = tmp_path / "tae.safetensors"
    save_file(state, file)
    with pytest.raises(
        UserError, match=r"(?s)missing \(encoder.2.weight\).*unexpected \(stranger\)"
    ):
        load_image_vae(file)


def test_missing_tensor_in_a_folder_is_named(tmp_path: Path) -> None:
    tiny_vae().save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    del state["encoder.1.weight"]
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(UserError, match="encoder.1.weight"):
        load_image_vae(tmp_path)


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    tiny_vae().save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="incomplete, .* copy it again"):
        load_image_vae(tmp_path)


def test_folder_without_a_vae_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither config.json nor vae/config.json"):
        load_image_vae(tmp_path)


def test_another_model_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(UserError, match="UNet2DModel"):
        load_image_vae(tmp_path)


def test_unreachable_hub_name_is_explained() -> None:
    with pytest.raises(UserError, match="nobody/no-such-vae"):
        load_image_vae("nobody/no-such-vae")


def test_published_weights_reconstruct_a_real_frame(shared: Path) -> None:
    weights = shared / "weights" / "taef2_f8c32_fp16.safetensors"
    if not weights.is_file():
        pytest.skip("the TAEF2 weights are not on this machine")
    av = pytest.importorskip("av")
    clip = sorted((shared / "clips").glob("**/*.mp4"))[0]
    with av.open(str(clip)) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    image = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 127.5 - 1
    image = torch.nn.functional.interpolate(image, (128, 128), mode="bilinear", antialias=True)
    vae = load_image_vae(weights)
    with torch.no_grad():
        out = vae.decode(vae.encode(image).latent_dist.mode()).sample.clamp(-1, 1)
    psnr = 10 * math.log10(4 / (out - image).square().mean().item())
    assert 26 < psnr < 40, psnr
