"""Files of weights are found, checked and read, and what is missing or hostile is said in one sentence."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmldm.errors import UserError
from mmldm.evaluation.extractors.weights_file import WeightsFile

TENSORS = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.ones(2)}


def published(**digits: str) -> WeightsFile:
    names = {name.replace("__", "."): value for name, value in digits.items()}
    return WeightsFile("EarNet", names, "somebody/earnet on GitHub", "MIT")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMLDM_WEIGHTS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["ear.pt", "ear.pth", "ear.safetensors"])
def test_tensors_of_either_format_are_read_with_the_files_checksum(folder: Path, name: str) -> None:
    path = folder / name
    save_file(TENSORS, path) if path.suffix == ".safetensors" else torch.save(TENSORS, path)
    found = published(other__pt="", **{name.replace(".", "__"): ""}).read()
    assert found.path == path
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(found.tensors[key], TENSORS[key]) for key in TENSORS)


def test_batch_norms_counters_are_left_out(tmp_path: Path) -> None:
    torch.save({**TENSORS, "bn.num_batches_tracked": torch.tensor(3)}, tmp_path / "ear.pt")
    assert published(ear__pt="").read(tmp_path / "ear.pt").tensors.keys() == TENSORS.keys()


def test_tensors_of_other_networks_and_empty_ones_are_left(tmp_path: Path) -> None:
    others = {"eye.weight": torch.ones(2), "weight": torch.ones(3), "ear.none": torch.empty(0)}
    torch.save({**others, **{f"ear.{k}": v for k, v in TENSORS.items()}}, tmp_path / "ear.pt")
    found = WeightsFile("EarNet", {"ear.pt": ""}, "somewhere", "MIT", prefix="ear.").read(tmp_path)
    assert found.tensors.keys() == TENSORS.keys()


def test_missing_file_is_named_with_its_folder_and_source(folder: Path) -> None:
    with pytest.raises(UserError) as error:
        published(ear__pt="", ear__safetensors="").read()
    for part in (
        "EarNet",
        "ear.pt or ear.safetensors",
        str(folder),
        "somebody/earnet",
        "MMLDM_WEIGHTS",
    ):
        assert part in str(error.value)
    with pytest.raises(UserError, match=r"no /nowhere/ear\.pt"):
        published(ear__pt="").read("/nowhere/ear.pt")


def test_without_the_variable_weights_lie_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MMLDM_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "mmldm" / "weights" / "ear.safetensors"
    path.parent.mkdir(parents=True)
    save_file(TENSORS, path)
    assert published(ear__safetensors="").find() == path


def test_file_that_is_not_the_published_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ear.pt"
    torch.save(TENSORS, path)
    digits = hashlib.sha256(path.read_bytes()).hexdigest()
    assert published(ear__pt=digits[:8]).read(path).sha256 == digits
    with path.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match="not the published file"):
        published(ear__pt=digits[:8]).read(path)


def test_pickle_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    path, witness = tmp_path / "ear.pt", tmp_path / "witness"
    # What a pickle of os.mkdir(witness) looks like, in protocol 0.
    path.write_bytes(f"cos\nmkdir\n(V{witness}\ntR.".encode())
    with pytest.raises(UserError, match="cannot be read as a file of tensors alone"):
        published(ear__pt="").read(path)
    assert not witness.exists()


@pytest.mark.filterwarnings("ignore:.*TorchScript", "ignore::DeprecationWarning")
def test_program_damage_and_other_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ear.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(UserError, match="tensors alone"):
        published(ear__pt="").read(path)
    torch.save(TENSORS, path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="tensors alone"):
        published(ear__pt="").read(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="tensors alone"):
        published(ear__pt="").read(path)
    torch.save({"state_dict": TENSORS}, path)
    with pytest.raises(UserError, match="no state dict"):
        published(ear__pt="").read(path)
