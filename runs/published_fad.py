"""What MM-Diffusion's published FAD does with drawn features, one departure from ours after the other.

    python runs/published_fad.py [--power 2]

2,048 features of 1,024 numbers on each side, normal, the k-th direction with a variance of 1 / k^POWER; one
law is moved and 1.1 times as wide. They are scaled so that the distance in the unit of its tables (times
10,000) is 6.3. Its matrix root is that of TensorFlow GAN: in float32, singular values below 1e-10 stay as
they are. Its batch norms are in training mode: mean and variance are those of the 8 clips that stand
together.
"""

import argparse

import torch
from torch import Tensor

from mmldm.evaluation.distances import frechet_distance_of
from mmldm.evaluation.page import digits, markdown_table

CLIPS, DIM, BATCH = 2048, 1024, 8
UNIT = 10_000
WANTED = 6.3


def drawn(seed: int, power: float) -> tuple[Tensor, Tensor]:
    """Features (N,D) of both laws, f64, whose k-th variance falls as 1 / k^power."""
    rng = torch.Generator().manual_seed(seed)
    widths = torch.arange(1, DIM + 1, dtype=torch.float64) ** (-power / 2)
    a, b = (torch.randn(CLIPS, DIM, generator=rng, dtype=torch.float64) * widths for _ in range(2))
    a = 1.1 * a + 0.2 * widths
    scale = (WANTED / UNIT / frechet_distance_of(a, b)) ** 0.5
    return scale * a, scale * b


def root(matrix: Tensor, threshold: float) -> Tensor:
    """A symmetric root (D,D) of a matrix (D,D) in which singular values below the threshold stay."""
    left, values, right = torch.linalg.svd(matrix)
    return (left * torch.where(values < threshold, values, values.sqrt())) @ right


def published(a: Tensor, b: Tensor, dtype: torch.dtype, threshold: float) -> float:
    """Fréchet distance of features (N,D), (M,D) by such roots."""
    (mean, first), (other, second) = ((x.mean(0), x.T.cov()) for x in (a.to(dtype), b.to(dtype)))
    half = root(first, threshold)
    overlap = root(half @ second @ half, threshold).trace()
    gap = (mean - other).square().sum()
    return (gap + (first + second).trace() - 2 * overlap).item()


def in_batches(features: Tensor) -> Tensor:
    """Features (N,D), each normalised by mean and variance of the eight that it stands with."""
    eights = features.reshape(-1, BATCH, features.shape[1])
    spread = eights.var(1, unbiased=False, keepdim=True) + 1e-5
    return ((eights - eights.mean(1, keepdim=True)) / spread.sqrt()).flatten(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--power", type=float, default=2.0, help="how steeply variances fall")
    options = parser.parse_args()
    a, b = drawn(options.seed, options.power)
    # The trained norms of a layer know one mean and one variance: those of the second law here.
    centre, width = b.mean(0), b.std(0)
    trained = [(x - centre) / width for x in (a, b)]
    rows = [
        ("ours: float64, exact roots", UNIT * frechet_distance_of(a, b)),
        ("float32", UNIT * published(a, b, torch.float32, 0.0)),
        ("float64, roots above 1e-10", UNIT * published(a, b, torch.float64, 1e-10)),
        ("float32, roots above 1e-10, as published", UNIT * published(a, b, torch.float32, 1e-10)),
        ("the same features 100 times as large", published(100 * a, 100 * b, torch.float32, 1e-10)),
        ("a layer's trained norms (unit: 1)", frechet_distance_of(*trained)),
        ("its norms in training mode (unit: 1)", frechet_distance_of(*map(in_batches, (a, b)))),
    ]
    print(markdown_table(["drawn laws", "distance"], [[name, digits(x)] for name, x in rows]))


if __name__ == "__main__":
    main()
