"""README.md and docs/: short lines, links that lead somewhere, commands that are there; the short ones run.

An option or command that goes, or a page that says more than there is, fails here.
"""

import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
import typer.main
from pydantic import BaseModel

from mmldm.cli.main import app
from mmldm.config import RECIPES, RunConfig, changed, load_config, save_config
from mmldm.worlds.impacts.clips import ImpactsConfig, synthesize

from .cli.commandline import mmldm
from .shown import BLOCK, PAGES, ROOT, Shown, commands, lines_of_blocks, prose, spans
from .smallest import CLIP, smallest_recipe

WIDTH = 120
COMMANDS = [command for page in PAGES for command in commands(page)]
NAMES = [page.name for page in PAGES]

USAGE = typer.BadParameter.__mro__[1]
"""What the command line raises at words that it does not know."""
NOT_RUN = {
    # Too long.
    "mmldm train ./my_clips --out runs/mine --minutes": "minutes of training, as it says",
    "mmldm train ./my_clips --out runs/mine --from": "trains for an hour, the default",
    "mmldm train ./my_clips --from": "trains for an hour, the default",
    "mmldm train ./my_clips --config my.yaml --out runs/b": "20,000 steps",
    "mmldm train generator --out runs/mine --set generator.train.steps=40000": "40,000 steps",
    "mmldm synthesize ./impacts --clips 2000": "a minute or more",
    "mmldm generate --seconds 30": "four films, half a minute; tests/cli/test_generate.py has shorter ones",
    "mmldm synthesize films": "half an hour of film",
    "mmldm evaluate runs/mine clips/ --long": "60 films of 32 s; tests/evaluation has shorter ones",
    "mmldm evaluate MODEL": "60 films of 32 s",
    "mmldm evaluate src/mmldm/assets/impacts": "40 films of 32 s, and the data set of runs/impacts.sh",
    "mmldm benchmark --against": "times five jobs of the bundled recipe",
    "mmldm benchmark --device cpu": "a minute or more",
    "mmldm benchmark --config landscape": "networks of the paper's size; wants a GPU",
    "mmldm benchmark": "times five jobs of the bundled recipe",
    # What must be there is not.
    "mmldm synthesize OUT --world freedoom": "needs the game and OpenAL, and many minutes",
    "mmldm app": "serves a page until Ctrl-C, and needs gradio; tests/app starts it",
    "mmldm train generator --out runs/mine --data /disk2": "another disk; tests/cli/test_train.py moves",
    "mmldm train ./my_clips --out runs/mine --rescan": "refused of a run that trains, as the page says",
    "mmldm distill decoder": "of epsilon decoders; tests/cli/test_distill.py has one",
    # Not to be typed so.
    "mmldm evaluate runs/mine runs/mine": "the model here makes .4 s, and 1.6 s are measured; "
    "tests/cli/test_evaluate.py has one that does",
    "mmldm evaluate GENERATED": "what the command takes, in words",
}
"""Shown commands that are not run here, by how they begin, and why; the longest beginning counts."""
RUN = (
    "mmldm benchmark --model runs/mine --jobs sample",
    "mmldm benchmark --config my.yaml --jobs generator",
)
"""Further beginnings, of commands that do run."""


def why_not(line: str) -> str | None:
    """Why a shown command is not run here; None: it is."""
    beginnings = [start for start in (*NOT_RUN, *RUN) if f"{line} ".startswith(start)]
    return NOT_RUN.get(max(beginnings, key=len, default=""))


# Words and links.


