import pytest
import torch

from mmldm.models.discriminator import (
    PatchDiscriminator,
    SpectrogramDiscriminator,
    TupleDiscriminator,
    tuples,
)

TINY = {"channels": 8, "multipliers": (1, 2, 2), "attention_levels": (1, 2), "patch_size": 2}


def build(**settings) -> TupleDiscriminator:
    torch.manual_seed(0)
    return TupleDiscriminator(**{**TINY, **settings})


def images(count: int, seed: int = 0, size: tuple[int, int] = (16, 16)) -> torch.Tensor:
    return torch.randn(count, 3, 3, *size, generator=torch.Generator().manual_seed(seed)).tanh()


@pytest.mark.parametrize("size", [(16, 16), (32, 16), (64, 64)])
def test_one_score_per_tuple_at_any_image_size(size):
    assert build()(images(2, size=size)).shape == (2,)


def test_batch_of_tuples_equals_its_rows_alone():
    critic, batch = build().eval(), images(4)
    alone = torch.cat([critic(batch[i : i + 1]) for i in range(4)])
    assert torch.allclose(critic(batch), alone, atol=1e-5)


@pytest.mark.parametrize("order", [(0, 2, 1), (1, 0, 2), (2, 1, 0)])
def test_score_depends_on_the_order_of_the_slots(order):
    critic, batch = build(), images(2)
    assert (critic(batch) - critic(batch[:, list(order)])).abs().min() > 1e-5


def test_gradient_reaches_every_image_of_the_tuple():
    critic, batch = build(), images(1).requires_grad_()
    critic(batch).sum().backward()
    assert (batch.grad.abs().amax((2, 3, 4)) > 0).all()


@pytest.mark.parametrize("kind", range(4))
def test_learns_to_reject_each_kind_of_fake(kind):
    # Real: one colour in all three slots, darker in the earlier frame; decoded: the same, noisy.
    random = torch.Generator().manual_seed(kind)
    critic = build()
    optimizer = torch.optim.AdamW(critic.parameters(), lr=1e-3, betas=(0.9, 0.99))

    def scores() -> tuple[torch.Tensor, torch.Tensor]:
        colour = torch.rand(8, 3, 1, 1, generator=random) - 0.5
        clean = [(colour + shift).expand(8, 3, 16, 16) for shift in (0.0, -0.3, 0.3)]
        noisy = [x + 0.5 * torch.randn(x.shape, generator=random) for x in clean]
        real, fake = tuples(*clean, *noisy)
        return critic(real), critic(fake[8 * kind : 8 * kind + 8])

    for _ in range(30):
        real, fake = scores()
        loss = torch.relu(1 - real).mean() + torch.relu(1 + fake).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        real, fake = scores()
    assert real.mean() > fake.mean() + 1.0


def test_tuples_are_the_papers_one_real_and_four_fakes():
    a, i, j = (torch.full((2, 3, 4, 4), v) for v in (1.0, 2.0, 3.0))
    real, fakes = tuples(a, i, j, -a, -i, -j)
    assert real[:, :, 0, 0, 0].tolist() == [[1.0, 2.0, 3.0]] * 2
    expected = [[-1.0, -2.0, -3.0], [-1.0, 2.0, 3.0], [-1.0, 2.0, -3.0], [-1.0, -3.0, -2.0]]
    assert fakes[:, :, 0, 0, 0].tolist() == [row for row in expected for _ in range(2)]


def test_paper_size_has_about_the_releases_parameters():
    with torch.device("meta"):
        count = sum(p.numel() for p in TupleDiscriminator().parameters())
    # The release counts 5.377 M, of which 0.590 M are its per-slot pictures; the rest of the
    # difference is attention over the slots alone, which ours leaves to the full attention.
    assert count / 1e6 == pytest.approx(5.377 - 0.590, rel=0.06)


def test_patch_scores_see_their_surroundings_alone():
    torch.manual_seed(0)
    critic = PatchDiscriminator(channels=8, multipliers=(1, 1), patch_size=4)
    images = torch.randn(2, 3, 64, 32)
    scores = critic(images)
    assert scores.shape == (2, 1, 16, 8)
    changed = images.clone()
    changed[:, :, :3, :3] += 1
    moved = (critic(changed) != scores)[:, 0]
    assert moved[:, :3, :3].all() and not moved[:, 3:].any() and not moved[:, :, 3:].any()
    torch.testing.assert_close(critic(images[1:]), scores[1:])


WINDOWS = (256, 64)


def spectrogram_critic() -> SpectrogramDiscriminator:
    torch.manual_seed(0)
    return SpectrogramDiscriminator(WINDOWS, channels=8, depth=3)


def test_every_resolution_has_its_patches_and_a_sound_is_scored_alone():
    critic = spectrogram_critic()
    sounds = 0.1 * torch.randn(3, 1600, generator=torch.Generator().manual_seed(0))
    maps = critic.maps(sounds)
    # Quarter windows apart, three halvings of window / 2 + 1 frequencies.
    counts = [(1600 // (size // 4) + 1) * (size // 16 + 1) for size in WINDOWS]
    assert [m[-1].shape[1] for m in maps] == counts
    assert critic(sounds).shape == (3, sum(counts))
    alone = torch.cat([critic(sound[None]) for sound in sounds])
    assert torch.allclose(critic(sounds), alone, atol=1e-4)


def test_silence_has_a_score_and_a_gradient():
    silence = torch.zeros(1, 1600, requires_grad=True)
    spectrogram_critic()(silence).sum().backward()
    assert silence.grad.isfinite().all()


def test_spectrogram_critic_learns_to_tell_a_hit_from_a_smeared_one():
    critic, generator = spectrogram_critic(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=3e-3)
    decay = torch.exp(-torch.arange(800) / 60)

    def hits() -> tuple[torch.Tensor, torch.Tensor]:
        noise = 0.3 * torch.randn(4, 800, generator=generator)
        sharp = torch.cat([torch.zeros(4, 800), noise * decay], dim=1)
        # The same energy, with a crescendo of 10 ms before it.
        return sharp, 0.7 * (sharp + sharp.flip(1).roll(1, 1))

    for _ in range(30):
        real, fake = hits()
        loss = torch.relu(1 - critic(real)).mean() + torch.relu(1 + critic(fake)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    real, fake = hits()
    assert (critic(real).mean(1) > critic(fake).mean(1)).all()
