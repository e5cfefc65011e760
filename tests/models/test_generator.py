import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mmldm
from mmldm.errors import UserError
from mmldm.models.generator import JointGenerator
from mmldm.types import AV

TIME_ALIGNED = {"audio_latent_shape": [4, 8, 1, 1], "video_latent_shape": [3, 4, 1, 1]}
PAPER_FORM = {"audio_latent_shape": [4, 1, 2, 2], "video_latent_shape": [4, 1, 3, 3]}
MIXED = {"audio_latent_shape": [4, 8, 1, 1], "video_latent_shape": [3, 4, 2, 2]}
PATCHES = {**MIXED, "patch_size": 2}
STATISTICS = {
    "audio": {"mean": [0.5, -1.0, 2.0, 0.0], "std": [0.1, 3.0, 1.0, 2.0]},
    "video": {"mean": [4.0, 0.0, -2.0], "std": [0.5, 0.25, 8.0]},
}


def build(form: dict = TIME_ALIGNED, seed: int = 0, **settings) -> JointGenerator:
    torch.manual_seed(seed)
    return JointGenerator(**{"width": 32, "depth": 2, "heads": 2, **form, **settings})


def latents(generator: JointGenerator, batch: int, seed: int) -> AV:
    random = torch.Generator().manual_seed(seed)
    return generator.latent_shapes.map(lambda s: torch.randn(batch, *s, generator=random))


