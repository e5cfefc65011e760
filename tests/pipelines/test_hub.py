"""Models of the Hugging Face hub, in a cache made as it makes one: no code is asked for, and none is run."""

import json
import shutil
from pathlib import Path

import pytest

from mmldm.errors import UserError
from mmldm.models import component
from mmldm.models.image_vae import load_image_vae
from mmldm.pipelines.loading import COMPONENTS
from mmldm.pipelines.sounding_video import SoundingVideoPipeline

COMMIT = "0" * 40


@pytest.fixture
def cache(pipeline, tmp_path) -> Path:
    """Links in a folder of the commit to files in a folder of all contents."""
    pipeline.save_pretrained(tmp_path / "made")
    repository = tmp_path / "cache" / "models--someone--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "blobs").mkdir()
    for number, file in enumerate(sorted((tmp_path / "made").rglob("*.*"))):
        if file.is_file():
            blob = Path(shutil.copy(file, repository / "blobs" / str(number)))
            link = repository / "snapshots" / COMMIT / file.relative_to(tmp_path / "made")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)
    return tmp_path / "cache"


def opened(cache: Path) -> SoundingVideoPipeline:
    return SoundingVideoPipeline.from_pretrained(
        "someone/model", cache_dir=cache, local_files_only=True
    )


def snapshot(cache: Path) -> Path:
    return cache / "models--someone--model" / "snapshots" / COMMIT


def test_downloaded_model_opens_through_the_caches_links(cache, pipeline):
    assert opened(cache).clip_spec == pipeline.clip_spec


def test_index_of_a_downloaded_model_cannot_name_code(cache, tmp_path):
    mark = tmp_path / "ran"
    (snapshot(cache) / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    index = snapshot(cache) / "model_index.json"
    settings = json.loads(index.read_text()) | {"_class_name": ["evil", "Evil"]}
    index.unlink()
    index.write_text(json.dumps(settings))
    with pytest.raises(UserError, match="not of SoundingVideoPipeline"):
        opened(cache)
    assert not mark.exists()


def test_code_beside_a_downloaded_model_is_refused(cache, tmp_path):
    mark = tmp_path / "ran"
    # diffusers 0.42 looks for this name where no pipeline is asked for.
    (snapshot(cache) / "None.py").write_text(f"open({str(mark)!r}, 'w')\n")
    with pytest.raises(UserError, match=r"holds code \(None.py\)"):
        opened(cache)
    assert not mark.exists()


def test_only_settings_and_weights_are_asked_for(monkeypatch, pipeline, tmp_path):
    asked: list[list[str]] = []

    def hub(name: str, allow_patterns: list[str], **options: object) -> str:
        asked.append(allow_patterns)
        raise OSError("there is no hub in this test")

    monkeypatch.setattr(component, "snapshot_download", hub)
    with pytest.raises(UserError, match="someone/model: the model cannot be loaded"):
        SoundingVideoPipeline.from_pretrained("someone/model", vae=pipeline.vae)
    [patterns] = asked
    assert all(pattern.endswith((".json", ".safetensors")) for pattern in patterns)
    assert {p.partition("/")[0] for p in patterns if "/" in p} == set(COMPONENTS) - {"vae"}


def test_image_vae_of_a_downloaded_model_opens(cache, pipeline):
    loaded = load_image_vae(snapshot(cache))
    assert loaded.config.patch_size == pipeline.vae.config.patch_size
