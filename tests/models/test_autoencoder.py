"""The assembled autoencoder: every path from latents to image is alive, the format holds."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmldm.errors import UserError
from mmldm.models.autoencoder import MultiModalAutoencoder
from mmldm.models.image_codec import LatentStatistics
from mmldm.models.signal_decoder import SignalDecoder
from mmldm.types import AV

pytestmark = pytest.mark.slow

B, F = 2, 3
STATISTICS = LatentStatistics.scalar(0.5, 4).to_dict()
DECODER = {
    "block_out_channels": [8, 16], "layers_per_block": 1, "cross_attention": [False, False],
    "cross_attention_dim": 8, "attention_heads": 2, "norm_num_groups": 4,
}  # fmt: skip
ENCODER = {"block_out_channels": [8], "layers_per_block": 1, "head_dim": 4}
SEMANTIC = {"width": 8, "block_out_channels": [8], "layers_per_block": 1, "head_dim": 4}

CONFIGS: dict[str, dict[str, Any]] = {
    "paper": {
        "image_latent_shape": [4, 8, 8],
        "num_frames": 8,
        "audio_encoder_config": {
            "latent_shape": [4, 1, 2, 2], **ENCODER, "block_out_channels": [8, 8, 16],
        },
        "video_encoder_config": {
            "latent_shape": [4, 1, 4, 4], **ENCODER, "block_out_channels": [8, 16],
            "key_frames": 4, "temporal_attention": True,
        },
        "semantic_config": {**SEMANTIC, "token_grid": [1, 2, 2]},
        "decoder_config": DECODER,
    },
    "time_aligned": {
        "image_latent_shape": [4, 8, 8],
        "num_frames": 8,
        "audio_encoder_config": {
            "latent_shape": [4, 8, 1, 1], **ENCODER, "patch_size": [4, 1], "time_axis": "width",
        },
        "video_encoder_config": {"latent_shape": [6, 8, 1, 1], **ENCODER, "patch_size": 2},
        "adapter_config": {"hidden_channels": 8, "embedding_dim": 16},
        "semantic_config": {**SEMANTIC, "token_grid": [2, 1, 1]},
        "decoder_config": DECODER,
        "decoder_patch_size": 2,
    },
}  # fmt: skip


def build(form: str, **changes: Any) -> MultiModalAutoencoder:
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS[form]) | {
        "latent_statistics": STATISTICS, "num_classes": 3, "prompt_tokens": 2, "contrastive_dim": 8,
    }  # fmt: skip
    return MultiModalAutoencoder(**{**config, **changes})


@pytest.fixture(params=list(CONFIGS))
def form(request: pytest.FixtureRequest) -> str:
    return request.param


class Batch:
    """Fixed random inputs of one small batch."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.images = AV(torch.randn(B, 1, 4, 8, 8), torch.randn(B, 8, 4, 8, 8))
        self.frames = torch.tensor([[0, 3, 7], [1, 4, 6]])
        self.labels = torch.tensor([0, 2])
        self.noisy = AV(torch.randn(B, 1, 4, 8, 8), torch.randn(B, F, 4, 8, 8))
        self.times = AV(torch.tensor([[10], [900]]), torch.tensor([[5, 300, 999], [0, 1, 2]]))


def step_loss(model: MultiModalAutoencoder, batch: Batch) -> Tensor:
    """Denoising loss on the batch itself: enough to give every path a reason to learn."""
    latents = model.encode(batch.images).map(lambda p: p.sample(torch.randn_like(p.mean)))
    conditions = model.condition(latents, batch.frames, batch.labels)
    out = model.denoise(batch.noisy, batch.times, conditions)
    rows = torch.arange(B)[:, None]
    targets = AV(batch.images.audio, batch.images.video[rows, batch.frames])
    return sum((o - t).square().mean() for o, t in zip(out, targets, strict=True))


def trained(form: str, steps: int = 3) -> MultiModalAutoencoder:
    model, batch = build(form), Batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        step_loss(model, batch).backward()
        optimizer.step()
    return model.eval()


