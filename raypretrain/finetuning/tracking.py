"""Where the numbers of trials go beside their own files: TensorBoard, MLflow, Weights & Biases."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from raypretrain.errors import RecipeError

if TYPE_CHECKING:
    from ray.tune.experiment import Trial


def check_trackers(names: Sequence[str]) -> None:
    """Refuse one whose library is not installed.

    Raises:
        RecipeError: with what to install.
    """
    for name in names:
        library = {"tensorboard": "tensorboardX"}.get(name, name)
        if find_spec(library) is None:
            raise RecipeError(
                f"search.track: the library {library} is not installed", fix=f"pip install {library}"
            )


def trackers(names: Sequence[str], folder: Path) -> list[tune.Callback]:
    """What Tune tells the numbers of every epoch to.

    MLflow goes by ``MLFLOW_TRACKING_URI`` and, without it, to ``RUN/mlruns``; W&B by its own settings.
    """
    made: list[tune.Callback] = []
    for name in dict.fromkeys(names):
        if name == "tensorboard":
            made.append(_TensorBoard(folder / "tensorboard"))
        elif name == "mlflow":
            made.append(_mlflow(folder))
        else:
            from ray.air.integrations.wandb import WandbLoggerCallback

            made.append(WandbLoggerCallback(project=folder.name))
    return made


def _mlflow(folder: Path) -> tune.Callback:
    import os

    from ray.air.integrations.mlflow import MLflowLoggerCallback

    to = os.environ.get("MLFLOW_TRACKING_URI") or (folder / "mlruns").resolve().as_uri()
    return MLflowLoggerCallback(tracking_uri=to, experiment_name=folder.name, save_artifact=False)


class _TensorBoard(tune.Callback):
    """A folder of events for each trial, by its name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_folder": self._folder, "_writers": {}}

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        from tensorboardX import SummaryWriter

        name = trial.config["trial"]
        if name not in self._writers:
            self._writers[name] = SummaryWriter(str(self._folder / name))
        for key, value in result.items():
            if key == "train_loss" or key.startswith("validation_"):
                self._writers[name].add_scalar(key, value, result["epoch"])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._close(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._close(trial)

    def _close(self, trial: Trial) -> None:
        if writer := self._writers.pop(trial.config["trial"], None):
            writer.close()
