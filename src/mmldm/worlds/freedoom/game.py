"""The game itself: the `vizdoom` package, without display or sound card, one tic after another.

scenario, seed -> Moment (picture (H,W,3) u8, sound (n,2) i16, what is seen, counters) of each tic

Settings that make a clip a function of its seed: a game of its own for every clip, its settings file in an
empty folder, no sound effects of the driver's, and the player's moves from a seeded generator.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from mmldm.errors import UserError, first_line
from mmldm.worlds.freedoom.scenarios import SCENARIOS

TICS = 35
"""A second."""
SAMPLE_RATES = (11025, 22050, 44100)
"""Those the game mixes at, in Hz; its recordings are of 11025 and 22050."""
SIZES = ((160, 120), (200, 150), (256, 192), (320, 240), (400, 300), (512, 384), (640, 480),
         (800, 600), (1024, 768), (1280, 960), (1600, 1200))  # fmt: skip
"""Width and height of the pictures of 4:3 that the game draws, in pixels."""
RAISED = 20
"""Tics from the beginning of an episode in which the weapon is raised; they are not filmed."""
HALF_VIEW = math.radians(45)
WALK, SIDESTEP = 25.0, 24.0
"""The game's units of full speed ahead and aside."""
COUNTERS = ("ammunition", "health", "armour", "hits", "kills", "items", "shells", "angle")
VARIABLES = (
    "AMMO2", "HEALTH", "ARMOR", "HITCOUNT", "KILLCOUNT", "ITEMCOUNT", "AMMO3", "ANGLE",
)  # fmt: skip
"""The game's names of `COUNTERS`."""
PROBE = 40
"""Tics with the finger on the trigger, after which a shot has been heard."""


class Seen(NamedTuple):
    """Something that stands in the picture.

    Attributes:
        name: As the game has it, such as "Zombieman".
        category: As the game has it: "Monster", "Armor", "Ammo", "Weapon" and others.
        left: Of its box, in picture widths.
        right: The same.
        height: Of its box, in picture heights.
    """

    name: str
    category: str
    left: float
    right: float
    height: float

    @property
    def bearing(self) -> float:
        """Degrees to the right of where the player looks."""
        aside = (self.left + self.right - 1) * math.tan(HALF_VIEW)
        return math.degrees(math.atan(aside))


class Moment(NamedTuple):
    """A tic as it is seen and heard.

    Attributes:
        picture: (H,W,3) u8.
        sound: (n,2) int16 of this tic.
        seen: What stands in the picture.
        counters: By name of `COUNTERS`; the angle in degrees, to the left.
    """

    picture: np.ndarray
    sound: np.ndarray
    seen: list[Seen]
    counters: dict[str, float]


class Move(NamedTuple):
    """What the player does in a tic: pulls the trigger, turns right (degrees), walks and steps right (shares
    of full speed).
    """

    trigger: bool
    turn: float
    ahead: float
    aside: float


STILL = Move(False, 0.0, 0.0, 0.0)


def require_vizdoom() -> None:
    """Looks for the package, without loading it.

    Raises:
        UserError: It is not there.
    """
    if find_spec("vizdoom") is None:
        raise UserError(
            "the Freedoom world is played by the package vizdoom, which is not installed: "
            "pip install 'mmldm[worlds]'"
        )


def require_sound(seed: int = 0) -> None:
    """Fires one shot and listens.

    Raises:
        UserError: The game is not there, does not start, or makes no sound.
    """
    require_vizdoom()
    with Game("basic", seed, SIZES[0], SAMPLE_RATES[1]) as game:
        for _ in range(PROBE):
            if game.look().sound.any():
                return
            if not game.act(Move(True, 0.0, 0.0, 0.0)):
                game.begin()
    raise UserError(
        "vizdoom makes no sound here, as it finds no OpenAL: install it (Debian and Ubuntu: "
        "apt-get install libopenal1; Fedora: dnf install openal-soft; macOS has it)"
    )