def test_shapes(form: str) -> None:
    model, batch = build(form), Batch()
    posteriors = model.encode(batch.images)
    for posterior, shape in zip(posteriors, model.latent_shapes, strict=True):
        assert posterior.mean.shape == (B, *shape)
    conditions = model.condition(posteriors.map(lambda p: p.mode()), batch.frames, batch.labels)
    assert conditions.semantics.audio.shape == conditions.semantics.video.shape
    tokens = conditions.semantics.audio.shape[1]
    assert conditions.context.shape == (B + B * F, 2 + 1 + tokens, 8)
    out = model.denoise(batch.noisy, batch.times, conditions)
    assert [x.shape for x in out] == [x.shape for x in batch.noisy]
    assert model.class_logits(conditions.semantics).shape == (B, 3)
    assert model.contrastive(conditions.semantics).video.shape == (B, 8)


def test_every_parameter_learns_by_the_second_step(form: str) -> None:
    model, batch = build(form), Batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    seen: set[str] = set()
    for _ in range(3):
        latents = model.encode(batch.images).map(lambda p: p.sample(torch.randn_like(p.mean)))
        semantics = model.semantics(latents)
        audio, video = model.contrastive(semantics)
        loss = step_loss(model, batch) + sum(t.log() for t in model.temperatures)
        loss = loss + torch.nn.functional.cross_entropy(model.class_logits(semantics), batch.labels)
        loss = loss - (audio * video.flip(0)).sum()
        optimizer.zero_grad()
        loss.backward()
        seen |= {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
    unused_class = "class_tokens.weight"  # row of the class that is not in the batch
    assert {n for n, _ in model.named_parameters()} - seen - {unused_class} == set()
    assert unused_class in seen


@pytest.mark.parametrize("path", ["taps", "pooled", "semantics", "prompts", "class", "time_mlp"])
def test_conditioning_path_has_gradient_at_step_one_or_two(form: str, path: str) -> None:
    model, batch = build(form), Batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    first = {
        "taps": ["adapters.audio.mix.weight", "adapters.video.frame_embedding.0.weight"],
        "pooled": ["pooled.audio.0.weight", "pooled.video.0.weight"],
        "semantics": ["semantic_context.audio.0.weight", "semantic_context.video.0.weight"],
        "prompts": ["prompts"],
        "class": ["class_tokens.weight"],
        "time_mlp": ["decoder.time_embedding.linear_1.weight"],
    }[path]
    parameters = dict(model.named_parameters())
    moved = {name: 0.0 for name in first}
    for _ in range(2):
        optimizer.zero_grad()
        step_loss(model, batch).backward()
        for name in first:
            moved[name] += parameters[name].grad.abs().sum().item()
        optimizer.step()
    assert all(moved.values()), moved


def test_every_condition_moves_the_output_after_a_few_steps(form: str) -> None:
    model, batch = trained(form), Batch()
    with torch.no_grad():
        latents = model.encode(batch.images).map(lambda p: p.mode())
        conditions = model.condition(latents, batch.frames, batch.labels)

        def out(c=conditions, times=batch.times) -> AV:
            return model.denoise(batch.noisy, times, c)

        def differs(other: AV) -> tuple[bool, ...]:
            return tuple(
                bool((a - b).abs().max() > 1e-5) for a, b in zip(out(), other, strict=True)
            )

        def replaced(**changes: Any) -> AV:
            return out(replace(conditions, **changes))

        for index in range(len(conditions.taps.video)):
            taps = conditions.taps.map(list)
            for own in taps:
                own[index] = torch.zeros_like(own[index])
            assert differs(replaced(taps=taps.map(tuple))) == (True, True), index
        assert differs(replaced(pooled=torch.zeros_like(conditions.pooled))) == (True, True)
        parts = {"prompt": slice(0, 2), "class": slice(2, 3), "other's semantics": slice(3, None)}
        for name, tokens in parts.items():
            context = conditions.context.clone()
            context[:, tokens] = 0
            assert differs(replaced(context=context)) == (True, True), name
        later = batch.times.map(lambda t: (t + 400) % 1000)
        assert differs(out(times=later)) == (True, True)
        frames = model.condition(latents, (batch.frames + 1) % 8, batch.labels)
        assert differs(out(frames)) == (False, True)
        labels = model.condition(latents, batch.frames, (batch.labels + 1) % 3)
        assert differs(out(labels)) == (True, True)


def test_other_modality_reaches_a_row_only_through_its_semantics(form: str) -> None:
    model, batch = trained(form), Batch()
    with torch.no_grad():
        latents = model.encode(batch.images).map(lambda p: p.mode())
        other = latents._replace(video=torch.randn_like(latents.video))
        one, two = (model.condition(z, batch.frames, batch.labels) for z in (latents, other))
        assert all(map(torch.equal, one.taps.audio, two.taps.audio))
        assert torch.equal(one.pooled[:B], two.pooled[:B])
        assert torch.equal(one.context[:B, :3], two.context[:B, :3])
        assert not torch.allclose(one.context[:B, 3:], two.context[:B, 3:])
        a, b = (model.denoise(batch.noisy, batch.times, c).audio for c in (one, two))
        assert not torch.equal(a, b)


def test_untrained_latent_paths_leave_the_unet_stock(form: str) -> None:
    model, batch = build(form), Batch()
    with torch.no_grad():
        latents = model.encode(batch.images).map(lambda p: p.mode())
        conditions = model.condition(latents, batch.frames, batch.labels)
        assert not any(torch.count_nonzero(tap) for tap in conditions.joined_taps)
        assert torch.count_nonzero(conditions.pooled) == 0
        assert torch.count_nonzero(conditions.context[:, 3:]) == 0


def test_batch_of_n_equals_n_singles(form: str) -> None:
    model, batch = trained(form), Batch()
    with torch.no_grad():
        latents = model.encode(batch.images).map(lambda p: p.mode())
        conditions = model.condition(latents, batch.frames, batch.labels)
        out = model.denoise(batch.noisy, batch.times, conditions)
        for row in range(B):
            one = torch.tensor([row])
            images, noisy, times = (
                pair.map(torch.Tensor.index_select, AV(0, 0), AV(one, one))
                for pair in (batch.images, batch.noisy, batch.times)
            )
            z = model.encode(images).map(lambda p: p.mode())
            c = model.condition(z, batch.frames[one], batch.labels[one])
            for a, b in zip(model.denoise(noisy, times, c), out, strict=True):
                assert torch.allclose(a, b[one], atol=1e-4)


def test_frames_are_decoded_alike_alone_and_together(form: str) -> None:
    model, batch = trained(form), Batch()
    with torch.no_grad():
        latents = model.encode(batch.images).map(lambda p: p.mode())
        whole = model.condition(latents, batch.frames, batch.labels)
        part = model.condition(latents, batch.frames[:, 1:2], batch.labels)
        together = model.denoise(batch.noisy, batch.times, whole).video[:, 1:2]
        alone = model.denoise(
            batch.noisy._replace(video=batch.noisy.video[:, 1:2]),
            batch.times._replace(video=batch.times.video[:, 1:2]),
            part,
        ).video
    assert torch.allclose(alone, together, atol=1e-4)


def test_saved_model_comes_back_equal(form: str, tmp_path: Path) -> None:
    model, batch = trained(form), Batch()
    model.save_pretrained(tmp_path / "one")
    loaded = MultiModalAutoencoder.from_pretrained(tmp_path / "one")
    loaded.save_pretrained(tmp_path / "two")
    weights = "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "one" / weights).read_bytes() == (tmp_path / "two" / weights).read_bytes()
    one, two = (json.loads((tmp_path / n / "config.json").read_text()) for n in ("one", "two"))
    assert {k: v for k, v in two.items() if k != "_name_or_path"} == one
    assert loaded.image_statistics == model.image_statistics == LatentStatistics.scalar(0.5, 4)
    with torch.no_grad():
        outs = []
        for m in (model, loaded):
            z = m.encode(batch.images).map(lambda p: p.mode())
            outs.append(m.denoise(batch.noisy, batch.times, m.condition(z, batch.frames)))
    assert all(torch.equal(a, b) for a, b in zip(*outs, strict=True))


def test_module_path_is_part_of_the_file_format(tmp_path: Path) -> None:
    model = build("time_aligned")
    assert type(model).__module__ == "mmldm.models.autoencoder"
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["_class_name"] == "MultiModalAutoencoder"
    assert config["audio_encoder_config"]["latent_shape"] == [4, 8, 1, 1]
    modules = {name for name, _ in model.named_children()}
    assert modules.isdisjoint(config), "an argument named like a submodule breaks loading"


def test_missing_label_means_the_predicted_class(form: str) -> None:
    model, batch = trained(form), Batch()
    with torch.no_grad():
        latents = model.encode(batch.images).map(lambda p: p.mode())
        predicted = model.class_logits(model.semantics(latents)).argmax(1)
        expected = model.condition(latents, batch.frames, predicted).context
        assert torch.equal(model.condition(latents, batch.frames).context, expected)
        unknown = torch.tensor([-1, -1])
        assert torch.equal(model.condition(latents, batch.frames, unknown).context, expected)


def test_dropped_modality_is_silent_and_the_other_untouched(form: str) -> None:
    model, batch = trained(form), Batch()
    drop = AV(torch.tensor([True, False]), torch.tensor([False, False]))
    with torch.no_grad():
        latents = model.encode(batch.images).map(lambda p: p.mode())
        zero = latents._replace(audio=torch.zeros_like(latents.audio))
        full = model.condition(latents, batch.frames, batch.labels)
        dropped = model.condition(latents, batch.frames, batch.labels, drop)
        empty = model.condition(zero, batch.frames, batch.labels)
    assert torch.equal(dropped.taps.audio[0][0], empty.taps.audio[0][0])
    assert torch.equal(dropped.pooled[0], empty.pooled[0])
    assert torch.count_nonzero(dropped.context[0, :2]) == 0  # its prompt
    video_rows = dropped.context[B : B + F]
    assert torch.count_nonzero(video_rows[:, 3:]) == 0  # its semantics, to the frames
    assert torch.equal(video_rows[:, :3], full.context[B : B + F, :3])
    assert torch.equal(dropped.context[1], full.context[1])
    assert torch.equal(dropped.context[B + F :], full.context[B + F :])
    assert torch.equal(dropped.semantics.audio, full.semantics.audio)


def test_heads_shape_latents_only_when_asked(form: str) -> None:
    batch = Batch()
    for detach in (True, False):
        model = build(form, detach_latents=detach)
        latents = model.encode(batch.images).map(lambda p: p.mode())
        model.class_logits(model.semantics(latents)).sum().backward()
        touched = any(p.grad is not None for p in model.encoders.parameters())
        assert touched is not detach


def test_data_without_classes_has_no_class_token(form: str) -> None:
    model, batch = build(form, num_classes=0, prompt_tokens=0), Batch()
    assert not any(name.startswith(("class_tokens", "classifier")) for name in model.state_dict())
    latents = model.encode(batch.images).map(lambda p: p.mode())
    conditions = model.condition(latents, batch.frames)
    assert conditions.context.shape[1] == conditions.semantics.audio.shape[1]
    out = model.denoise(batch.noisy, batch.times, conditions)
    assert all(torch.isfinite(x).all() for x in out)


def test_one_modality_can_be_encoded_alone(form: str) -> None:
    model, batch = build(form), Batch()
    alone = model.encode(AV(batch.images.audio, None))
    assert alone.video is None
    assert torch.equal(alone.audio.mean, model.encode(batch.images).audio.mean)


def test_all_norm_groups_divide(form: str) -> None:
    norms = [m for m in build(form).modules() if isinstance(m, torch.nn.GroupNorm)]
    assert norms
    assert all(norm.num_channels % norm.num_groups == 0 for norm in norms)


def test_autoencoder_overfits_two_clips() -> None:
    torch.manual_seed(0)
    model, batch = build("time_aligned"), Batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(50):
        loss = step_loss(model, batch)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]


