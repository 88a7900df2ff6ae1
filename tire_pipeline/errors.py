"""The exception tree. The command line turns each branch into an exit code, a DAG into a retry or a refusal.

TireError                what went wrong, what was found, and the fix, in one readable paragraph
├── InputError           2   bad input or usage: repeating it changes nothing
│   ├── DataRefused          the dataset version cannot be trained from
│   └── LeakageError         the same thing on two sides of a split
├── GateRefused          1   the work was done and a gate said no
├── ServiceUnavailable   3   a service did not answer: repeating it may help
├── OutOfResources       4   disk or memory ran out
└── Interrupted        130   somebody asked it to stop, and it stopped in good order
"""

from __future__ import annotations


class TireError(Exception):
    """Base of everything the product raises on purpose. Its text is shown to people as it is."""

    exit_code = 2


class InputError(TireError):
    """What was given cannot be used; the text names the value, the allowed ones and the fix."""


class DataRefused(InputError):
    """A dataset version failed its checks; nothing is trained from it."""


class LeakageError(InputError):
    """Images that belong together would be on two sides of a split."""


class GateRefused(TireError):
    """A gate said no. The text is the reason; nothing was changed."""

    exit_code = 1


class ServiceUnavailable(TireError):
    """PostgreSQL, S3, MLflow, Airflow or the server could not be reached. Safe to retry."""

    exit_code = 3


class OutOfResources(TireError):
    """Disk or memory ran out. What was complete before is still there."""

    exit_code = 4


class Interrupted(TireError):
    """SIGTERM or Ctrl-C was obeyed. The text says how to go on."""

    exit_code = 130


def one_line(error: Exception) -> str:
    """What a library's error says, without its line breaks."""
    return " ".join(str(error).split())
