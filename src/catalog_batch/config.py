"""Every setting, with its unit, default, bounds and what it trades.

Values come from, later over earlier: the defaults below, ``conf/base.toml``,
``conf/<profile>.toml``, the file of ``--config``, ``CATALOG_BATCH__SECTION__KEY`` in the
environment, and ``--set section.key=value``.
"""

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from catalog_batch.errors import ConfigError

ENVIRONMENT_PREFIX = "CATALOG_BATCH__"


def _split_at_commas(value: Any) -> Any:
    """Split a text, which is what the command line and the environment give, into a list."""
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        # An infinite number has no place in TOML, in which settings come and go.
        allow_inf_nan=False,
        # What ``catalog-batch settings`` shows.
        use_attribute_docstrings=True,
    )


class SparkSettings(_Section):
    """The Spark session. ``spark-submit`` and its properties file win over all of these."""

    master: str = "local[*,4]"
    """Spark master URL; ``local[*,4]`` tries a task four times, plain ``local[*]`` only once."""

    driver_memory: str = "3g"
    """Heap of the driver (in local mode: of everything). More helps wide joins, not images."""

    java_options: str = (
        "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m -XX:+UseSerialGC"
        " -XX:MetaspaceSize=256m -XX:NewRatio=1 -XX:InitialRAMPercentage=6"
    )
    """Of a local driver's JVM: Python does the heavy work, and the optimising compiler would take
    more time from its cores than it gives back; a heap that is small at first is collected a
    hundred times while a small night runs. Empty for long JVM-bound work."""

    compile_queries: bool = False
    """Whether a session of our own compiles each query to bytecode, and plans it again while it
    runs. On a cold JVM that takes a third of a small night's time; it pays once a table has more
    than millions of rows."""

    shuffle_partitions: int = Field(default=4, ge=1)
    """Tasks after a shuffle. Images never shuffle in ingest, so a few per core are enough."""

    arrow_batch_rows: int = Field(default=64, ge=1, le=10_000)
    """Rows handed to a Python worker at once: 64 images of 1 MB are 64 MB."""


class IngestSettings(_Section):
    """Reading, checking and storing product images."""

    stored_side: int = Field(default=256, ge=32, le=4096)
    """Short side in pixels of a stored image; smaller ones are kept, never enlarged."""

    jpeg_quality: int = Field(default=90, ge=50, le=100)
    """Quality of the stored JPEG: 90 is about 20 KB at 256 px; lower saves space, costs detail."""

    max_source_bytes: int = Field(default=50_000_000, ge=1)
    """Files above this many bytes are rejected as ``too_large`` before they are read."""

    max_pixels: int = Field(default=25_000_000, ge=1)
    """Width times height above which a header is refused as ``too_many_pixels`` (decode bombs)."""

    max_side: int = Field(default=16_384, ge=1)
    """Longest side in pixels, whatever the product of the two."""

    min_side: int = Field(default=16, ge=1)
    """Shortest side in pixels; below it an image is ``too_small`` to tell a product by."""

    jpeg_subsampling: Literal["4:4:4", "4:2:2", "4:2:0"] = "4:2:0"
    """Colour resolution of the stored JPEG: 4:2:0 is the smallest, 4:4:4 keeps thin red lines."""

    rows_per_task: int = Field(default=1000, ge=1)
    """Images a task decodes: fewer lose less to a retry, more cost less to start."""

    tasks_per_core: int = Field(default=4, ge=1)
    """Tasks that a small night is cut into for each core: no core waits long for the last one, and
    progress shows between them."""

    bytes_per_task: int = Field(default=2_000_000_000, ge=1)
    """Source bytes a task decodes, when that is reached before ``rows_per_task``."""

    reads_in_flight: int = Field(default=8, ge=1, le=256)
    """Files a task looks up or reads at once: more hide the delay of an object store."""

    read_ahead_bytes: int = Field(default=64_000_000, ge=1)
    """Bytes a task reads ahead of the decoder; one larger image alone is still read."""

    batch_images: int = Field(default=32, ge=1, le=4096)
    """Images handed to the decoding process at once: more save hand-overs, fewer are done again
    after a crash."""

    image_cpu_seconds: int = Field(default=5, ge=1)
    """CPU time an image may take; then its process is killed and the image is ``timed_out``."""

    batch_wall_seconds: float = Field(default=120, gt=0)
    """Wall time a batch may take, slow storage included, before its process is killed."""

    decoder_memory_mib: int = Field(default=1024, ge=128)
    """Memory the decoding process may take on top of what it starts with; an image that needs more
    is ``out_of_memory``."""

    near_duplicate_distance: int = Field(default=4, ge=0, le=12)
    """Bits of 64 in which the perceptual hashes of near duplicates may differ: 0 finds re-encoded
    copies, 4 also crops and watermarks, above 8 different products look alike. Images that are
    grouped already are not compared again when this changes."""

    max_rejected_share: float = Field(default=0.25, ge=0, le=1)
    """Share of a manifest's rows that may be rejected; above it nothing is published (exit 30)."""

    max_delisted_share: float = Field(default=0.2, ge=0, le=1)
    """Share of the listed products, or of their images, that one full manifest may delist; above it
    nothing is published (exit 30): the manifest may have been cut short."""


