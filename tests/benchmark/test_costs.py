"""Rows of a whole tiny system; what a training step moves and costs."""

import json
from typing import Any

import pytest
import torch

from mmldm.benchmark import training_step
from mmldm.benchmark.costs import (
    AGAINST,
    Clock,
    Cost,
    System,
    costs,
    decided_by,
    passes_of,
    to_json,
    to_markdown,
)
from mmldm.benchmark.pace import JobTime, Pass
from mmldm.benchmark.sampling import untrained_pipeline
from mmldm.benchmark.timing import Timing
from mmldm.benchmark.training_step import StepPlan, TrainingStep, step_plans
from mmldm.config import RunConfig
from mmldm.training import JOBS
from mmldm.training.flops import count_flops
from mmldm.training.summary import Summary

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
FACTS: dict[str, Any] = {
    "command": "mmldm benchmark", "date": "2026-11-23", "version": "0.1.0", "commit": "abc1234",
    "device": "a processor", "threads": 1, "torch": "2", "precision": "fp32",
    "matmul_peak": {"fp32": 1e9, "bf16": 2e9},
}  # fmt: skip


@pytest.fixture(scope="module")
def rows(recipe: RunConfig, summary: Summary) -> dict[str, Cost]:
    system = System(
        lambda: untrained_pipeline(recipe, summary),
        recipe.sample.model_dump(exclude={"rows"}),
        (recipe, summary),
    )
    clock = Clock(2, CPU, against=lambda: torch.randn(9))
    return {row.work: row for row in costs(system, ("sample", *JOBS), 3, clock)}


@pytest.fixture(scope="module")
def plans(recipe: RunConfig, summary: Summary) -> dict[str, StepPlan]:
    return {plan.name: plan for plan in step_plans(recipe, summary, JOBS, CPU)}


def test_every_part_and_job_has_a_row(rows: dict[str, Cost]) -> None:
    networks = ("generator", "signal decoder", "image decoder", "vocoder")
    parts = ("end to end", *networks, "mp4 files", "contact sheet")
    trained = ("vae", "autoencoder", "autoencoder with critic", "generator", "vocoder")
    expected = [f"sample: {x}" for x in (*parts, AGAINST)]
    assert [work for work in rows if work.startswith("sample")] == expected
    assert {work for work in rows if work.startswith("train")} == {
        f"train: {x}" for x in (*trained, AGAINST)
    }
    assert {row.clips for row in rows.values()} == {3}


def test_parts_cost_what_the_whole_costs(rows: dict[str, Cost]) -> None:
    flops = {work: row.flops for work, row in rows.items()}
    parts = [f"sample: {x}" for x in ("generator", "signal decoder", "image decoder", "vocoder")]
    assert flops["sample: end to end"] == sum(flops[part] or 0 for part in parts)
    assert flops["sample: mp4 files"] is flops["sample: contact sheet"] is None


def test_parts_cost_what_the_dry_run_says(
    rows: dict[str, Cost], recipe: RunConfig, summary: Summary
) -> None:
    once = {part.name: part.flops for part in summary.parts}
    steps, decoder_steps = recipe.sample.num_inference_steps, recipe.sample.decoder_steps
    assert rows["sample: generator"].flops == 3 * steps * once["generator, one step"]
    decoding = once["autoencoder, condition"] + decoder_steps * once["signal decoder, one step"]
    assert rows["sample: signal decoder"].flops == 3 * decoding
    assert rows["sample: image decoder"].flops == 3 * once["image VAE, decode"]


def test_other_program_is_compared_with_every_row(rows: dict[str, Cost]) -> None:
    for work, row in rows.items():
        assert (row.ratio is None) == work.endswith(AGAINST)


def test_job_without_a_section_is_left_out(recipe: RunConfig, summary: Summary) -> None:
    without = recipe.model_copy(update={"vocoder": None})
    assert list(step_plans(without, summary, ("vocoder",), CPU)) == []


@pytest.mark.parametrize(
    "name", ["vae", "autoencoder", "autoencoder with critic", "generator", "vocoder"]
)
def test_step_trains_its_turns_and_their_average(name: str, plans: dict[str, StepPlan]) -> None:
    plan = plans[name]
    step = TrainingStep(plan, 2, CPU)
    weights = {
        turn: [p.detach().clone() for p in module.parameters() if p.requires_grad]
        for turn, module in plan.turns.items()
    }
    average = {k: v.clone() for k, v in step.average.state().items()}
    step()
    for turn, module in plan.turns.items():
        now = [p for p in step.turns[turn].parameters.values()]
        moved = sum(not torch.equal(a, b) for a, b in zip(weights[turn], now, strict=False))
        assert moved > 0, turn
        assert list(module.parameters())
    assert any(not torch.equal(average[k], v) for k, v in step.average.state().items())