def test_gradient_checkpointing_reaches_the_decoder() -> None:
    model = build("time_aligned").train()
    model.enable_gradient_checkpointing()
    assert isinstance(model.decoder, SignalDecoder)
    assert all(block.gradient_checkpointing for block in model.decoder.down_blocks)
    step_loss(model, Batch()).backward()


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="decoder_patch_size 3"):
        build("time_aligned", decoder_patch_size=3)
    with pytest.raises(UserError, match="halved"):
        build("time_aligned", decoder_patch_size=8)


@pytest.mark.parametrize(
    "section",
    ["audio_encoder_config", "video_encoder_config", "adapter_config", "semantic_config",
     "decoder_config"],
)  # fmt: skip
def test_unknown_key_of_a_part_is_named(section: str) -> None:
    config = {**CONFIGS["time_aligned"][section], "num_heds": 1}
    with pytest.raises(UserError, match=rf"{section}\.num_heds: unknown key"):
        build("time_aligned", **{section: config})


def test_paper_preset_has_the_published_size() -> None:
    with torch.device("meta"):
        model = MultiModalAutoencoder(
            audio_encoder_config={"latent_shape": [16, 1, 8, 8], "block_out_channels": [320, 640,
            1280]}, video_encoder_config={
                "latent_shape": [16, 1, 16, 16], "key_frames": 4, "temporal_attention": True,
            },
            latent_statistics=LatentStatistics.scalar(0.18215, 4).to_dict(),
            semantic_config={"audio": {"block_out_channels": [128, 256, 512]}},
            num_classes=9,
        )  # fmt: skip
        latents = AV(torch.empty(1, 16, 1, 8, 8), torch.empty(1, 16, 1, 16, 16))
        frames = torch.zeros(1, 2, dtype=torch.long)
        images = AV(torch.empty(1, 1, 4, 32, 32), torch.empty(1, 16, 4, 32, 32))
        times = AV(frames[:, :1], frames)
        conditions = model.condition(latents, frames, frames[:, 0])
        noisy = images._replace(video=images.video[:, :2])
        assert model.denoise(noisy, times, conditions).video.shape == (1, 2, 4, 32, 32)
        assert [tuple(p.mean.shape[1:]) for p in model.encode(images)] == list(model.latent_shapes)
    assert conditions.context.shape == (3, 82, 768)
    assert [len(taps) for taps in conditions.taps] == [12, 12]
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    # The release: 1,339 M, of which its 3-D convolutions and learnable content slots are not ours.
    assert 1150 < millions < 1450, millions


