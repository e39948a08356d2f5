"""From Hugging Face's layout: ``config.json`` and safetensors, by renaming.

Nothing here needs ``transformers``, and nothing is unpickled: a folder with pickled weights only is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from raypretrain.errors import InputError
from raypretrain.models.config import read_json_object, read_shape
from raypretrain.models.families import build
from raypretrain.models.files import INDEX, weight_files
from raypretrain.models.layout import LEFT_OUT, NAMES, check_state, expected_shapes, from_huggingface
from raypretrain.models.shape import ModelShape


@dataclass(frozen=True)
class Loaded:
    """A model's weights, by our names, on the CPU, in the file's dtype.

    Args:
        left_out: what the folder has beside them, by its own names.
        drawn: the weights that it had not, and that were drawn.
    """

    shape: ModelShape
    state: dict[str, Tensor]
    left_out: list[str] = field(default_factory=list)
    drawn: list[str] = field(default_factory=list)


def load_base(folder: str | Path) -> tuple[ModelShape, dict[str, Tensor]]:
    """Read a model of any family from a folder in Hugging Face's layout.

    Returns:
        Its shape, and its state dict under the names of the network that ``families.build`` makes of it, on the
        CPU, in the file's dtype.

    Raises:
        InputError: no such folder, broken JSON or safetensors, pickled weights only, or weights that do not
            fit the config.
    """
    loaded = _read(Path(folder))
    check_state(loaded.state, loaded.shape, where=str(folder))
    return loaded.shape, loaded.state


def load_completed(folder: str | Path, seed: int) -> Loaded:
    """As :func:`load_base`; where a model was saved without its output, as encoders are, that is drawn.

    Args:
        seed: of the weights that are drawn.

    Raises:
        InputError: as of :func:`load_base`.
    """
    loaded = _read(Path(folder))
    missing = expected_shapes(loaded.shape).keys() - loaded.state.keys()
    if missing and missing == set(NAMES[loaded.shape.family].head):
        network = build(loaded.shape)
        network.init_weights(seed)
        dtype = next(iter(loaded.state.values())).dtype
        drawn = {name: weight.to(dtype) for name, weight in network.state_dict().items() if name in missing}
        loaded = replace(loaded, state=loaded.state | drawn, drawn=sorted(drawn))
    check_state(loaded.state, loaded.shape, where=str(folder))
    return loaded


def _read(folder: Path) -> Loaded:
    shape = read_shape(
        read_json_object(folder / "config.json", "give the folder of a model that has one"),
        str(folder / "config.json"),
    )
    loaded = Loaded(shape, {})
    for path in weight_paths(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  (no mapping)
                    _add(loaded, name, file.get_tensor(name))
        except FileNotFoundError:
            raise InputError("the index names this file, but it is not there", where=str(path)) from None
        except (SafetensorError, OSError) as error:
            raise InputError(f"is no whole safetensors file ({error})", where=str(path)) from None
    return loaded


def _add(loaded: Loaded, name: str, weight: Tensor) -> None:
    """Put a weight among the others under our name; under its own if we know none, for the error message."""
    try:
        found = from_huggingface(name, weight, loaded.shape)
    except KeyError:
        found = name, weight
    if found is None:
        return
    if found[0] == LEFT_OUT:
        loaded.left_out.append(name)
    else:
        loaded.state[found[0]] = found[1]


def weight_paths(folder: Path) -> list[Path]:
    """The safetensors files of a model's folder.

    Raises:
        InputError: it has none, or pickled weights only.
    """
    names = [path.name for path in folder.iterdir()]
    return [
        folder / file for file in weight_files(names, str(folder), lambda: read_json_object(folder / INDEX))
    ]
