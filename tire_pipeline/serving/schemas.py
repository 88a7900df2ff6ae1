"""What goes over the wire, as the documentation at `/docs` shows it."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints


class ErrorAnswer(BaseModel):
    """Every answer of 4xx and 5xx: what went wrong and what to do, in one sentence."""

    error: str


class ImageAnswer(BaseModel):
    """One image, in the order sent: either `label` to `decision`, or `error`.

    `probability` is the label's, calibrated, 0..1. `model_version` is 0 for a bundle that is not registered. Where the
    picture itself is not fit to be judged, `decision` is `review`, `reason` is `retake`, and `retake` says why.
    """

    filename: str
    prediction_id: str
    model_version: int
    model_digest: str
    label: str | None = None
    probability: float | None = None
    probabilities: dict[str, float] | None = None
    decision: str | None = None
    reason: str | None = None
    retake: str | None = None
    error: str | None = None


class PredictAnswer(BaseModel):
    """As many predictions as pictures sent, in their order."""

    predictions: list[ImageAnswer]


class ExplainAnswer(BaseModel):
    """By how much the probability of `label` falls where a cell of the picture is covered, row by row from the top;
    negative where it rises.
    """

    label: str
    probability: float
    map: list[list[float]]
    model_version: int
    model_digest: str


class Feedback(BaseModel):
    """What a person says the image shows."""

    prediction_id: UUID
    label: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    source: Annotated[str, StringConstraints(pattern=r"^[a-z0-9._-]{1,40}$")] = "api"


class ChallengerAnswer(BaseModel):
    """The model that is scored beside the one that answers. `returned` is why it answers no share any more, or ""."""

    version: int
    digest: str
    candidate: str
    weight: float
    returned: str
    compared: int
    different: int


class ModelAnswer(BaseModel):
    """The model that answers now, as the page at `/` shows it. `positive_class` is null where there is none; where the
    classes combine several labels it is a value of one, and the threshold is on the sum of the classes that have it.
    """

    project: str
    version: int
    digest: str
    candidate: str
    classes: list[str]
    positive_class: str | None
    threshold: float
    review_band: tuple[float, float]
    challenger: ChallengerAnswer | None
    feedback: bool = Field(description="whether corrections are kept: false without a ledger")
