"""What the tables of worlds share."""

import pytest
import torch

from mmldm.errors import UserError
from mmldm.evaluation.features import Findings
from mmldm.evaluation.measuring import Measured
from mmldm.evaluation.sets import ClipSet
from mmldm.worlds.tables import frechet


def measured(name: str, seen: list[int]) -> Measured:
    """Clips whose classes, heard and seen, are these."""
    torch.manual_seed(len(seen))
    found: list[Findings] = [
        {
            "sound": torch.randn(64), "picture": torch.randn(64),
            "heard": torch.tensor(kind), "seen": torch.tensor(kind),
        }
        for kind in seen
    ]  # fmt: skip
    return Measured(ClipSet(name, "", ()), {"classes": found})


def test_sets_that_share_too_few_classes_are_a_sentence() -> None:
    real = measured("real", [0, 0, 0, 0, 1, 1, 1, 1])
    near = frechet(measured("generated", [0, 0, 1, 1]), real, seed=0)
    assert near["both"]["distance"] > 0
    with pytest.raises(
        UserError, match="the 3 clips of generated and the 8 real ones have too few"
    ):
        frechet(measured("generated", [2, 2, 2]), real, seed=0)
