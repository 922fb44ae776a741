"""How a network is optimised: one object that the loop asks at each step."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.optimizer import ParamsT
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from catalog_batch.errors import BadInputError
from catalog_batch.train.losses import Loss
from catalog_batch.train.schedules import (
    ScheduleName,
    cycle_momentum,
    plateau_factor,
    rate_factor,
)

OptimizerName = Literal["adam", "adamw", "sgd"]

_Tensors = tuple[Tensor, ...] | list[Tensor]

NOT_DECAYED = (
    "class_token",
    "pos_embedding",
    "relative_position_bias_table",
    "layer_scale",
)
"""Parameters of several dimensions, by the last part of their names, that are biases or scales."""

_REDUCED = {"bf16": torch.bfloat16, "fp16": torch.float16}

# The loss that is scaled is a sum over a batch's rows: 2 ** 16, torch's choice for a mean over
# rows, is that much for 32 of them.
_FIRST_LOSS_SCALE = 2.0**11


@dataclass(frozen=True)
class RecipeSettings:
    """The settings of training that the recipe needs, under the names they have there."""

    optimizer: OptimizerName = "adam"

    learning_rate: float = 1e-3
    """Peak rate of the head."""

    backbone_rate: float = 1.0
    """Peak rate of all else, as a share of ``learning_rate``."""

    weight_decay: float = 0.0
    """L2 penalty; biases and the weights of norms are left out of it."""

    schedule: ScheduleName = "constant"

    warmup_epochs: float = 0.0
    """Epochs, or a part of one, over which the rate rises in a line; 0 with ``one_cycle``."""

    epochs: int = 10
    """Where ``cosine`` and ``one_cycle`` end."""

    loss: Literal["cross_entropy", "focal"] = "cross_entropy"

    focal_gamma: float = 2.0
    """Of the focal loss alone."""

    label_smoothing: float = 0.0

    ema_decay: float = 0.0
    """Decay, a step, of the averaged weights; 0 averages nothing."""

    clip_norm: float = 0.0
    """Largest norm of a step's gradient; 0 does not clip."""

    accumulate_steps: int = 1
    """Batches a step."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"


@dataclass(frozen=True)
class RecipeState:
    """What a resume needs besides the weights; the schedule follows from the epochs done."""

    optimizer: Mapping[int, Mapping[str, Tensor]]
    """What the optimiser holds of each parameter: ``state`` of its ``state_dict``. What its groups
    hold follows from the settings and the epoch."""

    scaler: Mapping[str, Any]
    """The loss scale and its counts, JSON values; empty but for ``fp16``."""

    averaged: Mapping[str, Tensor]
    """The averaged weights and buffers; empty when nothing is averaged."""

    averaged_steps: int = 0
    """Steps the average has seen."""


class Recipe:
    """Loss, optimiser, schedule, precision, accumulation, clipping and EMA of one run.

    A step's gradient is the sum of its batches' summed losses, divided by the mass of all their
    rows on all ranks (``Loss.mass``: without class weights the number of real rows). The division
    comes last, when that mass is known: so the loss of a step is the exact mean over its rows,
    however unevenly batches and ranks are filled.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: RecipeSettings,
        batches_per_epoch: int,
        device: torch.device | str = "cpu",
        head: Sequence[str] = ("",),
        class_weights: Tensor | None = None,
    ) -> None:
        """Build optimiser and average over a network that is on its device already.

        Args:
            network: The plain one, without a wrapper for data parallelism.
            settings: Of optimiser, loss and so on.
            batches_per_epoch: On each rank; says where in its schedule a step is.
            device: Where the network is.
            head: What the names of the head's parameters begin with; the others have the rate
                of the backbone.
            class_weights: float32 [C].

        Raises:
            BadInputError: For settings that do not go together, and a head that is not there.
        """
        device = torch.device(device)
        refuse_unfit(settings, device.type)
        self._network = network
        self._settings = settings
        self._device = device
        self.loss = Loss(
            settings.focal_gamma if settings.loss == "focal" else 0.0,
            settings.label_smoothing,
            None if class_weights is None else class_weights.to(device),
        )
        groups = parameter_groups(network, settings, head)
        self.optimizer = make_optimizer(settings.optimizer, groups, settings.learning_rate)
        self._peaks = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._scaler = torch.amp.GradScaler(
            device.type, _FIRST_LOSS_SCALE, enabled=settings.precision == "fp16"
        )
        self._average = _average_of(network, settings.ema_decay)
        self._steps_per_epoch = max(1, math.ceil(batches_per_epoch / settings.accumulate_steps))
        self._step = 0
        self._cut = 1.0
        self._mass: Tensor | None = None
        self._set_rates()

    @property
    def accumulate_steps(self) -> int:
        """Batches a step."""
        return self._settings.accumulate_steps

    @property
    def learning_rate(self) -> float:
        """The head's rate in the step that comes next."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and kept: the averaged one if there is one."""
        return self._network if self._average is None else self._average.module

    def begin_epoch(self, epoch: int, losses: Iterable[float] = (), batches: int = 0) -> None:
        """Go to an epoch's place in the schedule.

        Args:
            epoch: From 0.
            losses: Validation losses of the epochs before, which ``plateau`` looks at.
            batches: Done of the epoch already, in whole steps.
        """
        self._step = epoch * self._steps_per_epoch + batches // self._settings.accumulate_steps
        self._cut = plateau_factor(losses) if self._settings.schedule == "plateau" else 1.0
        self._mass = None
        self._set_rates()

    def autocast(self) -> torch.autocast:
        """Return the context in which the network computes in the precision that was set."""
        dtype = _REDUCED.get(self._settings.precision)
        return torch.autocast(self._device.type, dtype, enabled=dtype is not None)

    def backward(self, total: Tensor, mass: Tensor) -> None:
        """Add a batch to the step.

        Args:
            total: Sum of the rows' losses, those of auxiliary heads included.
            mass: Of the rows, as ``Loss.mass`` has it.
        """
        if self._mass is None:
            self.optimizer.zero_grad(set_to_none=True)
            self._mass = mass
        else:
            self._mass = self._mass + mass
        torch.autograd.backward(self._scaler.scale(total))

    def step(self, reduce_sum: Callable[[Tensor], Tensor], world_size: int = 1) -> None:
        """Change the weights by the batches since the last step, and move the average after them.

        Args:
            reduce_sum: Returns a tensor's sum over the ranks.
            world_size: Ranks over whose number data parallelism has divided the gradients.
        """
        assert self._mass is not None, "backward comes first"
        self._scaler.unscale_(self.optimizer)
        # A step in which every rank has padding only divides 0 by a small number, and not by 0.
        mass = reduce_sum(self._mass).clamp(min=1e-6)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_mul_(gradients, world_size / mass)
        if self._settings.clip_norm:
            clip_grad_norm_(parameters, self._settings.clip_norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update_parameters(self._network)
        self._mass = None
        self._step += 1
        self._set_rates()

    def state(self) -> RecipeState:
        """Return what a resume needs; its tensors are those in use."""
        return RecipeState(
            self.optimizer.state_dict()["state"],
            self._scaler.state_dict(),
            {} if self._average is None else self._average.module.state_dict(),
            0 if self._average is None else int(self._average.n_averaged),
        )

    def restore(self, state: RecipeState) -> None:
        """Go on from what ``state`` returned in a run with the same settings."""
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state.optimizer, "param_groups": groups})
        for parameter, values in self.optimizer.state.items():
            # A fused step goes through memory from end to end: the means of a gradient must lie
            # there as the parameter does (channels last), and a file has them in another order.
            for name, value in values.items():
                if value.shape == parameter.shape:
                    values[name] = torch.empty_like(parameter).copy_(value)
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(dict(state.scaler))
        if self._average is not None:
            self._average.module.load_state_dict(state.averaged)
            self._average.n_averaged.fill_(state.averaged_steps)

    def _set_rates(self) -> None:
        schedule = self._settings.schedule
        steps = self._settings.epochs * self._steps_per_epoch
        warmup_steps = round(self._settings.warmup_epochs * self._steps_per_epoch)
        factor = self._cut * rate_factor(schedule, self._step, steps, warmup_steps)
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
            if schedule == "one_cycle":
                _set_momentum(group, cycle_momentum(self._step, steps))


