"""The whole answer, and ``raypretrain plan`` with its bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command import Command

from raypretrain.planning.hardware import GPUS
from raypretrain.planning.money import Prices
from raypretrain.planning.plan import Machine, plan
from raypretrain.planning.wholerun import Rhythm, whole_run

from test_choice import JOB, MACHINE  # isort: skip

JOBS = Path(__file__).parents[2] / "jobs"
SMALL = JOBS / "pretrain-small.yaml"


def answer(command: Command, *arguments: object) -> dict[str, Any]:
    status, out, error = command.run("plan", SMALL, "--json", *arguments)
    assert status == 0, error
    found: dict[str, Any] = json.loads(out)
    return found


def test_the_answer_adds_up() -> None:
    found = plan(JOB, MACHINE)
    run, dollars = found["run"], found["money"]
    assert found["memory"]["fits"]
    assert run["gpu_hours"] == pytest.approx(8 * run["hours"])
    assert run["hours_of_steps"] * 3600 == pytest.approx(JOB.rhythm.steps * found["step"]["seconds"])
    assert dollars["gpus"] == pytest.approx(2.5 * run["gpu_hours"])
    assert 0.99 < run["goodput"] <= 1
    assert any("fitted to 108 measured runs" in line for line in found["guesses"])
    assert not any("the price is a guess" in line for line in found["guesses"])


def test_a_guess_is_called_one() -> None:
    said = "\n".join(plan(JOB, Machine(gpu=GPUS["b200"], number=8))["guesses"])
    assert "that a b200 reaches them too is a guess" in said
    assert "the price is a guess" in said


def test_where_nothing_fits_it_says_how_many_gpus_would_do() -> None:
    from raypretrain.models.config import PRESETS
    from raypretrain.training.planned import network_of

    huge = replace(JOB, network=network_of(replace(PRESETS["llama-405b"], vocabulary=128_256)))
    found = plan(huge, MACHINE)
    assert found["run"] is found["money"] is found["step"] is None
    number = int(found["memory"]["change_first"].removeprefix("--gpus "))
    assert plan(huge, replace(MACHINE, number=number))["run"] is not None
    assert plan(huge, replace(MACHINE, number=number // 2))["run"] is None


def test_spot_is_cheaper_by_the_hour_and_loses_more_time() -> None:
    kept = [
        plan(JOB, Machine(gpu=GPUS["h100"], number=64, prices=Prices(spot=spot))) for spot in (False, True)
    ]
    assert kept[1]["money"]["gpus"] < kept[0]["money"]["gpus"]
    assert kept[1]["run"]["goodput"] < kept[0]["run"]["goodput"]


def test_more_gpus_fail_more_often() -> None:
    rhythm = Rhythm(steps=100_000, evaluate_every=1000, checkpoint_every=0, evaluation_share=0.1)
    few, many = (whole_run(5.0, rhythm, n, n // 8, 5.6e12) for n in (1024, 16_384))
    assert many.between_failures == pytest.approx(few.between_failures / 16)
    assert few.goodput > many.goodput > 0.8
    assert many.interval < few.interval


def test_a_short_run_that_never_saves_is_not_taken_to_lose_more_than_itself() -> None:
    rhythm = Rhythm(steps=100, evaluate_every=10**9, checkpoint_every=10**9, evaluation_share=0.0)
    found = whole_run(1.0, rhythm, 8, 1, 1e9)
    assert found.seconds == pytest.approx(100, rel=0.01)


def test_the_command_answers_without_corpus_ray_or_torch(command: Command) -> None:
    found = answer(command, "--gpu", "cpu")
    assert found["model"]["parameters"] == 4_672_320
    assert found["gpu"]["number"] == 2  # as compute.workers says
    assert any("the corpus is not here" in line for line in found["guesses"])
    code = (
        "import sys; from raypretrain.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'ray') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "plan", str(SMALL)], capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "[]"


def test_the_terminal_shows_the_answer_first(command: Command) -> None:
    status, out, _ = command.run("plan", SMALL, "--gpu", "cpu")
    lines = out.splitlines()
    assert status == 0
    assert "recipe" in lines[0]
    assert any("fits" in line and "yes" in line for line in lines[:6])
    assert "guesses and where figures are from" in out


def test_a_corpus_with_too_few_tokens_is_repeated_and_said_so(command: Command, corpus: Path) -> None:
    found = answer(command, "--gpu", "cpu", "--set", f"corpus.sources.0.path={corpus}/*.jsonl")
    size = sum(path.stat().st_size for path in corpus.iterdir())
    assert found["data"]["corpus_tokens"] == pytest.approx(size / 4, abs=1)
    assert found["data"]["epochs"] == pytest.approx(50_003_968 / found["data"]["corpus_tokens"])
    assert found["law"]["worth_of_the_last_epoch"] < 0.01
    _, out, _ = command.run("plan", SMALL, "--gpu", "cpu", "--set", f"corpus.sources.0.path={corpus}/*.jsonl")
    assert "text is repeated" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--gpu", "h10"), "--gpu: there is no GPU 'h10'; did you mean 'h100'? Or give its figures"),
        (("--gpus", "7"), "--gpus: 7 GPUs do not share the 64 sequences"),
        (("--price", "-1"), "--price: -1 dollars is no price"),
        (("--kwh", "nan"), "--kwh: nan dollars is no price"),
        (("--network", "infiniban"), "--network: there is no network 'infiniban'; did you mean 'infiniband-"),
        (("--deadline", "soon"), "--deadline: 'soon' is no time"),
        (("--deadline", "1min", "--gpu", "cpu"), "--deadline: cannot be kept; the cheapest is "),
        (("--budget", "0"), "--budget: must be greater than 0"),
        (("--gpu", "mine,tflops=100,memory=24,bandwidth=1"), "--price: no price is known of 'mine'"),
    ],
)
def test_bad_input_is_one_line(command: Command, arguments: tuple[str, ...], said: str) -> None:
    assert command.fails("plan", SMALL, *arguments).startswith(said)


PRETRAINING = sorted(path.name for path in JOBS.glob("pretrain-*.yaml"))
FINETUNING = sorted([path.name for path in JOBS.glob("finetune-*.yaml")] + ["search-sentiment.yaml"])


@pytest.mark.parametrize("job", PRETRAINING)
def test_it_answers_for_every_job_of_pretraining(command: Command, job: str) -> None:
    status, out, error = command.run("plan", JOBS / job, "--json")
    assert status == 0, error
    assert json.loads(out)["run"]["gpu_hours"] > 0


@pytest.fixture
def small_base(tmp_path: Path) -> Path:
    from raypretrain.models.config import PRESETS

    shape = replace(PRESETS["llama-3m"], vocabulary=8192, max_length=512)
    (tmp_path / "config.json").write_text(json.dumps(shape.to_huggingface_config()))
    return tmp_path


@pytest.mark.parametrize("job", FINETUNING)
def test_it_answers_for_every_job_of_fine_tuning(command: Command, job: str, small_base: Path) -> None:
    status, out, error = command.run(
        "plan", JOBS / job, "--gpu", "cpu", "--set", f"base.path={small_base}", "--json"
    )
    assert status == 0, error
    found = json.loads(out)
    assert found["run"]["gpu_hours"] > 0
    assert command.run("plan", JOBS / job, "--gpu", "cpu", "--set", f"base.path={small_base}")[0] == 0


def test_more_trials_and_epochs_take_longer_and_a_head_takes_one_pass(
    command: Command, small_base: Path
) -> None:
    def hours(*settings: str) -> float:
        base = f"base.path={small_base}"
        given = [part for setting in (base, "tasks.0.examples=500", *settings) for part in ("--set", setting)]
        _, out, _ = command.run("plan", JOBS / "finetune-sentiment.yaml", "--gpu", "cpu", "--json", *given)
        return float(json.loads(out)["run"]["gpu_hours"])

    full = hours("adapt.way=full", "adapt.epochs=3")
    assert hours("adapt.way=full", "adapt.epochs=6") == pytest.approx(2 * full, rel=0.05)
    assert hours("adapt.way=head", "adapt.epochs=3") == pytest.approx(full / 9, rel=0.05)


def test_a_base_that_is_not_there_is_one_line(command: Command) -> None:
    said = command.fails("plan", JOBS / "finetune-spam.yaml")
    assert said.endswith("pretrain it first, or name another by --set base.path=FOLDER")
    said = command.fails("plan", JOBS / "finetune-spam.yaml", "--budget", "10")
    assert "are for recipes of pretraining" in said