class TrainingSetSettings(_Section):
    """Joining labels with images into one table version that training pins."""

    test_share: float = Field(default=0.15, ge=0, lt=1)
    """Share of products held out for the final figure."""

    validation_share: float = Field(default=0.15, ge=0, lt=1)
    """Share of products that early stopping and thresholds are fitted on."""

    seed: int = Field(default=17, ge=0)
    """Of the split and the shuffled order: the same seed gives the same table."""

    row_group_kib: int = Field(default=256, ge=16)
    """Size of a Parquet row group: the unit that is dealt to training workers and shuffled."""

    rows_per_file: int = Field(default=50_000, ge=1)
    """Most rows in one data file."""

    @model_validator(mode="after")
    def _leave_rows_to_train_on(self) -> Self:
        if self.test_share + self.validation_share >= 1:
            raise ValueError("test_share and validation_share leave nothing to train on")
        return self


class TrainSettings(_Section):
    """Fine-tuning a classifier over Ray workers."""

    model_name: str = Field(default="catalogue", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    """Name the model is registered under."""

    architecture: str = "resnet18"
    """Any torchvision classifier by name: resnet18, vgg16, inception_v3, mobilenet_v2, ..."""

    weights: str = "imagenet"
    """``imagenet`` (torchvision downloads them), ``none``, the path of a state_dict file, or the
    folder of a model bundle, whose architecture and head must be these, and of whose classes the
    known ones keep what they learnt."""

    weights_sha256: str = Field(default="", pattern=r"^[0-9a-fA-F]{0,64}$")
    """Checksum that a weights file, or digest that a bundle, must have; empty accepts any."""

    image_side: int = Field(default=0, ge=0, le=1024)
    """Side in pixels of the square a network sees; 0 takes that at which the bundle whose weights
    are gone on with is scored, else the architecture's own (224, 299)."""

    test_image_side: int = Field(default=0, ge=0, le=1024)
    """Side of the square in validation, test and scoring; 0 takes that of training. ``crop`` shows
    things larger than they will be: a fourth more, 288 for 224, often makes up for it."""

    head: Literal["linear", "article"] = "linear"
    """What gives the classes: ``linear`` replaces the last layer; ``article`` puts flatten, dense
    512, ReLU and dropout 0.5 before it."""

    freeze: str = "none"
    """What is not trained: ``none``, ``backbone`` (all but the head), or the name of the last layer
    that stays as it is, such as ``layer3``. Frozen batch norms keep their statistics."""

    unfreeze_every: int = Field(default=0, ge=0)
    """Epochs after which one more frozen block is trained, from the head down; 0 never. Fewer than
    ``patience``, or a run may stop before."""

    backbone_rate: float = Field(default=1.0, gt=0, le=1)
    """Learning rate of all but the head, as a share of ``learning_rate``: a tenth is usual."""

    freeze_statistics: bool = False
    """Whether all batch norms keep the statistics of the weights that training starts from."""

    augmentation: Literal["article", "trivial", "rand", "crop", "none"] = "article"
    """``article``: rotation 20 degrees, shifts 0.2, shear 0.2, zoom 0.2, horizontal flip;
    ``trivial`` and ``rand``: TrivialAugment and RandAugment, drawn for each picture; ``crop``: a
    random part, resized, and horizontal flip."""

    colour_jitter: float = Field(default=0.0, ge=0, le=1)
    """Most change of brightness, contrast and saturation, as a share."""

    erasing: float = Field(default=0.0, ge=0, le=1)
    """Share of pictures in which a random rectangle is blanked."""

    mixing: Literal["none", "mixup", "cutmix", "both"] = "none"
    """Whether two pictures of a batch become one with both labels; ``both`` draws one of the two
    for each batch."""

    mixing_alpha: float = Field(default=0.2, gt=0)
    """Of the Beta distribution that says how much of the second picture there is."""

    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """Adam at 1e-3 is the article's choice."""

    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    """Peak step size."""

    weight_decay: float = Field(default=0.0, ge=0)
    """L2 penalty on the weights; biases and norms are left out of it."""

    schedule: Literal["constant", "cosine", "one_cycle", "plateau"] = "constant"
    """How the learning rate moves: ``cosine`` falls to 0 over ``epochs``, ``one_cycle`` rises and
    falls, ``plateau`` is cut to a tenth when the validation loss has not fallen for 2 epochs."""

    warmup_epochs: float = Field(default=0.0, ge=0)
    """Epochs, or a part of one, over which the rate rises from near 0; not with ``one_cycle``,
    which has its own."""

    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    """``focal`` gives rows that are right already less weight, by ``focal_gamma``."""

    focal_gamma: float = Field(default=2.0, ge=0)
    """0 is cross entropy."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target spread over all classes."""

    class_weights: Literal["none", "balanced"] = "none"
    """``balanced``: a row counts by the inverse of its class's share of the training rows."""

    sampling: Literal["natural", "balanced"] = "natural"
    """``balanced``: an epoch has as many rows as otherwise, and as many of each class: rows of rare
    classes are repeated, most of frequent ones left out, others each epoch. Instead of
    ``class_weights``, for classes so rare that a batch seldom has one."""

    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    """Decay, a step, of the averaged weights that are evaluated and kept; 0 averages nothing."""

    clip_norm: float = Field(default=0.0, ge=0)
    """Largest norm of a step's gradient; 0 does not clip."""

    accumulate_steps: int = Field(default=1, ge=1)
    """Batches whose gradients are added up before a step: larger batches in the same memory."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the network's arithmetic in training; the weights stay fp32. ``fp16`` is for GPUs."""

    keep_memory: bool = True
    """Whether a worker on a CPU keeps the memory that a step frees for the next one: faster steps,
    and up to twice the memory at its peak. Needs glibc; without it nothing is done."""

    compile: bool = False
    """Whether ``torch.compile`` compiles the network: minutes at first, faster steps on a GPU."""

    batch_size: int = Field(default=32, ge=1)
    """Rows per worker and step."""

    epochs: int = Field(default=10, ge=1)
    """Most passes over the training rows."""

    patience: int = Field(default=5, ge=1)
    """Epochs without a better validation loss after which training stops; not with
    ``keep = "last"``."""

    keep: Literal["best", "last"] = "best"
    """Which weights: those of the epoch with the lowest validation loss, or, after all epochs, the
    last. With a schedule that ends at 0 and few validation rows chance chooses the epoch."""

    seed: int = Field(default=17, ge=1)
    """Of initial weights, order and augmentation; not 0, which Petastorm takes for 'no seed'."""

    target_precision: float = Field(default=0.95, gt=0, lt=1)
    """Precision that each class's threshold of acceptance must reach on the validation rows."""

    num_workers: int = Field(default=2, ge=0)
    """Ray workers; 0 runs the same loop in this process, without a cluster."""

    cpus_per_worker: float = Field(default=1, gt=0)
    """CPUs Ray reserves for a worker, and the threads it may use. Without workers training takes a
    thread for each core unless this is set: set it where other work keeps the cores busy, for
    threads that wait for one another are slower than one."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """``auto`` takes one GPU per worker when the cluster has that many."""

    ray_address: str = ""
    """Address of a running cluster (``auto`` or ``HOST:6379``); empty starts a local one."""

    max_failures: int = Field(default=2, ge=0)
    """Restarts from the last checkpoint before a run is given up."""

    checkpoint_minutes: float = Field(default=15, ge=0)
    """Minutes between checkpoints within an epoch; 0 saves at the end of epochs alone. A run
    goes on from one as if it had not stopped, with as many workers."""

    reader_threads: int = Field(default=1, ge=1, le=64)
    """Threads reading row groups in a worker; more than 1 hide a slow storage's delay, and change
    nothing in the order of rows. On a local disk 1 is fastest."""

    decode_threads: int = Field(default=2, ge=1, le=64)
    """Threads decoding JPEGs in a worker."""

    features_gib: float = Field(default=8, ge=0)
    """Most GiB, of all workers together, on the disk of the run's folder for what a fixed backbone
    makes of the pictures. With ``freeze = "backbone"`` and without unfreezing, augmentation and
    mixing they are computed once a run; 0 computes them each epoch."""

    shuffle_rows: int = Field(default=256, ge=1)
    """Rows held in memory to be drawn from at random, on top of the shuffled row groups: a dozen of
    those of ``training_set.row_group_kib``, more make the pictures leave the processor's cache."""

    stall_seconds: float = Field(default=300, gt=0)
    """Longest wait for a batch before the run fails with an error instead of hanging."""

    watchdog_minutes: float = Field(default=60, ge=0)
    """Longest time in which a Ray worker takes no batch, whatever it hangs in, before it is ended
    and the run goes on from its last checkpoint; 0 waits for ever. More than a download of weights,
    compiling the network and writing a checkpoint take."""

    trackers: Annotated[
        tuple[Literal["mlflow", "tensorboard", "wandb"], ...], BeforeValidator(_split_at_commas)
    ] = ("mlflow",)
    """Where settings, curves and artefacts of a run go: any of ``mlflow``, ``tensorboard`` (files
    in the run's folder) and ``wandb`` (an extra), as a list or separated by commas; or none."""

    mlflow_uri: str = Field(default="", exclude=True, repr=False)
    """Tracking URI of another MLflow store, such as ``http://HOST:5000``; empty takes the
    registry's own. Neither logged nor reported, for it may hold a password."""

    wandb_mode: Literal["offline", "online"] = "offline"
    """``offline`` writes files for ``wandb sync`` and opens no connection."""


class PromoteSettings(_Section):
    """What a challenger must show, on the same test rows as the champion, to take its place."""

    min_accuracy: float = Field(default=0.5, ge=0, le=1)
    """Least top-1 accuracy."""

    min_improvement: float = Field(default=0.0, ge=-1, le=1)
    """How much more accurate than the champion; below 0 it may be that much worse."""

    max_class_loss: float = Field(default=0.15, ge=0, le=1)
    """Most that the recall of any class may fall, among classes with ``min_class_rows`` rows."""

    min_class_rows: int = Field(default=20, ge=1)
    """Test rows below which a class's recall says too little to refuse a model for."""

    max_calibration_error: float = Field(default=0.1, ge=0, le=1)
    """Most that confidences may be off from the share that is right, on average."""

    min_test_rows: int = Field(default=20, ge=1)
    """Test rows below which no figure says enough to promote by."""

    allow_doubt: bool = False
    """Whether a challenger may have been trained on some test rows, as one may that went on from a
    bundle of another split: its figures are too good then."""


class ScoreSettings(_Section):
    """Predicting categories for stored images."""

    model: str = "catalogue@champion"
    """``NAME@ALIAS`` or ``NAME/VERSION`` in the registry."""

    batch_size: int = Field(default=32, ge=1)
    """Images per forward pass."""

    top_k: int = Field(default=5, ge=1, le=100)
    """Categories kept per image, best first."""

    keep_embeddings: bool = False
    """Whether what the network's head is given for each image is kept, in ``image_embeddings``: 2
    KiB an image with ResNet-18, 5 KiB with MobileNet v2. Images scored before get theirs by
    ``--rescore``."""

    min_confidence: float = Field(default=0.5, ge=0, le=1)
    """Least confidence to accept a category for which the model has no threshold of its own; below
    it the category is withheld: a category above it is told, where one is likely enough
    (``backed_off``), or none (``abstained``)."""

    min_margin: float = Field(default=0.0, ge=0, le=1)
    """Least lead of a category's confidence over the next one's to accept it."""

    max_abstained_share: float = Field(default=1.0, ge=0, le=1)
    """Share of the products that may be withheld, of all and of those decided anew; above it
    nothing is published (exit 30)."""

    max_drift: float = Field(default=0.5, ge=0, le=1)
    """How far the mix of categories may move from what is published, over the products that have a
    decision already, all and those decided anew: the least share of them that changed. And by how
    much more of new products may be withheld than of those published. Above it nothing is published
    (exit 30): the model may be broken, or the images."""

    max_failed_share: float = Field(default=0.05, ge=0, le=1)
    """Share of a night's images that may fail to be scored; above it nothing is published (exit
    30). Ingest has decoded them all: many failures are an executor's, or the model's."""

    min_gate_products: int = Field(default=100, ge=1)
    """Products, and for ``max_failed_share`` images, below which no share refuses a night: the log
    warns of what would have been."""


VariantName = Literal[
    "torch-folded",
    "torch-bf16",
    "onnx-fp32",
    "onnx-int8",
    "onnx-pruned",
    "onnx-pruned-int8",
    "openvino-fp32",
    "openvino-bf16",
    "openvino-int8",
    "openvino-pruned",
    "openvino-pruned-int8",
]


class OptimiseSettings(_Section):
    """Variants of a model that answer the same in less time, see ``catalog-batch optimise``."""

    variants: Annotated[tuple[VariantName, ...], BeforeValidator(_split_at_commas)] = (
        "torch-folded",
        "torch-bf16",
        "onnx-fp32",
        "onnx-int8",
        "openvino-fp32",
        "openvino-bf16",
        "openvino-int8",
    )
    """What is tried; the model as it was trained is always measured beside them. The pruned ones,
    ``onnx-pruned``, ``onnx-pruned-int8``, ``openvino-pruned`` and ``openvino-pruned-int8``, are
    trained first, which takes as long as ``pruning_steps`` do."""

    threads: int = Field(default=1, ge=1)
    """Threads of each while it is measured: as many as a task of scoring has cores
    (``spark.task.cpus``)."""

    max_test_images: int = Field(default=4096, ge=1)
    """Images of the test split that each answers, the first ones; more tell a small loss from
    chance, and take longer."""

    calibration_images: int = Field(default=256, ge=8)
    """Images of the training split, spread over it, from which int8 learns its ranges."""

    pruned_share: float = Field(default=0.3, gt=0, lt=1)
    """Share of the channels of each layer that the pruned variants lack: 0.3 halves the work."""

    pruning_steps: int = Field(default=1000, ge=1)
    """Batches of ``score.batch_size`` training images from which a pruned variant learns to answer
    as the model does."""

    min_agreement: float = Field(default=0.995, ge=0, le=1)
    """Least share of the test images whose best category is that of the model as trained."""

    max_accuracy_loss: float = Field(default=0.003, ge=0, le=1)
    """Most that the accuracy on these images may fall: 0.003 are 0.3 points. By as much a variant
    of the champion may be less accurate for ``promote``."""

    max_accepted_change: float = Field(default=0.02, ge=0, le=1)
    """Most that the share of these images may change whose category is sure enough to be given:
    thresholds, and what is unlike the training images, are those of the model as trained."""

    min_speed_up: float = Field(default=1.05, ge=1)
    """How many times as fast as the model as trained it must be to be worth another version, which
    scores every image anew."""


class MaintenanceSettings(_Section):
    """Compaction and clean-up of the tables."""

    target_file_mib: int = Field(default=128, ge=1, le=1024)
    """Size of a data file after compaction: larger ones are read faster, smaller rewritten less."""

    retention_hours: int = Field(default=168, ge=168)
    """Age of a file, no longer part of a table, at which it is deleted. Queries and training runs
    that started on an older version must be over by then."""

    lease_hours: float = Field(default=72, gt=0)
    """How long a training run that died keeps its table's files from being deleted."""


class Settings(_Section):
    """All settings of the package."""

    warehouse: str = "warehouse"
    """Folder or URI of the Delta tables, one folder a table."""

    registry: str = ""
    """Folder of the model registry; empty puts it in the warehouse folder, as ``_registry``."""

    runs: str = ""
    """Folder of training runs (checkpoints), mounted on all Ray nodes; empty: ``_runs`` there."""

    spark: SparkSettings = SparkSettings()
    ingest: IngestSettings = IngestSettings()
    training_set: TrainingSetSettings = TrainingSetSettings()
    train: TrainSettings = TrainSettings()
    promote: PromoteSettings = PromoteSettings()
    score: ScoreSettings = ScoreSettings()
    optimise: OptimiseSettings = OptimiseSettings()
    maintenance: MaintenanceSettings = MaintenanceSettings()

    @property
    def registry_folder(self) -> Path:
        """Where models are registered."""
        return self._beside_tables(self.registry, "registry")

    @property
    def runs_folder(self) -> Path:
        """Where training runs keep their checkpoints."""
        return self._beside_tables(self.runs, "runs")

    def _beside_tables(self, folder: str, name: str) -> Path:
        if not folder and "://" in self.warehouse:
            raise ConfigError(
                f"The warehouse {self.warehouse!r} is no local folder, so {name!r} must be set: "
                f"--set {name}=/a/shared/folder."
            )
        return Path(folder or f"{self.warehouse}/_{name}")


def load_settings(
    files: Sequence[Path] = (),
    environment: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
) -> Settings:
    """Merge TOML files, environment variables and ``key=value`` overrides into settings.

    Args:
        files: TOML files, later over earlier.
        environment: Variables; those that begin with ``CATALOG_BATCH__`` count.
        overrides: ``section.key=value`` texts from the command line.

    Raises:
        ConfigError: For an unknown key (with the nearest known one), a value of the wrong type
            or out of bounds, a file that is missing or no TOML.
    """
    merged: dict[str, Any] = {}
    for path in files:
        _merge(merged, read_toml(path), source=str(path))
    for name, value in sorted((environment or {}).items()):
        if name.startswith(ENVIRONMENT_PREFIX):
            keys = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
            _merge(merged, _nested(keys, value), source=name)
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator:
            raise ConfigError(f"--set {text!r} has no '='. Write it as section.key=value.")
        # Without the value, which may hold a password whose key was mistyped.
        source = f"--set {key.strip()}="
        _merge(merged, _nested(key.strip().split("."), value.strip()), source)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc']))} = {item['input']!r}: {item['msg']}"
            for item in error.errors()
        )
        sections = {str(item["loc"][0]) for item in error.errors() if len(item["loc"]) > 1}
        which = f" {sections.pop()}" if len(sections) == 1 else ""
        raise ConfigError(
            f"Settings refused: {problems}. What they may be: catalog-batch settings{which}."
        ) from error


def known_keys(section: type[BaseModel] = Settings, prefix: str = "") -> Iterator[str]:
    """Yield every setting's dotted name, sections first."""
    for name, field in section.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from known_keys(field.annotation, f"{prefix}{name}.")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: When it is missing, cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"Settings file {str(path)!r} does not exist.") from error
    except OSError as error:
        raise ConfigError(
            f"Settings file {str(path)!r} cannot be read: {error.strerror}."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"Settings file {str(path)!r} is not valid TOML: {error}.") from error


def _nested(keys: Sequence[str], value: str) -> dict[str, Any]:
    nested: Any = value
    for key in reversed(keys):
        nested = {key: nested}
    return dict(nested)


def _merge(base: dict[str, Any], new: Mapping[str, Any], source: str, prefix: str = "") -> None:
    known = set(known_keys())
    for key, value in new.items():
        name = prefix + key
        if name not in known:
            nearest = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.4)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
            raise ConfigError(f"Unknown setting {name!r} in {source}.{hint}")
        if isinstance(value, Mapping) and isinstance(base.setdefault(key, {}), dict):
            _merge(base[key], value, source, f"{name}.")
        else:
            base[key] = value
