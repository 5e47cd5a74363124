"""How the weights change: optimisers, and the learning rate of each step.

An optimiser is any class of ``torch.optim``, with its arguments checked against its signature. Every optimiser of a
configuration takes one step on a dummy parameter when the configuration is read. So a wrong value, an optimiser that
needs sparse gradients, or one whose state a checkpoint cannot hold is an error before the run starts.
"""

from __future__ import annotations

import inspect
import io
import math
import typing
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    create_model,
    model_validator,
)
from torch import Tensor, nn
from torch.optim import Optimizer

from hessgnn.errors import ConfigError, did_you_mean
from hessgnn.potentials.base import Potential
from hessgnn.runtime.config import Settings, parse
from hessgnn.runtime.imports import import_path
from hessgnn.training.lora import public_name, some_names

_KEY = "key 'training.optimizer'"

_REFUSED = {
    "lr": ("the learning rate is set by the schedule", "set training.schedule.lr"),
    "match": ("is a key of parameter groups", "write a list: training.optimizer=[{match: '*.bias', name: SGD}, ...]"),
    "maximize": ("would increase the loss", "leave it out"),
    "params": ("the parameters are those of the potential", "leave it out"),
}
"""Keys that are no arguments here -> why, and what to do."""

_WORKING: set[tuple[type[Optimizer], str]] = set()  # classes and arguments that took the step on a dummy parameter


class OptimizerConfig(Settings):
    """An optimiser. Further keys are arguments of its class."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(default="AdamW", description="a class of torch.optim, or package.module:Class")

    @model_validator(mode="after")
    def _it_works(self) -> OptimizerConfig:
        require_working(self.name, self.arguments)
        return self

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the class."""
        return dict(self.model_extra or {})

    @property
    def takes_weight_decay(self) -> bool:
        """Whether the class has a weight decay that the arguments do not set."""
        return "weight_decay" in _arguments_of(find_optimizer(self.name)) and "weight_decay" not in self.arguments


class ParameterGroupConfig(OptimizerConfig):
    """The optimiser of some of the parameters."""

    match: str = Field(default="*", description="names of its parameters, a shell pattern such as '*.bias'")
    lr: PositiveFloat | None = Field(
        default=None, description="highest learning rate; schedule.lr if absent. The schedule's course holds for both"
    )


Optimizers = Annotated[
    Annotated[OptimizerConfig, Tag("[one]")]
    | Annotated[tuple[ParameterGroupConfig, ...], Field(min_length=1), Tag("[groups]")],
    Discriminator(lambda value: "[groups]" if isinstance(value, list | tuple) else "[one]"),
]
"""One optimiser, or a list of parameter groups."""


class NonFiniteGradient(ArithmeticError):
    """The norm of the gradient is infinite or not a number; the parameters were not updated."""