class Game:
    """A game of one scenario. Use it as a context manager; it begins with an episode.

    Args:
        scenario: One of `SCENARIOS`.
        seed: Of all its episodes, below 2**31.
        size: Width and height of the picture, one of `SIZES`.
        sample_rate: One of `SAMPLE_RATES`.

    Raises:
        UserError: The game does not start, or dies.
    """

    def __init__(self, scenario: str, seed: int, size: tuple[int, int], sample_rate: int) -> None:
        self.scenario = SCENARIOS[scenario]
        self._name, self._seed, self._size, self._rate = scenario, seed, size, sample_rate
        self._begun = False

    def __enter__(self) -> Game:
        # Here and not above: who makes other worlds need not have it.
        import vizdoom

        self._failures = (
            vizdoom.ViZDoomErrorException,
            vizdoom.ViZDoomUnexpectedExitException,
            vizdoom.ViZDoomIsNotRunningException,
            vizdoom.FileDoesNotExistException,
            vizdoom.MessageQueueException,
            vizdoom.SharedMemoryException,
        )
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmldm-game-")))
            self._game: Any = self._set_up(vizdoom, folder)
            stack.callback(self._game.close)
            with _sentences(self._failures), contextlib.chdir(folder):
                self._game.init()
            self.begin()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _set_up(self, vizdoom: Any, folder: Path) -> Any:
        game = vizdoom.DoomGame()
        with _sentences(self._failures):
            game.load_config(str(Path(vizdoom.scenarios_path) / f"{self._name}.cfg"))
        # The same everywhere: no settings of whoever sits here, no effects of the sound driver.
        game.set_doom_config_path(str(folder / "game.ini"))
        game.set_seed(self._seed)
        game.set_doom_skill(self.scenario.skill)
        game.set_mode(vizdoom.Mode.PLAYER)
        game.set_episode_start_time(1)
        game.set_window_visible(False)
        game.add_game_args("+snd_efx 0 +neverswitchonpickup 1")
        # What is seen: the range and the weapon. No blood, no marks on walls, no bodies, no red flashes; no
        # figures below, which would be unreadable at the sizes that models are trained at.
        width, height = self._size
        game.set_screen_resolution(getattr(vizdoom.ScreenResolution, f"RES_{width}X{height}"))
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        game.set_labels_buffer_enabled(True)
        game.set_render_weapon(True)
        for hide in (
            game.set_render_hud,
            game.set_render_crosshair,
            game.set_render_messages,
            game.set_render_particles,
            game.set_render_decals,
            game.set_render_corpses,
            game.set_render_effects_sprites,
            game.set_render_screen_flashes,
        ):
            hide(False)
        # What is heard.
        game.set_audio_buffer_enabled(True)
        rate = getattr(vizdoom.SamplingRate, f"SR_{self._rate}")
        game.set_audio_sampling_rate(rate)
        game.set_audio_buffer_size(1)
        # What is known, and what the player can do.
        variables = [getattr(vizdoom.GameVariable, name) for name in VARIABLES]
        game.set_available_game_variables(variables)
        buttons = ("ATTACK", "TURN_LEFT_RIGHT_DELTA", "MOVE_FORWARD_BACKWARD_DELTA",
                   "MOVE_LEFT_RIGHT_DELTA")  # fmt: skip
        game.set_available_buttons([getattr(vizdoom.Button, name) for name in buttons])
        return game

    def begin(self) -> None:
        """Begins the next episode, and goes on until the weapon is raised."""
        with _sentences(self._failures):
            if self._begun:
                self._game.new_episode()
            self._begun = True
            if self.scenario.unnoticed:
                self._game.send_game_command("notarget")
        for _ in range(RAISED):
            self.act(STILL)

    def look(self) -> Moment:
        """The tic as it is now."""
        with _sentences(self._failures):
            state = self._game.get_state()
        picture = state.screen_buffer
        height, width = picture.shape[:2]
        seen = [
            Seen(
                label.object_name,
                label.object_category,
                label.x / width,
                (label.x + label.width) / width,
                label.height / height,
            )
            for label in state.labels
            if label.object_category != "Self" and label.object_name != "DoomPlayer"
        ]
        counters = dict(zip(COUNTERS, state.game_variables.tolist(), strict=True))
        return Moment(picture, state.audio_buffer, seen, counters)

    def act(self, move: Move) -> bool:
        """Goes on by a tic; whether the episode goes on, too."""
        action = [float(move.trigger), move.turn, WALK * move.ahead, SIDESTEP * move.aside]
        with _sentences(self._failures):
            self._game.make_action(action)
            return not self._game.is_episode_finished()

    @property
    def lost(self) -> bool:
        """Whether the episode has ended with the player's end."""
        return bool(self._game.is_player_dead())


@contextlib.contextmanager
def _sentences(failures: tuple[type[Exception], ...]) -> Any:
    """The game's failures as a sentence."""
    try:
        yield
    except failures as error:
        raise UserError(
            f"the game of the Freedoom world failed ({first_line(error)}); repeat the command, "
            "finished clips are kept"
        ) from error
