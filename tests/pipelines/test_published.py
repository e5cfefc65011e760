"""Models by name: in the package, beside it in a checkout, or told in a sentence where they are."""

from pathlib import Path

import pytest

from mmldm.cli.generate import load_model
from mmldm.errors import UserError
from mmldm.pipelines import published as names
from mmldm.pipelines.published import BUNDLED, published
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training.start_model import find_model, settled_name


def test_the_bundled_model_opens_by_its_name_through_every_door() -> None:
    assert published("impacts") == find_model("impacts") == BUNDLED
    by_name = SoundingVideoPipeline.from_pretrained("impacts")
    assert by_name.config.class_names == load_model(None, "cpu").config.class_names


def test_a_path_is_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "freedoom").mkdir()
    for path in ("./freedoom", str(tmp_path / "freedoom")):
        assert published(path) is None
        with pytest.raises(UserError, match=r"model_index\.json"):
            find_model(path)
        with pytest.raises(UserError, match=r"model_index\.json"):
            load_model(path, "cpu")
    assert settled_name("./freedoom") == str(tmp_path / "freedoom")


def test_a_model_of_the_repository_is_found_there_or_it_is_said_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models" / "freedoom"
    monkeypatch.setitem(names.PUBLISHED, "freedoom", folder)
    for opens in (find_model, SoundingVideoPipeline.from_pretrained, published):
        with pytest.raises(
            UserError, match=r"keeps it in models/freedoom, and runs/freedoom\.sh makes one"
        ):
            opens("freedoom")
    folder.mkdir(parents=True)
    assert published("freedoom") == folder