class Update:
    """The update of the parameters: gradient, clipping, and one step of each optimiser.

    Parameters
    ----------
    parameters, optimizers
        What is trained, and how. An optimiser that needs a closure stands alone.
    clip
        Largest norm of the gradient; no limit if ``None``.

    Attributes
    ----------
    reads
        Whether a step looks at loss and gradient before the parameters are changed. On a CUDA device that would wait
        for all that the device has to do, so there it does not, unless the optimiser itself must: the caller looks
        later. Fused optimisers skip an update whose gradient is not finite on the device itself.
    """

    def __init__(self, parameters: Iterable[Tensor], optimizers: Sequence[Optimizer], clip: float | None) -> None:
        self.parameters, self.optimizers, self.clip = list(parameters), list(optimizers), clip
        self._with_closure = needs_closure(type(self.optimizers[0]))
        self.reads = self._with_closure or not any(p.is_cuda for p in self.parameters)

    def __call__(self, evaluate: Callable[[], Tensor | None]) -> Tensor:
        """Update the parameters once.

        ``evaluate`` adds the gradient of the loss to that of the parameters and returns the loss, which only optimisers
        such as LBFGS want; these call it several times in a step.

        Returns
        -------
        Tensor
            The norm of the gradient, scalar, where it lies.

        Raises
        ------
        NonFiniteGradient
            When the norm of the gradient is not finite and :attr:`reads` is true.
        """
        norms: list[Tensor] = []

        def gradient() -> Tensor | None:
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss = evaluate()
            norms.append(nn.utils.clip_grad_norm_(self.parameters, self.clip or math.inf))
            if self.reads and not math.isfinite(float(norms[-1])):
                raise NonFiniteGradient
            return loss

        if self._with_closure:
            self.optimizers[0].step(gradient)  # type: ignore[arg-type]
            return norms[-1]
        gradient()
        if not self.reads:
            self._skip_unless_finite(norms[-1])
        for optimizer in self.optimizers:
            optimizer.step()
        return norms[-1]

    def _skip_unless_finite(self, norm: Tensor) -> None:
        """Let fused optimisers leave the parameters alone where the norm is not finite, as torch's GradScaler does."""
        found = (~torch.isfinite(norm)).float()
        for optimizer in self.optimizers:
            if getattr(optimizer, "_step_supports_amp_scaling", False):
                optimizer.grad_scale, optimizer.found_inf = None, found  # type: ignore[attr-defined]

    def set_lr(self, lr: float) -> None:
        """Set the learning rate; groups with a rate of their own keep its ratio to that of the schedule."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * group.get("lr_ratio", 1.0)

    def state_dict(self) -> dict[str, Any]:
        """State of the optimisers; of a single one as torch gives it."""
        states = [optimizer.state_dict() for optimizer in self.optimizers]
        return states[0] if len(states) == 1 else {"optimizers": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        states = state.get("optimizers", [state])
        for optimizer, own in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(own)


def build_optimizers(
    groups: Sequence[ParameterGroupConfig], potential: Potential, *, lr: float, weight_decay: float
) -> list[Optimizer]:
    """Make the optimisers of a potential, one for each group.

    Parameters
    ----------
    groups
        A parameter belongs to the first group that its name matches.
    potential
        On the device that it stays on. Frozen parameters have no optimiser.
    lr
        Highest learning rate of groups without their own.
    weight_decay
        Of groups without their own. It is applied to matrices only: decaying biases and scales is no regularisation.

    Raises
    ------
    ConfigError
        When a trained parameter has no group, a group none, or an optimiser refuses its parameters.
    """
    parameters = {public_name(name): p for name, p in potential.named_parameters()}
    optimizers, left = [], {name: p for name, p in parameters.items() if p.requires_grad}
    for group in groups:
        names = [name for name in left if fnmatchcase(name, group.match)]
        if not names:
            frozen = any(fnmatchcase(name, group.match) for name, p in parameters.items() if not p.requires_grad)
            what = f"all parameters that match {group.match!r} are frozen" if frozen else None
            raise ConfigError(what or f"no parameter matches {group.match!r}", where=_KEY, hint=some_names(left))
        own = [left.pop(name) for name in names]
        optimizers.append(_build(group, own, lr=lr, weight_decay=weight_decay))
    if left:
        hint = "add a last group with match: '*'"
        raise ConfigError(f"no group matches the parameter {next(iter(left))!r}", where=_KEY, hint=hint)
    if len(optimizers) > 1 and (alone := [g.name for g in groups if needs_closure(find_optimizer(g.name))]):
        raise ConfigError(f"{alone[0]} needs all parameters", where=_KEY, hint="make it the only optimizer")
    return optimizers


def _build(group: ParameterGroupConfig, own: list[nn.Parameter], *, lr: float, weight_decay: float) -> Optimizer:
    cls, arguments = find_optimizer(group.name), checked_arguments(group.name, group.arguments)
    parameters: list[dict[str, Any]] = [{"params": own}]
    if "weight_decay" in _arguments_of(cls):
        parameters = [
            {"params": [p for p in own if p.ndim > 1], "weight_decay": arguments.pop("weight_decay", weight_decay)},
            {"params": [p for p in own if p.ndim <= 1], "weight_decay": 0.0},
        ]
    if group.lr is not None:
        parameters = [{**one, "lr_ratio": group.lr / lr} for one in parameters]
    try:
        return cls(parameters, lr=group.lr or lr, **arguments)  # type: ignore[call-arg]
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{group.name} cannot train these parameters ({_first_line(error)})",
            where=_KEY,
            hint="give it some of them only, training.optimizer=[{match: ..., name: ...}, ...], or choose another",
        ) from error


def find_optimizer(name: str) -> type[Optimizer]:
    """A class of ``torch.optim``, or ``package.module:Class``; :class:`ConfigError` when there is none."""
    if ":" in name:
        found = import_path(name)
        if not (isinstance(found, type) and issubclass(found, Optimizer)):
            raise ConfigError("is not a subclass of torch.optim.Optimizer", where=name, hint="name the class itself")
        return found
    classes = {key: cls for key, cls in vars(torch.optim).items() if isinstance(cls, type) and cls is not Optimizer}
    known = {key: cls for key, cls in classes.items() if issubclass(cls, Optimizer)}
    if name not in known:
        raise ConfigError(f"torch.optim has no optimizer {name!r}", where=_KEY, hint=did_you_mean(name, known))
    return known[name]


def needs_closure(cls: type[Optimizer]) -> bool:
    """Whether a step of the optimiser evaluates the loss itself."""
    _, *others = inspect.signature(cls.step).parameters.values()
    return bool(others) and others[0].default is inspect.Parameter.empty


def checked_arguments(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of an optimiser, converted to the types of its signature.

    AdamW is fused unless an implementation is chosen.

    Raises
    ------
    ConfigError
        When one is unknown or has a wrong type.
    """
    for key, (reason, hint) in _REFUSED.items():
        if key in arguments:
            raise ConfigError(reason, where=f"optimizer {name!r}, key {key!r}", hint=hint)
    cls = find_optimizer(name)
    signature = _arguments_of(cls)
    known = {key: hint for key, hint in signature.items() if key not in _REFUSED}
    others = set(arguments) - set(known)
    if "**" in signature:
        known |= dict.fromkeys(others, (Any, None))
    known.pop("**", None)
    model = create_model(cls.__name__, __base__=_Arguments, **known)  # type: ignore[call-overload]
    checked = parse(model, arguments, where=f"optimizer {name!r}")
    given = {key: getattr(checked, key) for key in checked.model_fields_set}
    return given if cls is not torch.optim.AdamW or {"fused", "foreach"} & given.keys() else {"fused": True} | given


