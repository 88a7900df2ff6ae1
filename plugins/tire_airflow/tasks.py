"""Steps as tasks: a refusal skips what comes after, bad input is not retried, an absent service is."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from airflow.sdk import get_current_context, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from tire_pipeline.errors import GateRefused, ServiceUnavailable, TireError

log = logging.getLogger(__name__)
REASON = "reason"


def step(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """`@task` for a function that calls a pipeline step. `options` are those of `@task`."""
    if function is None:
        return functools.partial(step, **options)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with airflow_errors():
            return function(*args, **kwargs)

    return task(**options)(wrapped)


@contextmanager
def airflow_errors() -> Iterator[None]:
    """Raise the product's errors as what Airflow makes of them; the reason stays in XCom for the run's report."""
    try:
        yield
    except GateRefused as refusal:
        keep_reason(str(refusal))
        raise AirflowSkipException(str(refusal)) from None
    except ServiceUnavailable as error:
        keep_reason(str(error))
        raise AirflowException(str(error)) from None
    except TireError as error:
        keep_reason(str(error))
        raise AirflowFailException(str(error)) from None


def keep_reason(reason: str) -> None:
    """Leave the reason of a refusal or failure where `report` finds it."""
    context = get_current_context()
    context["ti"].xcom_push(key=REASON, value=reason)
