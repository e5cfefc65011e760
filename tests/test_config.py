"""The recipe is strict: what it accepts is what it says, and what it refuses it names."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mmldm.config import RECIPES, RunConfig, load_config, save_config
from mmldm.errors import UserError
from mmldm.sections import TrainConfig
from mmldm.strict import bind, parse

TRAIN = {"steps": 10, "batch_size": 4, "learning_rate": 1e-3}
RECIPE: dict[str, Any] = {
    "clip": {"num_frames": 8, "sample_rate": 16000},
    "vae": {"model": {"base_channels": 16}, "train": TRAIN},
    "autoencoder": {"schedule": {}, "model": {"key_frames": 4}, "train": TRAIN},
    "generator": {"schedule": {}, "model": {}, "tasks": {"joint": 1.0}, "train": TRAIN},
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        load_config(path, overrides)
    return str(error.value)


def test_saved_recipe_loads_equal(recipe: Path, tmp_path: Path) -> None:
    config = load_config(recipe, ["generator.train.learning_rate=1e-5"])
    save_config(config, tmp_path / "again.yaml")
    assert load_config(tmp_path / "again.yaml") == config


def test_unknown_key_is_named_with_file_path_and_nearest_key(recipe: Path) -> None:
    message = refusal(recipe, "generator.train.lr_warmup=5")
    assert message.startswith(f"{recipe}: generator.train.lr_warmup: unknown key")
    assert "did you mean warmup_steps?" in message


def test_key_in_the_wrong_section_is_sent_home(recipe: Path) -> None:
    assert "it belongs to data.windows_per_clip" in refusal(recipe, "vae.windows_per_clip=2")


def test_earlier_recipes_with_workers_for_jobs_on_caches_load_and_setting_them_is_refused(
    recipe: Path,
) -> None:
    """Run folders of earlier versions hold the setting, which never had a meaning there."""
    now = load_config(recipe)
    earlier = now.model_dump(mode="json")
    for job in ("autoencoder", "generator"):
        earlier[job]["train"]["workers"] = 2
    recipe.write_text(yaml.safe_dump(earlier))
    assert load_config(recipe) == now
    told: list[str] = []
    load_config(recipe, say=told.append)
    assert [sentence.split(": ")[1].split(" ")[0] for sentence in told] == [
        "autoencoder.train.workers", "generator.train.workers",
    ]  # fmt: skip
    assert all("does nothing, see data.workers" in sentence for sentence in told)
    message = refusal(recipe, "generator.train.workers=4")
    assert "generator.train.workers: unknown key" in message
    assert "vae.train.workers or vocoder.train.workers" in message


def test_missing_key_is_named(recipe: Path) -> None:
    recipe.write_text(yaml.safe_dump({**RECIPE, "autoencoder": {"schedule": {}, "model": {}}}))
    assert refusal(recipe) == f"{recipe}: autoencoder.train: missing key"


def test_every_offending_key_is_named_at_once(recipe: Path) -> None:
    message = refusal(recipe, "vae.colour=1", "generator.train.steps=-1")
    assert "vae.colour" in message
    assert "generator.train.steps" in message


@pytest.mark.parametrize(
    ("override", "key", "value", "expected"),
    [
        ("vae.train.steps=1.5", "vae.train.steps", "1.5", "integer"),
        ("vae.train.steps='10'", "vae.train.steps", "'10'", "integer"),
        ("vae.train.ema_decay=off", "vae.train.ema_decay", "False", "number"),
        ("clip.fps=fast", "clip.fps", "'fast'", "number"),
        ("vae.train.precision=fp16", "vae.train.precision", "'fp16'", "'fp32' or 'bf16'"),
        ("vae.train.learning_rate=0", "vae.train.learning_rate", "0", "greater than 0"),
    ],
)
def test_wrong_value_names_key_value_and_what_was_expected(
    recipe: Path, override: str, key: str, value: str, expected: str
) -> None:
    message = refusal(recipe, override)
    assert f"{key}: {value} is wrong, expected" in message
    assert expected in message


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), ("2E3", 2000.0), ("1.5e+2", 150.0)])
def test_exponent_without_a_point_is_a_number(recipe: Path, text: str, value: float) -> None:
    config = load_config(recipe, [f"generator.train.learning_rate={text}"])
    assert config.generator.train.learning_rate == value


def test_set_reaches_new_and_nested_keys(recipe: Path) -> None:
    config = load_config(
        recipe, ["sample.decoder_steps=4", "autoencoder.model.head.width=[1, 2]", "seed=3"]
    )
    assert config.sample.decoder_steps == 4
    assert config.autoencoder.model["head"] == {"width": [1, 2]}
    assert config.seed == 3


@pytest.mark.parametrize("override", ["seed", ".=1", "=3", "seed=[1"])
def test_malformed_set_is_refused(recipe: Path, override: str) -> None:
    assert "--set" in refusal(recipe, override)


def test_key_that_stands_twice_is_refused(recipe: Path) -> None:
    recipe.write_text(recipe.read_text() + "seed: 1\nseed: 2\n")
    assert "'seed' stands twice" in refusal(recipe)


@pytest.mark.parametrize("text", ["", "- 1", "a: [", "!!python/object/apply:os.getcwd []"])
def test_file_that_is_no_recipe_is_refused(recipe: Path, text: str) -> None:
    recipe.write_text(text)
    assert str(recipe) in refusal(recipe)


def test_set_changes_one_of_two_sections_that_share_a_yaml_anchor(recipe: Path) -> None:
    assert "*id" in recipe.read_text()
    config = load_config(recipe, ["generator.train.steps=99"])
    assert (config.generator.train.steps, config.vae.train.steps) == (99, 10)


def test_absent_recipe_is_refused(tmp_path: Path) -> None:
    assert "cannot read" in refusal(tmp_path / "none.yaml")


def test_keeping_one_checkpoint_is_refused_with_a_reason(recipe: Path) -> None:
    message = refusal(recipe, "vae.train.keep=1")
    assert "vae.train.keep: at least 2 checkpoints are kept" in message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("generator.tasks={joint: 0.5}", "sum to 1"),
        ("generator.tasks={joint: 0.5, dubbing: 0.5}", "unknown task 'dubbing'"),
        ("generator.known_slots={patterns: {middle: 1.0}}", "unknown pattern 'middle'"),
        ("generator.known_slots={longest: 1.0}", "less than 1"),
        ("vae.pretrained=taesd", "exactly one"),
        ("vae.decoder={decoder_blocks: 1}", "belongs to a pretrained VAE"),
        ("autoencoder.loss.adversarial=0.1", "critic"),
        ("vae.train.accumulate=3", "multiple of accumulate"),
        ("data.class_pattern='(['", "data.class_pattern: '([' is no regular expression"),
        ("data.class_pattern=_m.._", "'_m.._' has no (group) that would name it"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    recipe: Path, override: str, words: str
) -> None:
    assert words in refusal(recipe, override)


def test_config_cannot_be_changed() -> None:
    config = parse(RunConfig, RECIPE, "recipe")
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 2  # type: ignore[misc]


def build(width: int, depth: int = 2, *, latent_shape: tuple[int, ...]) -> None: ...


def test_bind_adds_derived_arguments() -> None:
    assert bind({"width": 8}, build, "generator.model", latent_shape=(4,)) == {
        "width": 8,
        "latent_shape": (4,),
    }


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"widht": 8}, "generator.model.widht: unknown key, did you mean width?"),
        ({"depth": 3}, "generator.model.width: missing key"),
        ({"width": 1, "latent_shape": 2}, "generator.model.latent_shape: derived"),
    ],
)
def test_bind_names_the_key_that_does_not_fit(section: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        bind(section, build, "generator.model", latent_shape=(4,))


def test_parse_reads_lists_as_tuples() -> None:
    assert parse(TrainConfig, {**TRAIN, "betas": [0.9, 0.98]}, "train").betas == (0.9, 0.98)


@pytest.mark.parametrize("name", ["impacts", "freedoom", "landscape", "aist"])
def test_shipped_recipes_have_names(name: str) -> None:
    assert load_config(name) == load_config(RECIPES / f"{name}.yaml")


def test_a_file_comes_before_a_shipped_recipe_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_config(load_config("impacts", ["seed=7"]), Path("impacts"))
    assert load_config("impacts").seed == 7


def test_a_recipe_that_is_not_there_is_told_which_are() -> None:
    with pytest.raises(
        UserError, match=r"landscpe: cannot read .*recipes aist, freedoom, impacts, landscape"
    ):
        load_config("landscpe")


def test_a_folder_of_its_name_hides_no_shipped_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_config("impacts")
    monkeypatch.chdir(tmp_path)
    Path("impacts").mkdir()
    assert load_config("impacts") == expected
