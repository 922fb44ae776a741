"""What Ray Train runs on each rank: the plain loop, with the touches that make it one of many."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.collective
import torch
from torch import Tensor, nn

from catalog_batch.config import TrainSettings
from catalog_batch.errors import ConfigError, ReconciliationError
from catalog_batch.evaluate.predictions import SPLITS, Predictions, file_name
from catalog_batch.modeling.allocator import keep_freed_memory
from catalog_batch.modeling.augmentation import Augmentation, build_augmentation
from catalog_batch.modeling.freezing import Freezing
from catalog_batch.modeling.heads import head_layers
from catalog_batch.modeling.mixing import Mixing
from catalog_batch.modeling.preprocessing import Preprocessing
from catalog_batch.modeling.probe import Probe
from catalog_batch.modeling.sheet import augmentation_sheet
from catalog_batch.modeling.starting import starting_network
from catalog_batch.modeling.threads import torch_threads
from catalog_batch.train import checkpoints, events
from catalog_batch.train.clock import CheckpointClock
from catalog_batch.train.loop import FitSettings, Hooks, all_layers_train, fit, untold
from catalog_batch.train.losses import balanced_class_weights
from catalog_batch.train.predicting import gathered, predict
from catalog_batch.train.probing import feature_reader, reason_against, reason_by_settings
from catalog_batch.train.ranks import Rank, reduce_sum
from catalog_batch.train.readers import (
    Image,
    ShardReader,
    preprocessing_for,
    scoring_preprocessing_for,
)
from catalog_batch.train.recipe import Recipe, RecipeSettings
from catalog_batch.train.reports import EpochReport, FitState
from catalog_batch.train.snapshot import Snapshot
from catalog_batch.train.telling import Teller
from catalog_batch.train.watchdog import Watchdog

UNSAFE_VARIABLE = "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA"
GOLDEN_IMAGES = 16
SHEET = "augmentation.png"
SHEET_IMAGES = 8


def refuse_pickled_metadata(environment: Mapping[str, str]) -> None:
    """Check that Ray does not unpickle what a Parquet file's schema holds.

    Importing ``ray.train`` registers Ray's Arrow types; with this variable set, reading any file
    that claims such a type would run code from it.

    Raises:
        ConfigError: When the variable is set.
    """
    value = environment.get(UNSAFE_VARIABLE, "0")
    if value != "0":
        raise ConfigError(
            f"{UNSAFE_VARIABLE}={value!r} lets a Parquet file run code in this process. Unset it, "
            "on every node of the cluster, before training."
        )


def train_worker(config: dict[str, Any]) -> None:
    """Train on this rank's share, report every epoch, and leave the evaluated best weights.

    Args:
        config: ``settings`` (TrainSettings), ``snapshot`` (Snapshot), ``run_folder`` (Path, shared
            by all ranks) and ``use_gpu``.

    Raises:
        CatalogBatchError: One of ours when data, settings or row counts are wrong.
    """
    refuse_pickled_metadata(os.environ)
    settings: TrainSettings = config["settings"]
    rank = Rank.current(config["use_gpu"])
    if settings.keep_memory and rank.device.type == "cpu":
        keep_freed_memory()
    with torch_threads(threads_of(settings)):
        _train(settings, rank, config["snapshot"], config["run_folder"])


def threads_of(settings: TrainSettings) -> int:
    """Return how many threads a rank computes with: those it was given, or all cores when alone."""
    is_alone = settings.num_workers == 0
    if is_alone and "cpus_per_worker" not in settings.model_fields_set:
        return len(os.sched_getaffinity(0))
    return max(1, int(settings.cpus_per_worker))


def _train(settings: TrainSettings, rank: Rank, snapshot: Snapshot, run_folder: Path) -> None:
    resume_from = _agree_on_checkpoint(run_folder, rank)
    if resume_from is not None and checkpoints.is_final(resume_from):
        return
    # Without workers this is the process of the job itself, and nobody would start it again.
    minutes = settings.watchdog_minutes if settings.num_workers else 0.0
    with Watchdog(minutes, run_folder, f"Rank {rank.rank} of {rank.world_size}") as dog:
        reader = ShardReader(
            snapshot,
            preprocessing_for(settings),
            settings,
            rank.rank,
            rank.world_size,
            scoring_preprocessing_for(settings),
            pin_memory=rank.device.type == "cuda",
            alive=dog.alive,
        )
        run = _Run(settings, reader, run_folder, rank, resume_from)
        run.fit()
        run.finish()


def _agree_on_checkpoint(run_folder: Path, rank: Rank) -> Path | None:
    name = ""
    if rank.leads:
        newest, damaged = checkpoints.newest_whole(run_folder)
        for folder, problem in damaged.items():
            events.emit(run_folder, "checkpoint_refused", checkpoint=folder, problem=problem)
        if newest is not None:
            name = newest.name
            epoch = checkpoints.read_state(newest).epoch
            events.emit(run_folder, "resumed", checkpoint=name, epoch=epoch)
    name = ray.train.collective.broadcast_from_rank_zero(name)
    return run_folder / name if name else None


class _Run:
    def __init__(
        self,
        settings: TrainSettings,
        reader: ShardReader,
        folder: Path,
        rank: Rank,
        resume_from: Path | None,
    ) -> None:
        self.settings = settings
        self.reader = reader
        self.folder = folder
        self.rank = rank
        self.state = FitState()
        start = settings if resume_from is None else without_weights(settings)
        self.plain = rank.built_in_turn(lambda: _network(start, reader.snapshot))
        self.best = checkpoints.on_cpu(self.plain.state_dict())
        if resume_from is not None:
            self.state = checkpoints.read_state(resume_from)
            self.best = checkpoints.read_weights(resume_from, checkpoints.BEST)
            self.plain.load_state_dict(checkpoints.read_weights(resume_from, checkpoints.MODEL))
            self._begin_anew_on_other_ranks()
        _on_device(self.plain, rank.device)
        self.probe = self._probe()
        trained = self.plain if self.probe is None else self.probe
        self.recipe = _recipe(settings, trained, reader, rank)
        if resume_from is not None:
            self.recipe.restore(checkpoints.read_recipe(resume_from))
        self.freezing = Freezing(
            self.plain, settings.freeze, settings.unfreeze_every, settings.freeze_statistics
        )
        self.wrapped: nn.Module | None = None
        self.clock = CheckpointClock(
            settings.checkpoint_minutes, rank.leads, rank.device, reduce_sum
        )

    def _begin_anew_on_other_ranks(self) -> None:
        """Begin an epoch anew, from the weights it had reached, on another number of ranks."""
        partial = self.state.partial
        if partial is not None and len(partial.totals) != self.rank.world_size:
            self.state.begin_anew()
            if self.rank.leads:
                events.emit(self.folder, "epoch_begun_anew", epoch=self.state.epoch)

    def _probe(self) -> Probe | None:
        """Return what is trained alone, on features; None when the whole network is."""
        if self.settings.freeze != "backbone":
            return None
        reason = reason_by_settings(self.settings) or reason_against(
            self.plain, self.reader, self.settings.features_gib, self.rank.device
        )
        if self.rank.leads:
            events.emit(self.folder, "features", kept=not reason, reason=reason)
        return None if reason else Probe(self.plain)

    def fit(self) -> None:
        """Run the epochs that are left, if any."""
        if not self.state.goes_on(self.settings.epochs, self.settings.patience):
            return
        if self.rank.leads and self.state.epoch == 0:
            self._write_sheet()
            snapshot = self.reader.snapshot
            events.emit(
                self.folder,
                "started",
                table=snapshot.table_uri,
                table_version=snapshot.version,
                sheet=SHEET,
            )
        reader, set_mode = self.reader, self.freezing.set_mode
        network = self.plain
        normalise: Callable[[Tensor], Tensor] = reader.preprocessing.normalise
        if self.probe is not None:
            autocast, device = self.recipe.autocast(), self.rank.device
            reader = feature_reader(reader, network, self.probe, self.folder, device, autocast)
            network, normalise, set_mode = self.probe, Tensor.float, all_layers_train
        seed = self.settings.seed + 1_000_003 * self.rank.rank
        fit(
            network,
            self.recipe,
            reader.training,
            lambda: reader.evaluation("validation"),
            FitSettings(
                num_classes=len(self.reader.snapshot.classes),
                epochs=self.settings.epochs,
                patience=self.settings.patience,
                keep_last=self.settings.keep == "last",
                device=str(self.rank.device),
                rank=self.rank.rank,
                world_size=self.rank.world_size,
                seed=seed,
            ),
            Hooks(
                normalise,
                _augmentation(self.settings, seed, self.reader.preprocessing),
                _mixing(self.settings, seed, len(self.reader.snapshot.classes)),
                set_mode=set_mode,
                in_parallel=self._in_parallel,
                reduce_sum=reduce_sum,
                on_progress=self._teller().tell if self.rank.leads else untold,
                is_due=self.clock.is_due,
            ),
            self.state,
            self._after_epoch,
            self._within_epoch,
        )

    def _teller(self) -> Teller:
        snapshot, settings = self.reader.snapshot, self.settings
        batches = snapshot.steps("train", self.rank.world_size, settings.batch_size)
        rows = snapshot.rows("train")
        return Teller(self.folder, settings.epochs, rows, batches, self.rank.device)

    def _write_sheet(self) -> None:
        """Show what augmentation makes of the first training pictures."""
        pictures = torch.from_numpy(self.reader.first_images("train", SHEET_IMAGES))
        settings, classes = self.settings, len(self.reader.snapshot.classes)
        named = (settings.augmentation, settings.colour_jitter, settings.erasing, settings.mixing)
        title = "augmentation {}, colour jitter {:g}, erasing {:g}, mixing {}".format(*named)
        sheet = augmentation_sheet(
            pictures,
            _augmentation(settings, settings.seed, self.reader.preprocessing),
            title,
            _mixing(settings, settings.seed, classes),
        )
        sheet.save(self.folder / SHEET)

    def _in_parallel(self, network: nn.Module, epoch: int) -> nn.Module:
        """Wrap the network anew when other layers are trained than before."""
        if self.wrapped is None or self.freezing.changes_at(epoch):
            # The old wrapper goes first: it listens for the gradients too.
            self.wrapped = None
            self.wrapped = self.rank.in_parallel(network)
            if self.settings.compile:
                # In place: the names of the weights stay those of the plain network.
                self.wrapped.compile()
        return self.wrapped

    def _after_epoch(self, report: EpochReport, state: FitState) -> None:
        _reconcile(self.reader.snapshot, "train", report.train_rows)
        _reconcile(self.reader.snapshot, "validation", report.validation_rows)
        if report.improved:
            self.best = checkpoints.on_cpu(self._evaluated_weights())
        self._report(asdict(report), self._write_progress, f"{state.epoch:06d}")
        if self.rank.leads:
            events.emit(self.folder, "epoch", **asdict(report))
        self.clock.restart()

    def _within_epoch(self, state: FitState) -> None:
        assert state.partial is not None
        place = {"epoch": state.epoch, "batches": state.partial.batches}
        name = "{epoch:06d}_{batches:08d}".format(**place)
        self._report(place, self._write_progress, name)
        if self.rank.leads:
            events.emit(self.folder, "checkpoint", **place)
        self.clock.restart()

    def _evaluated_weights(self) -> dict[str, Tensor]:
        weights = self.recipe.evaluated.state_dict()
        if self.probe is None:
            return weights
        return {**self.plain.state_dict(), **self.probe.names_in_network(weights)}

    def finish(self) -> None:
        """Predict with the best weights and report them with all that a bundle needs."""
        self.plain.load_state_dict(self.best)
        predictions = [self._predictions(split) for split in SPLITS]
        found = [of_split for of_split in predictions if of_split is not None]
        figures = {of_split.split: _figures(of_split) for of_split in found}

        def write_final(folder: Path) -> None:
            checkpoints.write_weights(folder, checkpoints.BEST, self.best)
            checkpoints.write_json(folder, checkpoints.STATE, self.state.to_json())
            checkpoints.write_json(folder, checkpoints.EVALUATION, figures)
            for of_split in found:
                of_split.save(folder / file_name(of_split.split))
            np.save(folder / checkpoints.GOLDEN, self._golden_images())

        self._report(figures, write_final, f"{self.state.epoch:06d}_final")
        if self.rank.leads:
            events.emit(self.folder, "evaluated", **figures)

    def _write_progress(self, folder: Path) -> None:
        checkpoints.write_weights(folder, checkpoints.MODEL, self.plain.state_dict())
        checkpoints.write_weights(folder, checkpoints.BEST, self.best)
        checkpoints.write_recipe(folder, self.recipe.state())
        checkpoints.write_json(folder, checkpoints.STATE, self.state.to_json())

    def _report(self, metrics: dict[str, Any], write: Callable[[Path], None], name: str) -> None:
        checkpoint = None
        if self.rank.leads:
            folder = checkpoints.write(self.folder, write)
            if self.settings.num_workers == 0:
                # Without workers Ray Train stores no checkpoint, it only remembers its path.
                folder = checkpoints.keep(folder, name)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        # A barrier: Ray copies the leading rank's folder to the run's and drops older ones.
        ray.train.report(
            metrics,
            checkpoint=checkpoint,
            delete_local_checkpoint_after_upload=self.settings.num_workers > 0,
        )

    def _predictions(self, split: str) -> Predictions | None:
        """Predict a split; the leading rank gets the rows of all, the others None."""
        snapshot, image_ids = self.reader.snapshot, list[str]()
        labels, logits = predict(
            self.plain,
            self.reader.evaluation(split, image_ids),
            self.reader.preprocessing.normalise,
            self.rank.device,
            len(snapshot.classes),
        )
        products = snapshot.product_ids(split)
        share = Predictions(
            split=split,
            category_ids=tuple(category for category, _ in snapshot.classes),
            category_paths=tuple(path for _, path in snapshot.classes),
            image_ids=np.array(image_ids, dtype=np.str_),
            product_ids=np.array([products[image_id] for image_id in image_ids], dtype=np.str_),
            labels=labels,
            logits=logits,
        )
        together = gathered(
            share,
            self.folder,
            self.rank.rank,
            self.rank.world_size,
            ray.train.collective.barrier,
        )
        if together is not None:
            _reconcile(snapshot, split, together.rows)
        return together

    def _golden_images(self) -> Image:
        split = "validation" if self.reader.snapshot.rows("validation") else "train"
        return self.reader.for_scoring.first_images(split, GOLDEN_IMAGES)


def _augmentation(settings: TrainSettings, seed: int, preprocessing: Preprocessing) -> Augmentation:
    return build_augmentation(
        settings.augmentation,
        seed,
        settings.colour_jitter,
        settings.erasing,
        preprocessing.mean,
    )


def _mixing(settings: TrainSettings, seed: int, classes: int) -> Mixing | None:
    if settings.mixing == "none":
        return None
    return Mixing(settings.mixing, classes, seed, settings.mixing_alpha)


def _network(settings: TrainSettings, snapshot: Snapshot) -> nn.Module:
    torch.manual_seed(settings.seed)
    return network_for(settings, snapshot)


def network_for(settings: TrainSettings, snapshot: Snapshot) -> nn.Module:
    """Build the network that training starts from, for the classes of a snapshot.

    Raises:
        BadInputError, ModelRefusedError: As ``starting_network``.
    """
    return starting_network(
        settings.architecture,
        [category for category, _ in snapshot.classes],
        settings.weights,
        settings.weights_sha256,
        preprocessing_for(settings).side,
        settings.head,
        snapshot.renamed,
    )


def without_weights(settings: TrainSettings) -> TrainSettings:
    """Return the settings without weights to start from: a checkpoint replaces all of them."""
    # The network's side may come from those weights.
    side = preprocessing_for(settings).side
    return settings.model_copy(update={"weights": "none", "weights_sha256": "", "image_side": side})


def _on_device(network: nn.Module, device: torch.device) -> None:
    # The memory order of the pictures, which tensor cores also ask for; only 4-d weights have it.
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def recipe_settings(settings: TrainSettings) -> RecipeSettings:
    """Return what the recipe needs of the settings."""
    names = {setting.name for setting in fields(RecipeSettings)}
    return RecipeSettings(**settings.model_dump(include=names))


def _recipe(settings: TrainSettings, network: nn.Module, reader: ShardReader, rank: Rank) -> Recipe:
    snapshot = reader.snapshot
    # A probe is a head as a whole.
    layers = ("",) if isinstance(network, Probe) else head_layers(network)
    balanced = settings.class_weights == "balanced"
    return Recipe(
        network,
        recipe_settings(settings),
        snapshot.steps("train", rank.world_size, settings.batch_size),
        rank.device,
        tuple(layer and f"{layer}." for layer in layers),
        balanced_class_weights(snapshot.class_rows) if balanced else None,
    )


def _figures(predictions: Predictions) -> dict[str, float]:
    """Return what is told at once; all other figures follow from the predictions later."""
    accuracy = float(predictions.correct.mean()) if predictions.rows else 0.0
    return {"accuracy": accuracy, "rows": float(predictions.rows)}


def _reconcile(snapshot: Snapshot, split: str, rows: int) -> None:
    if rows != snapshot.rows(split):
        raise ReconciliationError(
            f"All ranks together saw {rows} rows of split {split!r}, and version "
            f"{snapshot.version} of {snapshot.table_uri} has {snapshot.rows(split)}. Nothing is "
            "published. Run again; if it happens again, report it with both numbers."
        )