def refuse_unfit(settings: RecipeSettings, device_type: str) -> None:
    """Check that the settings go together, and with the device.

    Raises:
        BadInputError: For ``fp16`` elsewhere than on a GPU, ``one_cycle`` with a warm-up, and a
            warm-up that never ends.
    """
    if settings.precision == "fp16" and device_type != "cuda":
        raise BadInputError(
            f"precision = 'fp16' is for GPUs, and this run trains on {device_type!r}. "
            "Set precision to 'bf16' or 'fp32'."
        )
    if settings.schedule == "one_cycle" and settings.warmup_epochs:
        raise BadInputError(
            f"schedule = 'one_cycle' has a warm-up of its own, and warmup_epochs is "
            f"{settings.warmup_epochs:g}. Set warmup_epochs to 0, or take 'cosine'."
        )
    if settings.warmup_epochs >= settings.epochs:
        raise BadInputError(
            f"warmup_epochs is {settings.warmup_epochs:g} and epochs {settings.epochs}: the rate "
            "would rise to the end. Set warmup_epochs to less than epochs; 1 is usual."
        )


def parameter_groups(
    network: nn.Module, settings: RecipeSettings, head: Sequence[str] = ("",)
) -> list[dict[str, Any]]:
    """Divide parameters by learning rate and weight decay; the head's come first.

    Neighbours of one rate and one decay are one group: each costs a step kernels of its own.
    Biases and the weights of norms, all that has one dimension, have no weight decay, nor have the
    tables and scales of transformers and of ConvNeXt (``NOT_DECAYED``).

    Raises:
        BadInputError: When no parameter's name begins as ``head`` says.
    """
    named = list(network.named_parameters())
    if not any(name.startswith(tuple(head)) for name, _ in named):
        raise BadInputError(
            f"No parameter of {type(network).__name__} begins with any of {list(head)}; the last "
            f"one is {named[-1][0]!r}. Name the layers that give the logits."
        )
    groups = list[dict[str, Any]]()
    for is_head, decays in itertools.product((True, False), repeat=2):
        members = [
            parameter
            for name, parameter in named
            if name.startswith(tuple(head)) == is_head and _decays(name, parameter) == decays
        ]
        rate = settings.learning_rate * (1.0 if is_head else settings.backbone_rate)
        decay = settings.weight_decay if decays else 0.0
        if groups and (groups[-1]["lr"], groups[-1]["weight_decay"]) == (rate, decay):
            groups[-1]["params"] += members
        elif members:
            groups.append({"params": members, "lr": rate, "weight_decay": decay})
    return groups


