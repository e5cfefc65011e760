"""The game, where it is on this machine: `playable` skips with a reason where it is not."""

import pytest

from mmldm.errors import UserError
from mmldm.worlds.freedoom.game import require_sound


@pytest.fixture(scope="session")
def playable() -> None:
    try:
        require_sound()
    except UserError as error:
        pytest.skip(f"the game cannot be played here: {error}")
