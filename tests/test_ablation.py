"""The script of the ablation table: its rows switch what they name, and nothing else."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mmldm.config import RECIPES, RunConfig, load_config
from mmldm.files import sha256_of
from mmldm.types import MODALITIES

from .cli.commandline import environment, mmldm
from .test_paper_recipes import narrow

ROOT = Path(__file__).parents[1]
RECIPE = RECIPES / "landscape.yaml"


@pytest.fixture(scope="module")
def ablation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ablation", ROOT / "runs" / "ablation.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Every setting of a recipe by its path."""
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for key, inner in value.items() for k, v in leaves(inner, f"{path}.{key}").items()}


def differences(one: RunConfig, other: RunConfig) -> set[str]:
    a, b = (leaves(config.model_dump(mode="json")) for config in (one, other))
    absent = object()
    return {key for key in a | b if a.get(key, absent) != b.get(key, absent)}


@pytest.mark.parametrize(
    ("part", "settings"),
    [
        ("modality prompt", {".autoencoder.model.prompt_tokens"}),
        ("pooled latent", {".autoencoder.model.with_pooled_latent"}),
        ("class embedding", {".autoencoder.model.with_class_token"}),
        ("semantic features", {".autoencoder.model.with_semantics"}),
        ("fine-tuned image decoder", set()),  # the image VAE's weights, see the next test
    ],
)
def test_leaving_a_part_out_changes_its_setting_and_no_other(
    ablation: ModuleType, part: str, settings: set[str]
) -> None:
    recipe, parts = load_config(RECIPE), tuple(ablation.PARTS)
    whole = ablation.switched(recipe, parts, None, 0)
    without = ablation.switched(recipe, tuple(p for p in parts if p != part), None, 0)
    assert differences(whole, without) == settings


def test_leaving_the_adversarial_loss_out_removes_critic_and_weight(ablation: ModuleType) -> None:
    parts = tuple(ablation.PARTS)
    whole = ablation.switched(load_config(RECIPE), parts, None, 0)
    without = ablation.switched(load_config(RECIPE), parts[:-1], None, 0)
    changed = differences(whole, without)
    assert {name.split(".")[2] for name in changed} == {"critic", "loss"}
    assert without.autoencoder.critic is None
    assert without.autoencoder.loss.adversarial == 0
    assert whole.autoencoder.critic is not None


def test_all_parts_on_is_the_recipe_but_for_budget_and_seed(ablation: ModuleType) -> None:
    recipe = load_config(RECIPE)
    whole = ablation.switched(recipe, tuple(ablation.PARTS), 500, 7)
    allowed = {".seed", ".autoencoder.critic.start_step"} | {
        f".autoencoder.train.{name}"
        for name in ("steps", "save_every", "validate_every", "preview_every")
    }
    assert differences(recipe, whole) == allowed
    assert whole.autoencoder.critic is not None and whole.autoencoder.critic.start_step == 250


def test_a_decoder_for_each_modality_has_the_prompt_alone(ablation: ModuleType) -> None:
    recipe = load_config(RECIPE)
    separate, prompted = (
        ablation.switched(recipe, parts, None, 0) for parts in ((), (ablation.PROMPT,))
    )
    assert separate == prompted


def test_rows_add_the_six_parts_in_order_and_leave_out_each(ablation: ModuleType) -> None:
    parts = tuple(ablation.PARTS)
    found = ablation.rows(fine_tuned=True)
    assert found[:7] == [parts[:n] for n in range(7)]
    for part in parts[:5]:
        assert tuple(p for p in parts[:5] if p != part) in found
    assert len(found) == len(set(found)) == 11
    assert ablation.rows(fine_tuned=True, added_alone=True) == found[:7]
    assert all("fine-tuned image decoder" not in row for row in ablation.rows(fine_tuned=False))


@pytest.mark.smoke
@pytest.mark.timeout(1800)
def test_table_is_made_in_the_papers_units_and_ours(shared: Path, tmp_path: Path) -> None:
    """Rows of two steps: that all of it runs, and what its columns are."""
    run, out, clips = (tmp_path / name for name in ("run", "out", "clips"))
    mmldm("synthesize", clips, "--clips", 24, "--size", 64, "--sample-rate", 44100).succeeded()
    words = [*narrow(tmp_path / "sd"), "--set", f"data.folder={clips}"]
    sharp = ("vae.loss.perceptual=1", "vae.loss.adversarial=0.5", "vae.critic.start_step=1",
             "vae.critic.learning_rate=0.0001")  # fmt: skip
    words += [word for change in sharp for word in ("--set", change)]
    mmldm("train", "vae", "--config", "landscape", *words, "--out", run).succeeded()
    script = [ROOT / "runs" / "ablation.py", run, "--steps", 2, "--clips", 4, "--out", out]
    done = subprocess.run(
        [sys.executable, *map(str, script)], env={**environment(), "MMLDM_WEIGHTS": str(shared / "weights")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "not measured: I3D needs its weights" in done.stdout
    lines = (out / "table.md").read_text().splitlines()
    head = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert head[6:10] == [
        "r, Fréchet of single frames, SqueezeNet", "r, Fréchet, YAMNet", "r, KAD, YAMNet", "frames, dB"
    ]  # fmt: skip
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:-2]]
    assert [row[:6].count("✓") for row in rows] == [0, 1, 2, 3, 4, 5, 6, 4, 4, 4, 4]
    assert all(float(row[6]) > 0 for row in rows)
    # The first row's two autoencoders have learnt different things.
    separate = out / "a-decoder-for-each-modality_seed-0"
    weights = [next((separate / name / "export").glob("*.safetensors")) for name in MODALITIES]
    assert len({sha256_of(path) for path in weights}) == 2
