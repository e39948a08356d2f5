"""The command line: quick to answer, and a wrong call or recipe is one line and status 2."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import Command
from yardstick import seconds_of_importing_torch

from raypretrain import __version__, cli

pytestmark = pytest.mark.usefixtures("elsewhere")


# ------------------------------------------------------------------------------------------------ quick answers


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["pretrain", "--help"]])
def test_it_answers_at_once_and_without_torch(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['raypretrain', *{arguments!r}]\n"
        "from raypretrain.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print([m for m in ('torch', 'ray', 'numpy') if m in sys.modules], file=sys.stderr)\n"
    )
    took = []
    for _ in range(3):
        begun = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        took.append(time.perf_counter() - begun)
        assert done.stderr == "[]\n"
        assert (
            __version__ in done.stdout
            if arguments == ["--version"]
            else "RECIPE" in done.stdout or ("pretrain" in done.stdout)
        )
    assert min(took) < seconds_of_importing_torch() / 3


def test_as_a_process_it_ends_with_status_2_and_one_line() -> None:
    arguments = [sys.executable, "-m", "raypretrain.cli", "pretrain", "no/such.yaml"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "raypretrain: no/such.yaml: there is no such recipe; give the path of a YAML file\n"
    )


def test_without_a_command_it_shows_its_commands(command: Command) -> None:
    status, out, error = command.run()
    assert status == 2
    for name in ("pretrain", "tokenizer", "export", "sample", "evaluate", "finetune", "search", "demo"):
        assert name in out + error


def test_who_is_interrupted_says_so(monkeypatch: pytest.MonkeyPatch, recipe: Path, command: Command) -> None:
    from raypretrain.training import dryrun

    def interrupted(recipe: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dryrun, "dry_run", interrupted)
    assert command.run("pretrain", recipe, "--dry-run") == (130, "", "raypretrain: interrupted\n")


def test_a_bug_of_ours_shows_its_traceback(monkeypatch: pytest.MonkeyPatch, recipe: Path) -> None:
    from raypretrain.training import dryrun

    def broken(recipe: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(dryrun, "dry_run", broken)
    monkeypatch.setattr(sys, "argv", ["raypretrain", "pretrain", str(recipe), "--dry-run"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


# ------------------------------------------------------------------------------------------------------- usage


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pretrain", "x.yaml", "--dryrun"], ["--dryrun", "see 'raypretrain pretrain --help'"]),
        (["pretrian", "x.yaml"], ["pretrian", "see 'raypretrain --help'"]),
        (["pretrain"], ["RECIPE", "see 'raypretrain pretrain --help'"]),
        (
            ["sample", "model", "--tokens", "many"],
            ["--tokens", "valid integer", "see 'raypretrain sample --help'"],
        ),
        (["sample", "model", "--top-p", "1.5"], ["--top-p", "less than or equal to 1"]),
        (["export", "run"], ["--to", "see 'raypretrain export --help'"]),
        (["tokenizer", "train", "--to", "x.model"], ["'paths'", "see 'raypretrain tokenizer train --help'"]),
    ],
)
def test_a_wrong_call_says_what_is_wrong_and_where_to_look(
    command: Command, arguments: list[str], said: list[str]
) -> None:
    line = command.fails(*arguments)
    for part in said:
        assert part in line


# ------------------------------------------------------------------------------------------------------ recipes


@pytest.mark.parametrize(
    ("line", "number", "said"),
    [
        ("trainig: {steps: 5}", 10, ["unknown key 'trainig'", "did you mean 'training'?"]),
        ("run: {folder: run, sed: 1}", 4, ["unknown key 'run.sed'", "did you mean 'seed'?"]),
        ("training: {steps: five}", 8, ["training.steps", "'five' is not a count"]),
        ("training: {global_batch: [12]}", 8, ["training.global_batch", "valid integer"]),
        ("model: {preset: llama-1m, width: 30, heads: 4}", 7, ["model: 4 heads do not divide the width 30"]),
        ("model: {preset: lama-1m}", 7, ["model.preset", "no preset 'lama-1m'", "did you mean 'llama-1m'?"]),
        ("training: {steps: 5, tokens: 5M}", 8, ["training.tokens or training.steps, not both"]),
    ],
)
def test_a_wrong_recipe_is_named_with_its_line(
    command: Command, recipe: Path, line: str, number: int, said: list[str]
) -> None:
    text = recipe.read_text()
    key = line.partition(":")[0] + ":"
    lines = [line if old.startswith(key) else old for old in text.splitlines()]
    if line not in lines:
        lines.append(line)
    recipe.write_text("\n".join(lines) + "\n")
    message = command.fails("pretrain", recipe, "--dry-run")
    assert message.startswith(f"{recipe}:{number}: ")
    for part in said:
        assert part in message


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.learning_rat=1", "--set training.learning_rat: unknown key 'training.learning_rat'"),
        ("training.steps", "'training.steps' is not an override; write --set a.b=c"),
        ("compute.workers=5", "12 sequences cannot be shared equally by compute.workers: 5"),
    ],
)
def test_a_wrong_override_is_named(command: Command, recipe: Path, override: str, said: str) -> None:
    assert said in command.fails("pretrain", recipe, "--dry-run", "--set", override)


def test_more_workers_than_the_machine_has_cpus_for_are_refused(
    command: Command, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    said = command.fails("pretrain", recipe, "--dry-run", "--set", "compute.workers=12")
    assert said.startswith("compute.workers: 12 workers of 0.25 CPUs")
    assert "the cluster has 2" in said


def test_a_dry_run_as_json_is_json_and_nothing_else(
    command: Command, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    status, out, error = command.run("pretrain", recipe, "--dry-run", "--json")
    assert (status, error) == (0, "")
    assert json.loads(out)["training"]["steps"] == 5
    status, out, _ = command.run("pretrain", recipe, "--dry-run")
    assert status == 0
    assert "5 steps of 768 tokens" in out


def test_with_json_what_others_print_goes_to_stderr(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray tells on stdout that a node is lost."""
    from raypretrain.training import listing

    def noisy(*arguments: object) -> list[dict[str, object]]:
        print("(raylet) The node with node id 1234 has been marked dead.")
        return [{"step": 3}]

    monkeypatch.setattr(listing, "list_checkpoints", noisy)
    status, out, error = command.run("checkpoints", "runs/it", "--json")
    assert (status, json.loads(out)) == (0, [{"step": 3}])
    assert "marked dead" in error


def test_with_json_nothing_is_printed_after_it_when_the_process_ends() -> None:
    code = (
        "import atexit, sys\n"
        "from raypretrain import cli\n"
        "from raypretrain.training import listing\n"
        "def noisy(*arguments):\n"
        "    atexit.register(lambda: print('(raylet) held back'))\n"
        "    return [{'step': 3}]\n"
        "listing.list_checkpoints = noisy\n"
        "sys.argv = ['raypretrain', 'checkpoints', 'runs/it', '--json']\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [{"step": 3}]
    assert done.stderr == "(raylet) held back\n"
