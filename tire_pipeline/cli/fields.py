"""Command-line options for the fields of a training configuration, made from the table its checks are made from."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from tire_pipeline.training.config import parse_size
from tire_pipeline.training.options import OPTIONS

OWN = ("image_height", "image_width", "seed")  # `--image-size` says both sides; the seed is the split's as well


def with_fields(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each field, of which it gets those that were given as `overrides`."""
    signature = inspect.signature(command, eval_str=True)
    kept = [p for p in signature.parameters.values() if p.name != "overrides"]
    options = [_parameter(name) for name in OPTIONS if name not in OWN]
    size = typer.Option(help="In pixels: 224, or 320x256 for height x width.", rich_help_panel="Network and images")
    options.append(_keyword("image_size", Annotated[str | None, size]))

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        fields = {o.name: given.pop(o.name) for o in options}
        command(overrides=_overrides(fields), **given)

    made = signature.replace(parameters=[*kept, *options])
    wrapper.__signature__ = made  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in made.parameters.values()}
    return wrapper


def size_fields(image_size: str | None) -> dict[str, int]:
    """Both sides' fields out of `--image-size`, or none."""
    return dict(zip(("image_height", "image_width"), parse_size(image_size), strict=True)) if image_size else {}


def _overrides(given: Mapping[str, Any]) -> dict[str, Any]:
    sides = size_fields(given["image_size"])
    return {**{k: v for k, v in given.items() if k != "image_size" and v is not None}, **sides}


def _parameter(name: str) -> inspect.Parameter:
    option = OPTIONS[name]
    choices = f" ({', '.join(option.choices)})" if option.choices else ""
    info = typer.Option(help=f"{option.help}{choices}", rich_help_panel=option.section)
    return _keyword(name, Annotated[option.kind | None, info])


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