@pytest.mark.parametrize(
    ("switch", "prefix", "tokens"),
    [
        ({"with_pooled_latent": False}, "pooled.", slice(0, 0)),
        ({"with_class_token": False}, "class_tokens.", slice(2, 3)),
        ({"with_semantics": False}, "semantic_context.", slice(3, None)),
        ({"prompt_tokens": 0}, "prompts", slice(0, 2)),
    ],
)
def test_ablation_removes_its_part_and_nothing_else(
    form: str, switch: dict[str, Any], prefix: str, tokens: slice
) -> None:
    whole, batch = trained(form), Batch()
    without = build(form, **switch).eval()
    gone = {name for name in whole.state_dict() if name.startswith(prefix)}
    kept = {name: w for name, w in whole.state_dict().items() if name not in gone}
    missing = without.load_state_dict(kept, strict=False)
    assert not missing.unexpected_keys
    assert set(missing.missing_keys) <= {"prompts"}  # still there, as no tokens
    with torch.no_grad():
        latents = whole.encode(batch.images).map(lambda p: p.mode())
        full = whole.condition(latents, batch.frames, batch.labels)
        part = without.condition(latents, batch.frames, batch.labels)
        assert all(map(torch.equal, full.joined_taps, part.joined_taps))
        assert all(torch.equal(a, b) for a, b in zip(full.semantics, part.semantics, strict=True))
        keep = torch.ones(full.context.shape[1], dtype=torch.bool)
        keep[tokens] = False
        assert torch.equal(part.context, full.context[:, keep])
        if prefix == "pooled.":
            assert part.pooled is None
        else:
            assert part.pooled is not None
            assert torch.equal(part.pooled, full.pooled)
        a = whole.denoise(batch.noisy, batch.times, full)
        b = without.denoise(batch.noisy, batch.times, part)
        assert all(not torch.allclose(x, y, atol=1e-6) for x, y in zip(a, b, strict=True))


def test_cross_attention_without_anything_to_read_is_refused() -> None:
    with pytest.raises(UserError, match="nothing to read"):
        build("paper", with_semantics=False, with_class_token=False, prompt_tokens=0)


def test_a_modality_left_alone_sees_its_prompt_and_latents_only(form: str) -> None:
    model, batch = trained(form), Batch()
    with torch.no_grad():
        latents = model.encode(batch.images).map(lambda p: p.mode())
        full = model.condition(latents, batch.frames, batch.labels)
        alone = AV(torch.tensor([False, False]), torch.tensor([True, False]))
        part = model.condition(latents, batch.frames, batch.labels, alone=alone)
    assert torch.equal(part.context[:B], full.context[:B])
    lonely, other = part.context[B : B + F], part.context[B + F :]
    assert torch.equal(lonely[:, :2], full.context[B : B + F, :2])
    assert torch.count_nonzero(lonely[:, 2:]) == 0
    assert torch.equal(other, full.context[B + F :])
    assert all(map(torch.equal, full.joined_taps, part.joined_taps))
