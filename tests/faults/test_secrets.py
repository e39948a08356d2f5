"""Row 24: a secret in a recipe or in the environment is in nothing that a run writes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_table import Account
from runs import run, write_recipe
from s3_server import S3Server
from striking import ended, start_command

from raypretrain.config import load_recipe
from raypretrain.errors import RecipeError
from raypretrain.finetuning.recipe import FinetuneRecipe
from raypretrain.training.recipe import PretrainRecipe

pytestmark = pytest.mark.faults

SECRET = "pa55-w0rd/of+mine"


@pytest.mark.row(24, "a secret in a recipe's URL")
@pytest.mark.parametrize(
    "override",
    [
        f"corpus.sources.0.path=s3://AKIAKEY:{SECRET}@corpus/text/*.jsonl",
        f"corpus.sources.0.endpoint_url=http://user:{SECRET}@127.0.0.1:9000",
        f"corpus.sources.0.endpoint_url=https://{SECRET.replace('/', '')}@store.example",
        f"corpus.tokenized=s3://AKIAKEY:{SECRET}@corpus/copy",
        f"corpus.tokenized_endpoint_url=http://:{SECRET}@127.0.0.1:9000",
    ],
)
def test_a_recipe_with_a_password_in_a_url_is_refused_without_showing_it(
    corpus: Path, tmp_path: Path, account: Account, override: str
) -> None:
    account(how="s3://KEY:SECRET@…, http://USER:SECRET@…", lost="refused before anything is written")
    recipe, folder = write_recipe(tmp_path, corpus), tmp_path / "run"
    with pytest.raises(RecipeError) as by_override:
        run(recipe, folder, override)
    key, _, value = override.partition("=")
    recipe.write_text(recipe.read_text().replace(f"{corpus}/*.jsonl", "s3://k:" + value.partition("://")[2]))
    with pytest.raises(RecipeError) as in_the_file:
        run(recipe, folder)
    for error, where in (
        (by_override, f"--set {key}: "),
        (in_the_file, f"{recipe}:3: corpus.sources.0.path: "),
    ):
        assert str(error.value).startswith(f"{where}a URL with a password in it")
        assert SECRET not in str(error.value)
        assert value.rpartition("//")[2] not in str(error.value)
    assert not folder.exists()


@pytest.mark.row(24, "a secret in a recipe's URL")
def test_fine_tuning_refuses_it_as_well_and_what_only_looks_like_it_is_read(
    tmp_path: Path, corpus: Path
) -> None:
    recipe = tmp_path / "tune.yaml"
    recipe.write_text(
        f"base: {{path: x}}\ntasks:\n  - {{name: a, train: {{path: 's3://k:{SECRET}@bucket/train.csv'}}}}\n"
    )
    with pytest.raises(
        RecipeError, match=r"tune\.yaml:3: tasks\.0\.train\.path: a URL with a password"
    ) as error:
        load_recipe(recipe, FinetuneRecipe)
    assert SECRET not in str(error.value)
    for path in ("s3://bucket/mail:me@home.jsonl", "abfss://box@account.dfs.core.windows.net/x", "/a:b@c/x"):
        given = [f"corpus.sources.0.path={path}", f"run.folder={tmp_path / 'run'}"]
        loaded = load_recipe(write_recipe(tmp_path, corpus), PretrainRecipe, given)
        assert loaded.corpus.sources[0].path == path


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """For Ray's logs; its path has to be short, since sockets lie below it."""
    folder = Path(tempfile.mkdtemp(prefix="rp-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def files_with(needles: dict[str, str], *folders: Path) -> tuple[list[str], int]:
    """Which files hold a secret, and how many were looked into."""
    found, looked = [], 0
    for path in (p for folder in folders for p in folder.rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        looked += 1
        data = path.read_bytes()
        found += [f"{path}: {name}" for name, needle in needles.items() if needle.encode() in data]
    return found, looked


@pytest.mark.row(24, "secrets in the environment of a run")
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_no_file_of_a_run_and_no_log_of_ray_holds_a_secret_of_the_environment(
    corpus: Path, s3: S3Server, tmp_path: Path, ray_folder: Path, account: Account
) -> None:
    for shard in sorted(corpus.iterdir()):
        s3.put(f"secrets/{shard.name}", shard.read_bytes())
    secrets = {
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,  # it is used: the corpus is read with it
        "HF_TOKEN": "hf_9d8f7a6s5d4f3",
        "WANDB_API_KEY": "5f4e3d2c1b0a9f8e7d6c",
        "DATABASE_PASSWORD": "pa55-w0rd-of-mine",
    }
    nobody = dict.fromkeys(("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"), "/nonexistent")
    environment = {**s3.environment, **secrets, **nobody, "RAY_ADDRESS": "", "RAY_TMPDIR": str(ray_folder)}
    folder = tmp_path / "run"
    source = [
        "corpus.sources.0.path=s3://corpus/secrets/*.jsonl",
        f"corpus.sources.0.endpoint_url={s3.endpoint_url}",
    ]
    recipe = write_recipe(tmp_path / "recipe", corpus, steps=12)
    process = start_command(recipe, folder, *source, **environment)
    try:
        said = ended(process)
    finally:
        process.kill()
    nowhere = {**environment, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    wrong = start_command(recipe, tmp_path / "wrong", *source[:1], **nowhere)
    out, error = wrong.communicate(timeout=100)
    assert wrong.returncode == 2, error
    (tmp_path / "said.txt").write_text(f"{said} {out} {error}")
    found, looked = files_with(secrets, tmp_path, ray_folder)
    account(how="AWS keys that are used, and others", lost=f"in none of {looked} files")
    assert list(ray_folder.rglob("*.out")), "Ray's logs are somewhere else"
    assert looked > 50
    assert not found
