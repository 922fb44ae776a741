"""A run's checkpoints: a folder of files with their hashes, believed only when these match.

A worker or the machine may die while a checkpoint is copied, and a disk may damage one later. So
a resume takes the newest checkpoint that is whole, and says which ones it passed over.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from catalog_batch.errors import CatalogBatchError
from catalog_batch.train.recipe import RecipeState
from catalog_batch.train.reports import FitState

MANIFEST = "manifest.json"
STATE = "state.json"
MODEL = "model.safetensors"
BEST = "best.safetensors"
OPTIMIZER = "optimizer.safetensors"
AVERAGED = "averaged.safetensors"
RECIPE = "recipe.json"
EVALUATION = "evaluation.json"
GOLDEN = "golden.npy"

KEPT = 2
"""Checkpoints of a run that stay: the newest, and one to fall back to."""

UNFINISHED = ".writing-"

RAY_NOTES = "checkpoint_manager_snapshot.json"
"""Ray's list of the checkpoints that it keeps: it refuses to start when one of them is gone."""

Weights = Mapping[str, Tensor]


def on_cpu(weights: Weights) -> dict[str, Tensor]:
    """Copy weights into memory that later steps do not change."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights.items()}


def write_weights(folder: Path, name: str, weights: Weights) -> None:
    """Write weights as safetensors."""
    save_file(
        {key: tensor.detach().cpu().contiguous() for key, tensor in weights.items()}, folder / name
    )


def read_weights(folder: Path, name: str) -> dict[str, Tensor]:
    """Read weights that ``write_weights`` wrote."""
    return load_file(folder / name)


def write_optimizer(folder: Path, state: Mapping[int, Weights]) -> None:
    """Write what an optimiser holds of each parameter, by its place, as safetensors."""
    tensors = {
        f"{parameter}.{name}": tensor
        for parameter, values in state.items()
        for name, tensor in values.items()
        if tensor is not None
    }
    write_weights(folder, OPTIMIZER, tensors)


def read_optimizer(folder: Path) -> dict[int, dict[str, Tensor]]:
    """Read what ``write_optimizer`` wrote; no pickle is involved."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in read_weights(folder, OPTIMIZER).items():
        parameter, _, name = key.partition(".")
        state.setdefault(int(parameter), {})[name] = tensor
    return state


def write_recipe(folder: Path, state: RecipeState) -> None:
    """Write a recipe's state: the optimiser's, the averaged weights, and the rest as JSON."""
    write_optimizer(folder, state.optimizer)
    write_weights(folder, AVERAGED, state.averaged)
    counts = {"scaler": dict(state.scaler), "averaged_steps": state.averaged_steps}
    write_json(folder, RECIPE, counts)


def read_recipe(folder: Path) -> RecipeState:
    """Read a state that ``write_recipe`` wrote."""
    optimizer, averaged = read_optimizer(folder), read_weights(folder, AVERAGED)
    return RecipeState(optimizer, averaged=averaged, **read_json(folder, RECIPE))


def write_json(folder: Path, name: str, value: Mapping[str, Any]) -> None:
    """Write a JSON file, as ``write_atomically`` does."""
    write_atomically(folder / name, json.dumps(value, indent=1))


def write_atomically(path: Path, contents: str) -> None:
    """Write a text file in one step: a run that is killed leaves the old one or the new one."""
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    unfinished.write_text(contents, encoding="utf-8")
    os.replace(unfinished, path)


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Read a JSON file that holds an object."""
    return dict(json.loads((folder / name).read_text(encoding="utf-8")))


def read_state(folder: Path) -> FitState:
    """Read how far the run had come."""
    return FitState.from_json(read_json(folder, STATE))


def is_final(folder: Path) -> bool:
    """Tell whether a checkpoint is a run's last: the evaluated best weights."""
    return (folder / EVALUATION).is_file()


def _seal(folder: Path) -> None:
    """Write the hashes of all files; nothing may be added afterwards."""
    write_json(folder, MANIFEST, {path.name: _sha256(path) for path in sorted(folder.iterdir())})


def damage(folder: Path) -> str:
    """Say what is wrong with a checkpoint; an empty text when it is whole."""
    try:
        hashes = read_json(folder, MANIFEST)
        if STATE not in hashes:
            return f"{MANIFEST} does not name {STATE}"
        changed = [name for name, digest in hashes.items() if _sha256(folder / name) != digest]
    except (OSError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return f"changed files {changed}" if changed else ""


def newest_whole(run_folder: Path) -> tuple[Path | None, dict[str, str]]:
    """Find the checkpoint to go on from.

    Returns:
        The whole checkpoint that came furthest, None when there is none; and what is wrong with
        each of the others, by folder name.
    """
    found = {path: damage(path) for path in _checkpoints(run_folder)}
    whole = [path for path, problem in found.items() if not problem]
    damaged = {path.name: problem for path, problem in found.items() if problem}
    return max(whole, key=_progress, default=None), damaged


def _progress(folder: Path) -> tuple[bool, int, int]:
    state = read_state(folder)
    # Rows, for a batch is another share of the epoch on another number of ranks.
    return is_final(folder), state.epoch, state.rows_of_epoch


def forget_earlier_start(run_folder: Path) -> None:
    """Let Ray start without its notes, and delete whole checkpoints but the best and the youngest.

    What to go on from is chosen here and not by Ray, whose notes may name a checkpoint that was
    deleted since, by hand or by a start without workers. Without them it leaves alone what it
    wrote before. Damaged checkpoints stay until a rank has told of them.
    """
    (run_folder / RAY_NOTES).unlink(missing_ok=True)
    newest, damaged = newest_whole(run_folder)
    others = [path for path in _by_age(run_folder) if path != newest and path.name not in damaged]
    for path in others[: 1 - KEPT]:
        shutil.rmtree(path)


def write(run_folder: Path, fill: Callable[[Path], None]) -> Path:
    """Write a checkpoint and the hashes of its files in a folder of its own, not yet in its place.

    Args:
        run_folder: Of the run.
        fill: Writes the files in the folder that it is given.

    Raises:
        CatalogBatchError: When a file cannot be written, as on a full disk; nothing is left of it.
    """
    folder = _begin(run_folder)
    try:
        fill(folder)
        _seal(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(folder, ignore_errors=True)  # so that it does not keep the disk full
        raise CatalogBatchError(
            f"A checkpoint cannot be written in {str(run_folder)!r} ({error}). Free some space "
            f"there, and run again with --run-name {run_folder.name} to go on from the last one."
        ) from error
    return folder


def _begin(run_folder: Path) -> Path:
    """Make an empty folder to write a checkpoint in, removing what a killed run left."""
    for left_over in run_folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(left_over)
    return Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=run_folder))


def keep(folder: Path, name: str) -> Path:
    """Move a written checkpoint to its place in one step, and delete all but it and the last."""
    kept = folder.parent / f"checkpoint_{name}"
    shutil.rmtree(kept, ignore_errors=True)
    folder.rename(kept)
    # It is not the youngest where the clock was set back meanwhile.
    others = [path for path in _by_age(folder.parent) if path != kept]
    for path in others[: 1 - KEPT]:
        shutil.rmtree(path)
    return kept


def _by_age(run_folder: Path) -> list[Path]:
    # Not by name: Ray names the ones that it keeps in another way.
    return sorted(_checkpoints(run_folder), key=lambda path: path.stat().st_mtime_ns)


def _checkpoints(run_folder: Path) -> list[Path]:
    # Ray keeps its own notes beside them, in a file of such a name.
    return sorted(path for path in run_folder.glob("checkpoint_*") if path.is_dir())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
