"""A declared space of configurations, and what Optuna proposes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import Trial

from tire_pipeline.errors import InputError
from tire_pipeline.training.config import TrainingConfig

RANGE = {"low", "high", "log"}
EXAMPLE = "learning_rate = { low = 1e-4, high = 1e-2, log = true }, or batch_size = { choices = [8, 16, 32] }"


@dataclass(frozen=True)
class Dimension:
    """A field and what it may be: one of `choices`, or from `low` to `high`, whole numbers where both are."""

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    def ends(self) -> tuple[Any, ...]:
        """Values between which all others are: where these can be used, all can."""
        return self.choices or (self.low, self.high)

    def suggest(self, trial: Trial) -> Any:
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.name, self.low, self.high, log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Space:
    """A candidate, the fields that every trial has, and those that are searched. InputError for what cannot be used."""

    model_type: str
    fixed: Mapping[str, Any]
    dimensions: tuple[Dimension, ...]

    def __post_init__(self) -> None:
        if not self.dimensions:
            raise InputError(f"The space has nothing to search. Its table [space] has lines such as {EXAMPLE}.")
        if twice := sorted(self.fixed.keys() & {d.name for d in self.dimensions}):
            raise InputError(f"Fixed and searched at once: {', '.join(twice)}. Leave them in one of the two tables.")
        for dimension in self.dimensions:
            for value in dimension.ends():
                TrainingConfig.of(self.model_type, **{**self.fixed, dimension.name: value})

    def config(self, trial: Trial) -> TrainingConfig:
        """The configuration of a trial. InputError where values that are fine alone are not together."""
        values = {d.name: d.suggest(trial) for d in self.dimensions}
        return TrainingConfig.of(self.model_type, **{**self.fixed, **values})

    def as_dict(self) -> dict[str, Any]:
        """As it is declared; `parse_space` reads it back."""
        space: dict[str, Any] = {}
        for d in self.dimensions:
            space[d.name] = {"choices": list(d.choices)} if d.choices else {"low": d.low, "high": d.high, "log": d.log}
        return {"model_type": self.model_type, "fixed": dict(self.fixed), "space": space}


def parse_space(given: Mapping[str, Any]) -> Space:
    """`model_type`, and the tables `fixed` (optional) and `space`. InputError says what is wrong with it."""
    if unknown := sorted(given.keys() - {"model_type", "fixed", "space"}):
        raise InputError(f"Unknown in a space: {', '.join(unknown)}. Known are model_type, [fixed] and [space].")
    space, fixed = given.get("space", {}), given.get("fixed", {})
    if not isinstance(space, Mapping) or not isinstance(fixed, Mapping):
        raise InputError("[fixed] and [space] must be tables.")
    dimensions = tuple(_dimension(name, value) for name, value in space.items())
    return Space(str(given.get("model_type", "cnn")), dict(fixed), dimensions)


def _dimension(name: str, given: Any) -> Dimension:
    if isinstance(given, Mapping) and given.keys() == {"choices"} and given["choices"]:
        return Dimension(name, choices=tuple(given["choices"]))
    if not isinstance(given, Mapping) or not {"low", "high"} <= given.keys() <= RANGE:
        raise InputError(f"The dimension {name} is {given!r}, but looks like {EXAMPLE}.")
    low, high, log = given["low"], given["high"], given.get("log", False)
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (low, high))
    if not numbers or not low < high or (log and low <= 0):
        raise InputError(f"The dimension {name} goes from {low!r} to {high!r}: low must be below high, above 0 if log.")
    return Dimension(name, low=low, high=high, log=bool(log))
