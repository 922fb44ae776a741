"""Bytes in, categories out: what a scoring worker does with a bundle, without Spark."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from catalog_batch.errors import BadInputError, ModelRefusedError
from catalog_batch.modeling.bundle import Bundle
from catalog_batch.modeling.confidence import confidences, energies, sums_over
from catalog_batch.modeling.preprocessing import ImageDecodeError
from catalog_batch.modeling.runtimes import Graph, Logits, Pixels, begin_logits, on_device
from catalog_batch.modeling.spec import refuse_embeddings
from catalog_batch.taxonomy import category_id, inner_nodes

if TYPE_CHECKING:  # see runtimes.py
    from torch import Tensor

SPARE_BATCHES = 1
"""That lie decoded, besides one that each thread works at."""

LEAST_SHARE = 0.01
"""Confidences beyond the likeliest, and sums of them, count as nothing below it."""


@dataclass(frozen=True)
class Prediction:
    """The likeliest categories of one picture."""

    top_k: tuple[tuple[str, float], ...]
    """Category id and confidence (0 to 1, softmax over all classes, of logits divided by the
    bundle's temperature), best first."""

    others: tuple[tuple[str, float], ...]
    """The further categories whose confidence is ``LEAST_SHARE`` or more, best first: what is not
    likeliest for one picture of a product may be for all of them together."""

    margin: float
    """Confidence of the first minus that of the second; of the first when it is the only one."""

    nodes: tuple[tuple[str, float], ...]
    """Category id of each inner node of the taxonomy, and the sum of the confidences of all classes
    below it, where that is ``LEAST_SHARE`` or more."""

    energy: float
    """Minus the temperature times the log of the sum of the exponentials of the scaled logits: high
    for pictures unlike those of training. Liu et al., 2020: https://arxiv.org/abs/2010.03759"""

    embedding: tuple[float, ...] = ()
    """What the main head is given, averaged over places where that is a map; empty unless kept."""


@dataclass(frozen=True)
class Failure:
    """Why a picture has no prediction."""

    reason: str
    """``no_content`` for missing or empty bytes, ``undecodable``, or ``not_finite`` when the
    network gives no number for it."""

    detail: str
    """For people: what the decoder said."""


NOT_FINITE = Failure("not_finite", "the network's logits are not all finite numbers")


class Predictor:
    """Predict the categories of pictures with a loaded bundle."""

    def __init__(
        self,
        bundle: Bundle,
        top_k: int = 5,
        batch_size: int = 32,
        device: str | None = None,
        decode_threads: int = 0,
        keep_embeddings: bool = False,
    ) -> None:
        """Take over the bundle's network.

        Args:
            bundle: From ``load_bundle``; its network is moved to the device.
            top_k: Categories per picture; all of them when there are fewer.
            batch_size: Most pictures per forward pass.
            device: ``cpu`` or ``cuda``; ``None`` stays where the bundle was loaded.
            decode_threads: That decode ahead of the network, a batch each; 0 takes the calling
                thread, which on a single core is fastest.
            keep_embeddings: Whether predictions have one.

        Raises:
            BadInputError: For a ``top_k`` or ``batch_size`` below 1.
            ModelRefusedError: For a variant that does not run on the device, or that has no
                embeddings to keep.
        """
        if top_k < 1 or batch_size < 1:
            raise BadInputError(
                f"top_k is {top_k} and batch_size {batch_size}. Both must be 1 or more."
            )
        self._preprocessing = bundle.spec.preprocessing
        self._category_ids = tuple(label.category_id for label in bundle.spec.classes)
        self._temperature = bundle.spec.temperature
        nodes = inner_nodes([label.path for label in bundle.spec.classes])
        self._node_ids = tuple(category_id(path) for path in nodes)
        self._classes_below = [np.array(classes) for classes in nodes.values()]
        self._top_k = min(top_k, len(self._category_ids))
        self._batch_size = batch_size
        self._decoders = ThreadPoolExecutor(decode_threads, "decode") if decode_threads else None
        self._ahead = decode_threads + SPARE_BATCHES
        if isinstance(bundle.network, Graph) and device not in (None, "cpu"):
            raise ModelRefusedError(
                f"The model is the variant {bundle.spec.variant!r}, which runs on CPUs, and the "
                f"task was given {device!r}. Score with the version that it was made from, or on "
                "executors without a GPU."
            )
        self._network = bundle.network if device is None else on_device(bundle.network, device)
        self._is_on_gpu = (
            not isinstance(self._network, Graph) and next(self._network.parameters()).is_cuda
        )
        self._embeddings: list[Tensor] | None = None
        if keep_embeddings:
            refuse_embeddings(bundle.spec)
            from catalog_batch.modeling.probe import Probe  # slow: it imports torchvision

            self._embeddings = kept = []
            Probe(bundle.module)[0].register_forward_pre_hook(
                lambda _, inputs: kept.append(_averaged(inputs[0]).to("cpu", non_blocking=True))
            )

    def predict(self, contents: Sequence[bytes | None]) -> list[Prediction | Failure]:
        """Predict each picture, in order; a bad one is a ``Failure`` and disturbs no other."""
        return list(self.stream(contents))

    def stream(self, contents: Iterable[bytes | None]) -> Iterator[Prediction | Failure]:
        """Predict pictures one after another, as ``predict`` does, from any number of them.

        More than those answered are read: the rest of a batch, on a GPU the next one, and with
        threads one batch more than there are threads.
        """
        # A GPU works at a batch while the answers of the one before are put together.
        most_begun = 2 if self._is_on_gpu else 1
        begun = deque[_Begun]()
        for decoded in self._decoded(iter(contents)):
            begun.append(self._begin(decoded))
            if len(begun) == most_begun:
                yield from self._answers(begun.popleft())
        for last in begun:
            yield from self._answers(last)

    def _decoded(self, contents: Iterator[bytes | None]) -> Iterator["_Decoded"]:
        batches = iter(lambda: list(islice(contents, self._batch_size)), [])
        if self._decoders is None:
            yield from map(self._decode, batches)
            return
        # A batch a thread: for each picture alone they would wait for each other all the time.
        waiting = deque[Future[_Decoded]]()
        for batch in batches:
            waiting.append(self._decoders.submit(self._decode, batch))
            if len(waiting) > self._ahead:
                yield waiting.popleft().result()
        for decoding in waiting:
            yield decoding.result()

    def _decode(self, contents: Sequence[bytes | None]) -> "_Decoded":
        side = self._preprocessing.side
        pixels = self._room((len(contents), side, side, 3))
        failures, good = list[Failure | None](), 0
        for content in contents:
            if not content:
                failures.append(Failure("no_content", "there are no bytes"))
                continue
            try:
                pixels[good] = self._preprocessing.decode(content)
            except ImageDecodeError as error:
                failures.append(Failure("undecodable", str(error)))
            else:
                failures.append(None)
                good += 1
        return _Decoded(pixels[:good], failures)

    def _room(self, shape: tuple[int, ...]) -> Pixels:
        if not self._is_on_gpu:
            return np.empty(shape, np.uint8)
        import torch

        locked: Pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()
        return locked

    def _begin(self, decoded: "_Decoded") -> "_Begun":
        if not len(decoded.pixels):
            return _Begun(decoded.failures)
        wait = begin_logits(self._network, self._preprocessing, decoded.pixels)
        embeddings = None if self._embeddings is None else self._embeddings.pop()
        return _Begun(decoded.failures, wait, embeddings)

    def _answers(self, begun: "_Begun") -> list[Prediction | Failure]:
        predictions = iter([] if begun.wait is None else self._predictions(begun))
        return [failure or next(predictions) for failure in begun.failures]

    def _predictions(self, begun: "_Begun") -> list[Prediction | Failure]:
        assert begun.wait is not None
        logits = begun.wait()
        is_finite = np.isfinite(logits).all(axis=1)
        if not is_finite.all():
            logits = np.where(is_finite[:, None], logits, np.float32(0))
        shares = confidences(logits, self._temperature)
        sums = [sums_over(shares, classes) for classes in self._classes_below]
        # A stable sort: equal confidences come in class order on every machine.
        reach = (shares >= LEAST_SHARE).sum(axis=1)
        most = max(self._top_k, 2, int(reach.max()))
        best = np.argsort(-shares, axis=1, kind="stable")[:, :most]
        embeddings: list[list[float]] = [[]] * len(logits)
        if begun.embeddings is not None:
            embeddings = begun.embeddings.tolist()
        return [
            self._prediction(*row) if is_good else NOT_FINITE
            for is_good, *row in zip(
                is_finite.tolist(),
                np.take_along_axis(shares, best, axis=1).tolist(),
                best.tolist(),
                np.maximum(reach, self._top_k).tolist(),
                np.array(sums).T.tolist() or [[]] * len(logits),
                energies(logits, self._temperature).tolist(),
                embeddings,
                strict=True,
            )
        ]

    def _prediction(
        self,
        confidences: list[float],
        classes: list[int],
        reach: int,
        sums: list[float],
        energy: float,
        embedding: list[float],
    ) -> Prediction:
        ids = [self._category_ids[index] for index in classes[:reach]]
        kept = tuple(zip(ids, confidences[:reach], strict=True))
        second = confidences[1] if len(confidences) > 1 else 0.0
        return Prediction(
            top_k=kept[: self._top_k],
            others=kept[self._top_k :],
            margin=confidences[0] - second,
            nodes=tuple(
                (node, total)
                for node, total in zip(self._node_ids, sums, strict=True)
                if total >= LEAST_SHARE
            ),
            energy=energy,
            embedding=tuple(embedding),
        )


@dataclass(frozen=True)
class _Decoded:
    """A batch."""

    pixels: Pixels
    """uint8 [N, S, S, 3] of those that could be decoded."""

    failures: list[Failure | None]
    """Of each of the batch; None where it could be."""


@dataclass(frozen=True)
class _Begun:
    """A batch that the network has been given, if there was anything to give it."""

    failures: list[Failure | None]
    wait: Callable[[], Logits] | None = None
    embeddings: "Tensor | None" = None
    """To be read after ``wait``."""


def _averaged(given: "Tensor") -> "Tensor":
    """Return features [N, D], or maps [N, D, H, W] averaged over places, as float32 [N, D]."""
    return given.float() if given.dim() == 2 else given.float().flatten(2).mean(dim=2)