def test_training_rows_alone_tell_the_optimisers_share(rows: dict[str, Cost]) -> None:
    for work, row in rows.items():
        if work.startswith("train") and not work.endswith(AGAINST):
            # A part of a step; timings of so small networks scatter.
            assert row.optimisers is not None and row.optimisers > 0
        else:
            assert row.optimisers is None


def test_optimisers_move_the_weights_once_more_without_another_backward_pass(
    plans: dict[str, StepPlan],
) -> None:
    step = TrainingStep(plans["generator"], 2, CPU)
    step()
    network = plans["generator"].turns["model"]
    before = [p.detach().clone() for p in network.parameters()]
    gradients = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    step.optimise()
    assert any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    for gradient, parameter in zip(gradients, network.parameters(), strict=True):
        assert gradient is None or torch.equal(gradient, parameter.grad)


@pytest.mark.parametrize("name", ["vae", "autoencoder", "generator", "vocoder"])
def test_flops_grow_with_the_rows(name: str, plans: dict[str, StepPlan]) -> None:
    one, three = (TrainingStep(plans[name], rows, CPU).flops() for rows in (1, 3))
    # Of the autoencoder's terms the contrastive one compares all rows with all.
    assert three == pytest.approx(3 * one, rel=0.001)


def test_critic_costs_more_and_repeats_no_pass_of_the_decoder(
    plans: dict[str, StepPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Run, not tried on tensors without numbers first.
    monkeypatch.setattr(training_step, "count_without_running", lambda call: count_flops(call)[0])
    decoder = plans["autoencoder"].turns["model"].autoencoder.decoder
    calls: list[str] = []
    hook = decoder.register_forward_hook(lambda *_: calls.append("decoder"))
    flops = [
        TrainingStep(plans[name], 1, CPU).flops()
        for name in ("autoencoder", "autoencoder with critic")
    ]
    hook.remove()
    assert flops[1] > flops[0]
    assert calls == ["decoder", "decoder"]


def test_table_has_a_line_per_row_and_no_empty_column() -> None:
    rows = [
        Cost("sample: end to end", 2, Timing((0.5, 0.4, 0.6), 2**31), flops=250_000_000),
        Cost("sample: mp4 files", 2, Timing((2.0, 2.0, 2.0), 2**30)),
    ]
    table = to_markdown(rows, FACTS).splitlines()
    assert table[0].startswith("2026-11-23, a processor (1 thread), version 0.1.0, commit abc1234")
    assert "fp32 1 GFLOP/s" in table[0] and "`mmldm benchmark`" in table[0]
    assert table[4:] == [
        "| sample: end to end | 2 | 500 ms (400, 600) | 240 | 250 M | 50 % | 2.00 GiB |",
        "| sample: mp4 files | 2 | 2 s (2, 2) | 60 |  |  | 1.00 GiB |",
    ]
    assert "energy" not in table[2] and "other" not in table[2]


def test_json_holds_every_round() -> None:
    row = Cost("train: vae", 4, Timing((0.5, 0.25), None), 10**8, 3.0, 2.0, optimisers=0.25)
    stored = json.loads(to_json([row], FACTS))
    assert stored["matmul_peak"] == {"fp32": 1e9, "bf16": 2e9}
    (values,) = stored["rows"]
    assert values["seconds"] == [0.5, 0.25]
    assert values["utilisation"] == pytest.approx(1e8 / 0.375 / 1e9)
    assert values["clips_per_second"] == pytest.approx(4 / 0.375)
    assert values["clips_per_minute"] == pytest.approx(640)
    assert (values["joules"], values["times_longer_elsewhere"]) == (3.0, 2.0)
    assert values["optimisers_share"] == 0.25


def test_clips_a_minute_hold_files_and_sheet() -> None:
    rows = [
        Cost("sample: end to end", 2, Timing((1.5, 1.5), 2**30)),
        Cost("sample: contact sheet", 2, Timing((0.5, 0.5), 2**29)),
    ]
    line = decided_by(rows)
    assert line is not None
    assert line.startswith("60 clips a minute (2 at once, files and sheet included)")
    assert line.endswith("at most 1.00 GiB of memory")
    assert decided_by(rows[:1]) is None


def test_passes_are_those_of_training_and_not_the_other_programs() -> None:
    timing = Timing((2.0,), None)
    rows = [
        Cost("sample: end to end", 2, timing),
        Cost("train: vae", 4, timing, optimisers=0.25),
        Cost(f"train: {AGAINST}", 4, timing),
    ]
    assert passes_of(rows) == {"vae": Pass(4, 2.0, 0.25)}


def test_json_holds_how_long_a_training_takes() -> None:
    stored = json.loads(to_json([], FACTS, [JobTime("vae", 10, 2.0, 20.0)]))
    assert stored["training"] == [{"job": "vae", "steps": 10, "step": 2.0, "seconds": 20.0}]
