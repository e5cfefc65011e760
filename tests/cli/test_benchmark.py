"""`mmldm benchmark` as a person meets it."""

import json
from pathlib import Path

import pytest

from .commandline import mmldm

pytestmark = pytest.mark.slow


def test_recipe_is_measured_and_compared(recipe: Path, tmp_path: Path) -> None:
    script, numbers = tmp_path / "peer.py", tmp_path / "numbers.json"
    script.write_text("def setup():\n    pass\ndef step():\n    pass\n")
    words = ("--config", recipe, "--jobs", "generator", "--repeats", 2, "--batch", 2)
    output = ("--against", script, "--json", numbers, "--device", "cpu")
    out = mmldm("benchmark", *words, *output, "--set", "generator.model.width=16").succeeded()
    assert "| train: generator | 2 |" in out and "| train: the other program | 2 |" in out
    assert f"`mmldm benchmark --config {recipe}" in out
    stored = json.loads(numbers.read_text())
    assert [row["work"] for row in stored["rows"]] == [
        "train: generator",
        "train: the other program",
    ]
    assert {len(row["seconds"]) for row in stored["rows"]} == {2}
    # Two rows are not the recipe's four: how long that takes is not known.
    assert "| generator | 2 | not timed |" in out
    assert stored["training"][2] == {
        "job": "generator", "steps": 2, "step": None, "seconds": None
    }  # fmt: skip
    assert stored["precision"] == "fp32"


def test_model_folder_is_sampled_and_run_folder_trained_too(run_folder: Path) -> None:
    words = ("--repeats", 1, "--batch", 1, "--device", "cpu")
    out = mmldm("benchmark", "--model", run_folder / "model", *words).succeeded()
    assert "| sample: end to end | 1 |" in out and "train:" not in out
    out = mmldm("benchmark", "--model", run_folder, "--jobs", "vocoder", *words).succeeded()
    assert "| train: vocoder | 1 |" in out and "sample:" not in out


def test_it_says_what_one_decides_by(recipe: Path) -> None:
    words = ("--config", recipe, "--repeats", 1, "--device", "cpu")
    out = mmldm(
        "benchmark", *words, "--jobs", "sample,vae,autoencoder,generator,vocoder"
    ).succeeded()
    assert "| sample: contact sheet | 2 |" in out
    assert " clips a minute (2 at once, files and sheet included)" in out
    last = out.splitlines()[-3]
    assert last.startswith("| the whole | | | ") and "not timed" not in out


def test_bf16_is_measured_on_request(recipe: Path) -> None:
    words = ("--config", recipe, "--jobs", "sample", "--repeats", 1, "--batch", 1)
    out = mmldm("benchmark", *words, "--precision", "bf16", "--device", "cpu").succeeded()
    assert ", bf16: `mmldm" in out and "| sample: end to end | 1 |" in out


def test_table_1_has_both_ways_beside_the_papers(recipe: Path, tmp_path: Path) -> None:
    numbers = tmp_path / "table1.json"
    words = ("--config", recipe, "--table1", "--repeats", 2, "--json", numbers, "--device", "cpu")
    out = mmldm("benchmark", *words).succeeded()
    assert "| MM-LDM, paper | 256² | 9 | 0.46 | 4 | 70.7 |" in out
    rows = [line.split(" | ") for line in out.splitlines() if ", here | " in line]
    assert [row[0] for row in rows] == ["| MM-LDM, here", "| MM-LDM*, here"]
    # A CPU has no largest batch; what encodes and decodes as well takes longer.
    assert all(row[2] == row[4] == "-" for row in rows)
    stored = json.loads(numbers.read_text())["table1"]
    whole, prepared = (min(row["sample_seconds"]) for row in stored)
    assert whole > prepared and {len(row["step_seconds"]) for row in stored} == {2}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--jobs", "sample,sing"), "--jobs: unknown 'sing'"),
        (("--precision", "fp8"), "--precision must be fp32, tf32 or bf16"),
        (("--model", "a", "--config", "b"), "give --model or --config, not both"),
        (("--against", "/nowhere.py"), "no Python file to benchmark against"),
        (("--config", "/nowhere.yaml"), "cannot read the recipe"),
        (("--model", "/nowhere"), "no such model folder"),
        (("--model", "/nowhere", "--set", "seed=1"), "a model without one"),
        (("--table1", "--model", "/nowhere"), "no such model folder"),
        (("--jobs", "vocoder"), "nothing to measure: this system has no vocoder"),
    ],
)
def test_mistake_is_one_sentence(words: tuple[str, ...], sentence: str) -> None:
    assert sentence in mmldm("benchmark", *words, "--device", "cpu").complaint()