class _Arguments(Settings):
    model_config = ConfigDict(arbitrary_types_allowed=True, validate_default=False)


def _arguments_of(cls: type[Optimizer]) -> dict[str, tuple[Any, Any]]:
    """Argument -> type and default, as pydantic takes them; ``**`` where further ones are accepted."""
    try:
        hints = typing.get_type_hints(cls.__init__)
    except (NameError, TypeError):  # annotations that only a type checker can resolve
        hints = {}
    found: dict[str, tuple[Any, Any]] = {}
    _, *parameters = inspect.signature(cls.__init__).parameters.values()
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            found["**"] = (Any, None)
        elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            found[parameter.name] = (hints.get(parameter.name, Any), default)
    return found


def require_working(name: str, arguments: dict[str, Any]) -> None:
    """Take one step on a dummy parameter, save the state and load it again.

    Raises
    ------
    ConfigError
        When the optimiser or its arguments cannot be used, with the optimiser's own reason.
    """
    cls, checked = find_optimizer(name), checked_arguments(name, arguments)
    if cls is torch.optim.AdamW and not arguments:
        return  # the default; the first optimizer that is made takes a second, in which torch imports its compiler
    key = (cls, repr(sorted(checked.items())))
    if key in _WORKING:
        return
    parameter = nn.Parameter(torch.ones(2, 2))

    def gradient() -> Tensor:  # by hand: a backward pass would start the threads of autograd before workers are forked
        parameter.grad = 2 * parameter.detach()
        return parameter.detach().square().sum()

    try:
        optimizer = cls([parameter], lr=1e-3, **checked)  # type: ignore[call-arg]
        gradient()
        optimizer.step(*[gradient] if needs_closure(cls) else [])  # type: ignore[arg-type]
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        optimizer.load_state_dict(torch.load(file, weights_only=True))
    except Exception as error:  # whatever an optimiser of others may raise
        raise ConfigError(f"{name} cannot be used here ({_first_line(error)})", where=_KEY) from error
    _WORKING.add(key)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class ScheduleConfig(Settings):
    """Learning rate over the run."""

    lr: PositiveFloat = 2e-3
    warmup: NonNegativeInt = Field(default=50, description="steps of linear growth from 0")
    kind: Literal["cosine", "plateau", "constant"] = "cosine"
    final: PositiveFloat = Field(
        default=0.02, le=1.0, description="cosine: rate at the end, as a share of lr; plateau: see stop_below"
    )
    factor: PositiveFloat = Field(default=0.5, lt=1.0, description="plateau: what the rate is multiplied by")
    patience: PositiveInt = Field(
        default=5,
        description="plateau: validations without improvement before that; together several times 1 / (1 - ema) steps, "
        "since averaged weights follow a lower rate late",
    )
    threshold: NonNegativeFloat = Field(
        default=0.0, lt=1.0, description="plateau: relative decrease of the score that counts as an improvement"
    )
    stop_below: PositiveFloat | None = Field(
        default=None,
        description="plateau: the run ends, converged, where the rule lowers the rate below this; final * lr if absent",
    )