def _decays(name: str, parameter: Tensor) -> bool:
    return parameter.ndim > 1 and name.rpartition(".")[2] not in NOT_DECAYED


def make_optimizer(
    name: OptimizerName, parameters: ParamsT, learning_rate: float, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """Build the optimiser called ``name``; ``sgd`` has momentum 0.9.

    Raises:
        BadInputError: For another name.
    """
    common: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
    # Fused, a step is one kernel for all weights, and on a GPU not hundreds, each to be started.
    if name == "adam":
        return torch.optim.Adam(parameters, **common, fused=True)
    if name == "adamw":
        return torch.optim.AdamW(parameters, **common, fused=True)
    if name == "sgd":
        # Not fused: that takes no group of which some weights have had no gradient yet, and after
        # a first step that overflowed it goes on from what lay in memory.
        return torch.optim.SGD(parameters, **common, momentum=0.9)
    raise BadInputError(f"Unknown optimizer {name!r}. Use 'adam', 'adamw' or 'sgd'.")


def _average_of(network: nn.Module, decay: float) -> AveragedModel | None:
    if not decay:
        return None
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    def average_measures(averaged: _Tensors, current: _Tensors, steps: Tensor | int) -> None:
        # They come by type. A mean of integers, the indices that Swin has in buffers, is cut to one
        # less and never comes back.
        if averaged[0].is_floating_point():
            average(averaged, current, steps)
        else:
            torch._foreach_copy_(averaged, current)

    return AveragedModel(network, multi_avg_fn=average_measures, use_buffers=True)


def _set_momentum(group: dict[str, Any], momentum: float) -> None:
    if "betas" in group:
        group["betas"] = (momentum, group["betas"][1])
    else:
        group["momentum"] = momentum