def train(generator: JointGenerator, steps: int) -> None:
    """A few steps of learning to copy, with every condition present."""
    optimizer = torch.optim.AdamW(generator.parameters(), lr=3e-3)
    known = AV(torch.tensor([True, False, False, False]), torch.tensor([False, True, False, False]))
    labels = torch.tensor([0, 1, -1, 0]) if generator.null_class else None
    for step in range(steps):
        sample, clean = latents(generator, 4, step), latents(generator, 4, 100 + step)
        prediction = generator(sample, torch.tensor([10, 300, 600, 990]), clean, known, labels)
        mixed = clean.map(lambda c, x: c + x.mean(), AV(sample.video, sample.audio))
        loss = sum((p - m).square().mean() for p, m in zip(prediction, mixed, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def differs(a: AV, b: AV) -> AV[bool]:
    return a.map(lambda x, y: not torch.equal(x, y), b)


@pytest.fixture(scope="module", params=["block", "single"])
def trained(request) -> JointGenerator:
    generator = build(adaln=request.param, num_classes=2)
    train(generator, 4)
    return generator.eval()


@pytest.mark.parametrize("form", [TIME_ALIGNED, PAPER_FORM, MIXED, PATCHES], ids=str)
@pytest.mark.parametrize("adaln", ["block", "single"])
def test_prediction_has_the_shape_of_the_sample_and_starts_at_zero(form, adaln):
    generator = build(form, adaln=adaln)
    sample = latents(generator, 2, 0)
    prediction = generator(sample, torch.tensor([3, 900]), given=AV(sample.audio, None))
    for p, x in zip(prediction, sample, strict=True):
        assert p.shape == x.shape
        assert not p.any()


def test_every_timestep_moves_the_output(trained):
    sample = latents(trained, 1, 0)
    outputs = [trained(sample, torch.tensor([t])) for t in (0, 1, 998, 999)]
    for i, a in enumerate(outputs):
        for b in outputs[i + 1 :]:
            assert all(differs(a, b))


@pytest.mark.parametrize("known", ["audio", "video"])
def test_given_modality_moves_both_outputs(trained, known):
    sample, clean, t = latents(trained, 1, 0), latents(trained, 1, 1), torch.tensor([500])
    given = AV(None, None)._replace(**{known: getattr(clean, known)})
    assert all(differs(trained(sample, t, given), trained(sample, t)))


def test_each_modality_reads_the_noise_of_the_other(trained):
    sample, other, t = latents(trained, 1, 0), latents(trained, 1, 1), torch.tensor([500])
    base = trained(sample, t)
    assert differs(trained(AV(other.audio, sample.video), t), base).video
    assert differs(trained(AV(sample.audio, other.video), t), base).audio


def test_class_moves_the_output_and_a_negative_label_is_the_null_class(trained):
    sample, t = latents(trained, 1, 0), torch.tensor([500])
    null = trained(sample, t)
    first = trained(sample, t, class_labels=torch.tensor([0]))
    assert all(differs(first, null))
    assert all(differs(first, trained(sample, t, class_labels=torch.tensor([1]))))
    for label in (-1, trained.null_class):
        assert not any(differs(trained(sample, t, class_labels=torch.tensor([label])), null))


def test_a_given_latent_masked_out_adds_exactly_nothing(trained):
    sample, t = latents(trained, 2, 0), torch.tensor([10, 500])
    clean = latents(trained, 2, 1).map(lambda z: z * float("nan"))
    nobody = AV(torch.zeros(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool))
    assert not any(differs(trained(sample, t, clean, nobody), trained(sample, t)))


def test_batch_of_mixed_tasks_equals_its_rows_alone(trained):
    sample, clean = latents(trained, 3, 0), latents(trained, 3, 1)
    t, labels = torch.tensor([5, 400, 990]), torch.tensor([1, -1, 0])
    mask = AV(torch.tensor([True, False, False]), torch.tensor([False, True, False]))
    together = trained(sample, t, clean, mask, labels)
    for i in range(3):
        rows = slice(i, i + 1)
        given = AV(*(z[rows] if m[i] else None for z, m in zip(clean, mask, strict=True)))
        alone = trained(
            AV(sample.audio[rows], sample.video[rows]), t[rows], given, class_labels=labels[rows]
        )
        for a, b in zip(alone, together, strict=True):
            assert torch.allclose(a[0], b[i], atol=1e-5)


def flags(generator: JointGenerator, batch: int, seed: int) -> AV:
    random = torch.Generator().manual_seed(seed)
    return generator.latent_shapes.map(lambda s: torch.rand(batch, s[1], generator=random) < 0.5)


def test_masks_of_all_slots_and_of_none_are_those_of_the_clips(trained):
    sample, clean = latents(trained, 2, 0), latents(trained, 2, 1)
    t, clips = torch.tensor([10, 500]), AV(torch.tensor([True, False]), torch.tensor([False, True]))
    slots = clips.map(lambda c, s: c[:, None].expand(2, s[1]), trained.latent_shapes)
    wanted = trained(sample, t, clean, clips)
    assert not any(differs(trained(sample, t, clean, slots), wanted))
    as_numbers = slots.map(torch.Tensor.float)
    assert not any(differs(trained(sample, t, clean, as_numbers), wanted))


def test_what_is_given_in_unknown_slots_counts_for_nothing_and_in_known_ones_for_much(trained):
    sample, clean, t = latents(trained, 2, 0), latents(trained, 2, 1), torch.tensor([10, 500])
    mask = flags(trained, 2, 3)
    known = mask.map(lambda m: m[:, None, :, None, None])
    elsewhere = clean.map(lambda z, k: torch.where(k, z, float("nan")), known)
    there = clean.map(lambda z, k: torch.where(k, z + 1, z), known)
    wanted = trained(sample, t, clean, mask)
    assert not any(differs(trained(sample, t, elsewhere, mask), wanted))
    assert all(differs(trained(sample, t, there, mask), wanted))


def test_published_weights_without_known_slots_are_what_they_were():
    folder = Path(mmldm.__file__).parent / "assets" / "impacts" / "generator"
    generator = JointGenerator.from_pretrained(folder).eval()
    sample, clean, t = latents(generator, 2, 0), latents(generator, 2, 1), torch.tensor([10, 500])
    slots = clean.map(lambda z: torch.ones(2, z.shape[2]))
    nothing = slots.map(torch.zeros_like)
    assert not any(differs(generator(sample, t, clean, nothing), generator(sample, t)))
    whole = AV(slots.audio, nothing.video)
    wanted = generator(sample, t, AV(clean.audio, None))
    assert not any(differs(generator(sample, t, clean, whole), wanted))


def test_every_cell_of_a_slot_is_told_and_no_other():
    generator = build(MIXED)
    torch.nn.init.normal_(generator.video.embed_given.weight)
    x = torch.zeros(1, *generator.video.shape)
    mask = torch.tensor([[False, True, False, True]])
    with torch.no_grad():
        moved = generator.video.embed(x, x + 1, mask) - generator.video.embed(x, None, None)
    cells = moved[0, 1:].abs().sum(-1).unflatten(0, (4, 2, 2)) > 1e-3
    assert torch.equal(cells, mask[0, :, None, None].expand(4, 2, 2))


def test_noise_of_a_known_slot_is_told(trained):
    sample, clean, t = latents(trained, 2, 0), latents(trained, 2, 1), torch.tensor([10, 500])
    mask = flags(trained, 2, 3)
    noisy = trained(sample, t, clean, mask.map(lambda m: 0.9 * m))
    assert all(differs(trained(sample, t, clean, mask), noisy))


@pytest.mark.parametrize("adaln", ["block", "single"])
def test_every_parameter_learns_within_three_steps(adaln):
    generator = build(adaln=adaln, num_classes=2)
    before = {name: p.detach().clone() for name, p in generator.named_parameters()}
    train(generator, 4)
    still = [n for n, p in generator.named_parameters() if torch.equal(p.detach(), before[n])]
    assert still == []


def test_given_projection_receives_gradient_at_the_second_step():
    generator = build()
    train(generator, 2)
    for stream in generator.streams:
        assert stream.embed_given.weight.grad.abs().max() > 0


def test_gradient_checkpointing_changes_no_gradient():
    plain = build(num_classes=2)
    train(plain, 3)
    checkpointed = build(num_classes=2)
    checkpointed.load_state_dict(plain.state_dict())
    checkpointed.enable_gradient_checkpointing()
    sample, t = latents(plain, 2, 7), torch.tensor([3, 800])
    for generator in (plain.train(), checkpointed.train()):
        generator.zero_grad()
        sum(p.square().mean() for p in generator(sample, t)).backward()
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert (a.grad is None and b.grad is None) or torch.equal(a.grad, b.grad)


def test_normalised_latents_have_the_stated_mean_and_deviation():
    generator = build(latent_statistics=STATISTICS)
    normal = latents(generator, 4096, 0)
    raw = generator.denormalise(normal)
    mean = raw.video.mean((0, 2, 3, 4))
    assert torch.allclose(mean, torch.tensor([4.0, 0.0, -2.0]), atol=0.3)
    assert torch.allclose(
        raw.audio.std((0, 2, 3, 4)), torch.tensor([0.1, 3.0, 1.0, 2.0]), rtol=0.05
    )
    for a, b in zip(generator.normalise(raw), normal, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("form", [TIME_ALIGNED, PAPER_FORM], ids=str)
def test_saved_loaded_saved_generator_is_equal(form, tmp_path):
    settings = {"latent_statistics": STATISTICS} if form is TIME_ALIGNED else {}
    generator = build(form, adaln="single", num_classes=2, null_stream="noise", **settings)
    train(generator, 3)
    generator.eval().save_pretrained(tmp_path / "first")
    loaded = JointGenerator.from_pretrained(tmp_path / "first")
    loaded.save_pretrained(tmp_path / "second")
    configs = [json.loads((tmp_path / n / "config.json").read_text()) for n in ("first", "second")]
    configs[1].pop("_name_or_path", None)
    assert configs[0] == configs[1]
    name = "diffusion_pytorch_model.safetensors"
    first, second = load_file(tmp_path / "first" / name), load_file(tmp_path / "second" / name)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    sample, t = latents(generator, 2, 0), torch.tensor([3, 800])
    clean = latents(generator, 2, 1)
    assert not any(differs(loaded(sample, t, clean), generator(sample, t, clean)))
    assert not any(differs(loaded.normalise(sample), generator.normalise(sample)))


def test_paper_size_has_the_releases_parameters_less_its_context_tokens():
    with torch.device("meta"):
        generator = JointGenerator()
    count = sum(p.numel() for p in generator.parameters())
    # The release counts 678.022 M: 0.886 M project its 77 learned context tokens, which we do not
    # have, 0.369 M are fixed positions stored as parameters. Ours adds two modality vectors.
    context, positions = 768 * 1152 + 1152, (64 + 256) * 1152
    assert count / 1e6 == pytest.approx(678.022 - (context + positions) / 1e6, abs=0.01)


def test_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(UserError, match="width 33"):
        build(width=33)


def test_a_token_of_four_cells_is_a_token_of_their_channels():
    """A model of patches and one of latents that were folded beforehand are the same network."""
    patched = build(MIXED, patch_size=2, depth=1)
    train(patched, 2)
    folded = build({**MIXED, "video_latent_shape": [12, 4, 1, 1]}, depth=1)
    folded.load_state_dict(patched.state_dict())

    def fold(video: torch.Tensor) -> torch.Tensor:
        """(B,3,4,2,2) -> (B,12,4,1,1): channels first, then rows and columns."""
        return video.permute(0, 1, 3, 4, 2).flatten(1, 3)[..., None, None]

    sample, given = latents(patched, 2, 0), latents(patched, 2, 1)
    mask, t = AV(None, torch.tensor([[True, False, False, True]] * 2)), torch.tensor([3, 400])
    inside = patched(sample, t, AV(None, given.video), mask)
    beforehand = folded(AV(sample.audio, fold(sample.video)), t, AV(None, fold(given.video)), mask)
    assert torch.equal(inside.audio, beforehand.audio)
    assert torch.equal(fold(inside.video), beforehand.video)
    assert not torch.equal(inside.video[:, :, :, 0, 0], inside.video[:, :, :, 1, 1])


def test_a_patch_that_does_not_divide_the_grid_is_refused():
    with pytest.raises(UserError, match="patch_size 2 must divide the video latents' grid of 3x3"):
        build(PAPER_FORM, patch_size=2)