class Schedule:
    """Learning rate of each step: warm-up followed by a cosine, a plateau rule, or nothing."""

    def __init__(self, config: ScheduleConfig, n_steps: int) -> None:
        self.config, self.n_steps = config, n_steps
        self.reduction, self.best, self.best_step, self.waited = 1.0, math.inf, 0, 0

    @property
    def flat(self) -> bool:
        """Whether the plateau rule has lowered the rate so far that the run is to end."""
        config = self.config
        stop = config.final * config.lr if config.stop_below is None else config.stop_below
        return config.kind == "plateau" and config.lr * self.reduction < stop

    def lr(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        config = self.config
        if step < config.warmup:
            return config.lr * (step + 1) / config.warmup
        if config.kind == "cosine":
            share = (step - config.warmup) / max(1, self.n_steps - config.warmup)
            return config.lr * (config.final + (1 - config.final) * (1 + math.cos(math.pi * share)) / 2)
        return config.lr * self.reduction

    def observe(self, score: float, step: int) -> None:
        """Lower the learning rate by the plateau rule when a validation score (lower is better) does not improve.

        ``step`` is the number of steps done. Validations during the warm-up are not waited for.
        """
        if self.config.kind != "plateau" or step < self.config.warmup:
            return
        if score < self.best * (1 - self.config.threshold):
            self.best, self.best_step, self.waited = score, step, 0
            return
        self.waited += 1
        if self.waited >= self.config.patience:
            self.waited = 0
            self.reduction *= self.config.factor

    def state_dict(self) -> dict[str, float]:
        """What changes during a run."""
        return {"reduction": self.reduction, "best": self.best, "best_step": self.best_step, "waited": self.waited}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore :meth:`state_dict`."""
        self.reduction, self.best, self.waited = state["reduction"], state["best"], int(state["waited"])
        self.best_step = int(state.get("best_step", 0))
