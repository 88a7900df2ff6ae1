"""`tire …`: one command per step, over the same steps that the DAGs call."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import NoReturn

import typer

from tire_pipeline.cli import bench, data, registry, stack, training, tuning, watching
from tire_pipeline.cli.output import state, tell
from tire_pipeline.errors import OutOfResources, TireError

app = typer.Typer(
    name="tire",
    help="From uploaded photographs to a promoted, served and watched image classifier.",
    epilog="Exit codes: 0 done, 1 a gate said no, 2 bad input, 3 a service cannot be reached, 4 out of disk or memory, "
    "130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
)
for module in (stack, data, training, tuning, registry, watching, bench):
    module.add_to(app)


@app.callback()
def options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log what happens, to stderr."),
) -> None:
    """Options that hold for every command stand before it: `tire --debug validate demo-v1`."""
    state.debug = debug
    if verbose or os.environ.get("TIRE_LOG"):
        import logging  # noqa: PLC0415  (only a command that logs configures logging)

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit with its code; every error is one readable paragraph on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    try:
        app(args=arguments)  # exits itself: 0, 2 for wrong usage, 130 for Ctrl-C, or what the command chose
    except (TireError, MemoryError, OSError) as error:
        sys.exit(_explain(error))
    sys.exit(0)


def _explain(error: Exception) -> int:
    if state.debug:
        raise error
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        error = OutOfResources(f"The disk is full ({error.filename or 'no path named'}). What was complete is kept.")
    if isinstance(error, MemoryError):
        error = OutOfResources("Memory ran out. Use a smaller --batch-size or image, or a machine with more memory.")
    if not isinstance(error, TireError):
        error = TireError(f"{type(error).__name__}: {error}. `tire --debug …` shows where.")
    tell(str(error), title="error")
    return error.exit_code
