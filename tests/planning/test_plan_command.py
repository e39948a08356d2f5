"""The whole answer, and ``raypretrain plan`` with its bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
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


def test_a_corpus_that_its_epochs_end_before_the_run_is_refused(command: Command, corpus: Path) -> None:
    size = sum(path.stat().st_size for path in corpus.iterdir())
    own = ("--gpu", "cpu", "--set", f"corpus.sources.0.path={corpus}/*.jsonl")
    status, out, error = command.run("plan", SMALL, *own, "--set", "corpus.sources.0.epochs=2")
    assert (status, out) == (2, "")
    assert error.startswith("raypretrain: corpus.sources: the corpus is too short: ")
    assert f"{size:,} bytes" in error
    assert "the run has 50,003,968; train on fewer tokens, allow more epochs, or add text" in error
    assert error.count("\n") == 1
    enough = 50_003_968 / (size / 2)
    for epochs, wanted in ((enough * 0.9, 2), (enough * 1.2, 0)):  # some of it is held out
        status, _, error = command.run("plan", SMALL, *own, "--set", f"corpus.sources.0.epochs={epochs}")
        assert status == wanted, error


def test_a_token_of_bytes_is_a_byte(command: Command, corpus: Path) -> None:
    own = ("--gpu", "cpu", "--set", f"corpus.sources.0.path={corpus}/*.jsonl")
    found = answer(command, *own, "--set", "tokenizer.kind=bytes", "--set", "tokenizer.vocabulary=262")
    assert found["data"]["corpus_tokens"] == sum(path.stat().st_size for path in corpus.iterdir())
    assert not any("bytes a token" in line for line in found["guesses"])


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


@pytest.mark.parametrize("job", sorted(JOBS.glob("*.yaml")), ids=lambda path: path.stem)
def test_it_answers_for_every_job_also_where_its_base_and_its_data_are_not_there(
    command: Command, job: Path
) -> None:
    values = yaml.safe_load(job.read_text(encoding="utf-8"))
    base = ("--base", "llama-3m") if "base" in values or "from" in values.get("model", {}) else ()
    if base:
        assert "there is no such file" in command.fails("plan", job)
    assert command.run("plan", job, *base)[0] == 0
    status, out, error = command.run("plan", job, "--json", *base)
    assert (status, error) == (0, "")
    found = json.loads(out)
    assert found["run"]["gpu_hours"] > 0
    assert found["memory"]["fits"]
    assert found["money"]["total"] > 0
    assert (found.get("search") or found.get("trials")) or ("tasks" not in values and "search" not in values)


@pytest.fixture
def small_base(tmp_path: Path) -> Path:
    from raypretrain.models.config import PRESETS

    shape = replace(PRESETS["llama-3m"], vocabulary=8192, max_length=512)
    (tmp_path / "config.json").write_text(json.dumps(shape.to_huggingface_config()))
    return tmp_path


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
    assert said.endswith("--set base.path=FOLDER, or a preset of its size by --base")
    said = command.fails("plan", JOBS / "finetune-spam.yaml", "--base", "lama-3m")
    assert said == "--base: preset: there is no preset 'lama-3m'; did you mean 'llama-3m'?"


@pytest.mark.parametrize("job", ["finetune-spam.yaml", "search-pretraining.yaml"])
def test_what_is_for_a_single_run_is_refused_for_others(command: Command, job: str) -> None:
    assert "are for recipes of pretraining" in command.fails("plan", JOBS / job, "--budget", "10")


def test_trials_side_by_side_take_no_less_than_the_longest(command: Command) -> None:
    def planned(*arguments: object) -> dict[str, Any]:
        job = ("plan", JOBS / "search-sentiment.yaml", "--gpu", "cpu", "--base", "llama-3m", "--json")
        found: dict[str, Any] = json.loads(command.run(*job, *arguments)[1])
        return found

    one, two, many = planned(), planned("--gpus", 2), planned("--gpus", 1000)
    assert one["trials"]["number"] == 24
    assert one["trials"]["mean_hours"] * 24 == pytest.approx(one["run"]["hours"])
    assert two["run"]["hours"] == pytest.approx(one["run"]["hours"] / 2)
    assert many["run"]["hours"] == pytest.approx(one["trials"]["longest_hours"])
    assert many["run"]["gpu_hours"] == pytest.approx(one["run"]["gpu_hours"])


def test_where_a_trial_does_not_fit_a_key_of_fine_tuning_is_named(command: Command) -> None:
    def advice(preset: str, *settings: str) -> str | None:
        given = [part for setting in settings for part in ("--set", setting)]
        job = ("plan", JOBS / "finetune-protein.yaml", "--base", preset, *given)
        found = json.loads(command.run(*job, "--json")[1])
        assert (found["run"] is None) == (not found["memory"]["fits"])
        assert command.run(*job)[0] == 0
        said: str | None = found["memory"]["change_first"]
        return said

    assert advice("llama-1b") is None
    assert advice("llama-8b", "adapt.batch=1") == "adapt.way: lora"
    assert advice("llama-8b", "adapt.way=lora", "adapt.batch=1") is None
    assert advice("llama-405b") == "another GPU, or a smaller base model"
    shared = ("llama-8b", "compute.workers_per_trial=4")
    assert advice(*shared) is None
    assert advice(*shared, "compute.precision=fp32") == "compute.zero: 3"
    assert advice("llama-8b", "compute.workers_per_trial=4", "compute.zero=3") is None