def anchor(heading: str) -> str:
    """The name by which a page's links find a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_lines_are_short(page: Path) -> None:
    """Markdown has no way to break the row of a table or a title, such as those of the notes."""
    lines = page.read_text(encoding="utf-8").splitlines()
    whole = ("|", "#") if page.name == "lab-notes.md" else ("|",)
    long = [
        n for n, line in enumerate(lines, 1) if len(line) > WIDTH and not line.startswith(whole)
    ]
    assert long == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8"))):
        if not target.startswith("https://"):
            name, _, heading = target.partition("#")
            file = page.parent / name if name else page
            found = file.exists() and (not heading or heading in anchors(file))
            lost += [] if found else [target]
    assert lost == []


def anchors(page: Path) -> set[str]:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


# Commands, without running them.


@cache
def group() -> Any:
    return typer.main.get_command(app)


def parsed(words: list[str]) -> dict[str, Any]:
    """The values that the command line would get; nothing runs.

    Raises:
        USAGE: A command, option or value is not one.
    """
    name, command, rest = group().resolve_command(group().make_context("mmldm", ["--"]), words[1:])
    values: dict[str, Any] = command.make_context(name, list(rest)).params
    return values


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.page}: {command.line}")
def test_shown_command_is_one(command: Shown) -> None:
    values = parsed(command.words)
    changes = values.get("changes") or []
    if changes:  # Keys and values of a recipe.
        shipped = values.get("config") in {path.stem for path in RECIPES.glob("*.yaml")}
        base = load_config(RECIPES / f"{values['config']}.yaml") if shipped else recipe()
        changed(base, changes)


@pytest.mark.parametrize(
    "line",
    [
        "mmldm generate --gone",
        "mmldm gone",
        "mmldm generate -n four",
        "mmldm scan",
        "mmldm scan a b",
        "mmldm retake clip.mp4 --from",
    ],
)
def test_what_is_no_command_is_noticed(line: str) -> None:
    with pytest.raises(USAGE):
        parsed(Shown("page.md", line).words)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_options_that_sentences_name_with_a_command_are_there(page: Path) -> None:
    """Part of a command will do there. The lab notes name those of their day."""
    if page.name == "lab-notes.md":
        return
    absent = []
    for code in spans(page.read_text(encoding="utf-8")):
        words = code.split()
        if words[0] == "mmldm" and len(words) > 1 and not words[1].startswith(("-", "[")):
            command = group().commands.get(words[1])
            known = {
                name
                for p in getattr(command, "params", ())
                for name in (*p.opts, *p.secondary_opts)
            }
            named = {word.partition("=")[0] for word in words[2:] if re.match(r"--?[a-z]", word)}
            absent += [code] if command is None or named - known - {"--help"} else []
    assert absent == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_shown_scripts_and_their_options_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    absent = []
    for line in (*lines_of_blocks(text), *spans(text)):
        for script, rest in re.findall(r"(?<![\w/])(runs/\w+\.(?:py|sh))(?![\w.])(.*)", line):
            code = source_of(ROOT / script)
            # A shell script, and one that knows further words, hands them on.
            free = script.endswith(".sh") or "parse_known_args" in code or "mmldm" in line
            options = re.findall(r"(?<=\s)--[a-z][\w-]*", rest.partition("#")[0])
            lost = [option for option in options if not free and f'"{option}"' not in code]
            absent += [line] if not code or lost else []
    assert absent == []


def source_of(script: Path) -> str:
    """Text of a script and of those beside it that it imports from; empty if it is not there."""
    if not script.is_file():
        return ""
    code = script.read_text(encoding="utf-8")
    beside = re.findall(r"^from (\w+) import", code, re.MULTILINE)
    return code + "".join(source_of(script.with_name(f"{name}.py")) for name in beside)


def test_every_key_of_a_recipe_is_explained() -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    told = {part for code in spans(page) for part in re.findall(r"\w+", code)}
    assert {key for key in keys(RunConfig) if key not in told} == set()


def keys(section: type[BaseModel]) -> set[str]:
    """Every key of a section and of those below it."""
    found = set(section.model_fields)
    for field in section.model_fields.values():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found |= keys(kind)
    return found


# Those of seconds, run.


def recipe() -> RunConfig:
    """The smallest recipe, its image VAE in cells of 8 x 8 pixels as that of the pages."""
    whole = smallest_recipe(steps=2, critic=False).model_dump(mode="json")
    whole["vae"]["model"]["patch_size"] = 8
    whole["vae"]["model"]["upsample_channels"] = [16, 8]
    whole["autoencoder"]["model"]["decoder_patch_size"] = 1
    whole["sample"]["num_inference_steps"] = 16  # More than those of students.
    return RunConfig.model_validate(whole)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has what the pages name: clips, a recipe, a finished run, a sound, a picture."""
    place = tmp_path_factory.mktemp("pages")
    # As long as a scan wants them unless told otherwise; the recipe takes windows of .4 s.
    config = ImpactsConfig(
        spec=CLIP.model_copy(update={"num_frames": 16}), materials=("glass", "drum"), seed=5
    )
    synthesize(place / "my_clips", config, 12)
    for name, seed in {"clips": 6, "theirs": 7, "new": 8, "test_clips": 9}.items():
        synthesize(place / name, ImpactsConfig(materials=("glass", "drum"), seed=seed), 6)
    save_config(recipe(), place / "my.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        mmldm("train", "my_clips", "--config", "my.yaml", "--out", "runs/mine").succeeded()
        mmldm("generate", "-n", 1, "--seconds", 3, "--name", "given").succeeded()
    # What is inside decides, not the suffix.
    for name in ("clip.mp4", "throw.mp4", "song.wav"):
        shutil.copy(place / "out" / "given" / "given_000.mp4", place / name)
    shutil.copytree(place / "my_clips", place / "sounds")
    return place


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({c.page for c in COMMANDS if why_not(c.line) is None}))
def test_commands_of_seconds_run_in_the_order_of_the_page(
    page: str, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One place serves all pages, as it would a reader of all: a command that is shown again goes on."""
    monkeypatch.chdir(prepared)
    # Networks that are not in the package are nowhere, so that all machines measure alike.
    monkeypatch.setenv("MMLDM_WEIGHTS", str(prepared / "none"))
    for command in COMMANDS:
        if command.page == page and why_not(command.line) is None:
            mmldm(*command.words[1:]).succeeded()


def test_every_reason_not_to_run_is_of_a_shown_command() -> None:
    used = {
        max((s for s in NOT_RUN if f"{c.line} ".startswith(s)), key=len, default="")
        for c in COMMANDS
    }
    assert set(NOT_RUN) - used == set()
    assert sum(why_not(command.line) is None for command in COMMANDS) > 20
