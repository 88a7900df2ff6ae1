"""What commands write: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@dataclass
class State:
    """What the options before the command set."""

    debug: bool = False


state = State()


def tell(text: str, *, title: str = "") -> None:
    """A line for people, on stderr, after a red title. Brackets are text: paths may hold them."""
    line = Text.assemble((title, "bold red"), " " if title else "", text)
    Console(stderr=True, highlight=False, soft_wrap=True).print(line)


def result(value: Any, *, as_json: bool, text: str | None = None, markup: bool = False) -> None:
    """The command's result on stdout: one JSON document, or `text`, whose brackets mean colours only with `markup`."""
    if as_json or text is None:
        sys.stdout.write(json.dumps(_plain(value), ensure_ascii=False, indent=1, default=_scalar) + "\n")
    elif text:
        Console(highlight=False, soft_wrap=True).print(text, markup=markup)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Rows on stdout, aligned."""
    shown = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    Console(highlight=False).print(shown)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr; yields the function that moves it to (done, total)."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):  # JSON has no NaN
        return None
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _scalar(value: Any) -> Any:
    if isinstance(value, (datetime, Path)):
        return value.isoformat() if isinstance(value, datetime) else str(value)
    return float(value)
