"""A challenger beside the champion: scored on the same pictures in the shadow, and, where it is given a weight, trusted
with a share of the requests until its errors, its latency or its disagreement pass a limit.

`judge` decides, from counts alone. `Trial` holds the counts and the turns; `shadow.Shadow` does the scoring.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from tire_pipeline.serving.bundles import write_whole
from tire_pipeline.serving.metrics import ServingMetrics
from tire_pipeline.serving.model import LoadedModel, ModelSlot

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialLimits:
    """What a challenger that answers requests may cost. Shares 0..1 of the newest `window` answers or comparisons,
    judged from `num_min` on. Its 95th percentile of latency may be `latency_ratio_max` times the champion's, and
    `latency_slack_s` more, below which nobody would notice. An answer that takes over `timeout_s` is an error.
    """

    window: int = 500
    num_min: int = 50
    errors_max: float = 0.02
    disagreement_max: float = 0.1
    latency_ratio_max: float = 2.0
    latency_slack_s: float = 0.02
    timeout_s: float = 5.0


@dataclass(frozen=True)
class Verdict:
    """Why a challenger may answer no longer: `limit` names the limit, `reason` says it with the figures."""

    limit: str
    reason: str


def judge(
    *,
    failed: list[bool],
    seconds: list[float],
    champion_seconds: list[float],
    different: list[bool],
    limits: TrialLimits,
) -> Verdict | None:
    """None while the challenger may go on. `failed` and `seconds` are of its own answers, `champion_seconds` of the
    champion's, `different` of the comparisons of both on one picture; newest last.
    """
    enough = limits.num_min
    if len(failed) >= enough and (share := sum(failed) / len(failed)) > limits.errors_max:
        return Verdict("errors", f"{share:.1%} of its {len(failed)} answers failed; {limits.errors_max:.1%} may.")
    if len(different) >= enough and (share := sum(different) / len(different)) > limits.disagreement_max:
        return Verdict(
            "disagreement",
            f"It decided otherwise than the champion on {share:.1%} of {len(different)} pictures; "
            f"{limits.disagreement_max:.1%} may differ.",
        )
    if min(len(seconds), len(champion_seconds)) >= enough:
        own, other = (sorted(values)[int(0.95 * len(values))] for values in (seconds, champion_seconds))
        allowed = limits.latency_ratio_max * other + limits.latency_slack_s
        if own > allowed:
            return Verdict(
                "latency",
                f"Its 95th percentile is {1000 * own:.0f} ms, the champion's {1000 * other:.0f} ms; "
                f"{1000 * allowed:.0f} ms are allowed.",
            )
    return None


class Trial:
    """The challenger in `slot`, its turns and its record. Safe from any thread.

    A challenger that was sent back answers no request again, also after a restart where `note` is given: a file that
    keeps the reason by bundle digest. It goes on being scored in the shadow.
    """

    def __init__(
        self,
        slot: ModelSlot,
        *,
        metrics: ServingMetrics,
        weight: float = 0.0,
        limits: TrialLimits | None = None,
        note: Path | None = None,
    ) -> None:
        self.slot, self.weight, self.limits = slot, weight, limits or TrialLimits()
        self._metrics, self._note = metrics, note
        self._lock, self.returned = threading.Lock(), ""
        self._start_over(None, None)

    def challenger(self, champion: LoadedModel) -> LoadedModel | None:
        """The challenger of this champion, None where there is none."""
        model = self.slot.current
        if model is None or model.bundle.digest == champion.bundle.digest:
            return None
        with self._lock:
            if (model.bundle.digest, champion.bundle.digest) != self._pair:
                self._start_over(model, champion)
        return model

    def takes_turn(self) -> bool:
        """Whether the request that has just come is one of the challenger's share; evenly spread, not drawn.

        None are while too many of its answers wait to be compared, which happens only where no request is under way:
        under load it would go on answering, however wrong it is.
        """
        with self._lock:
            unjudged = self._num_answered - self.num_compared
            self._turn += 0.0 if self.returned or unjudged >= self.limits.num_min else self.weight
            if self._turn < 1.0:
                return False
            self._turn -= 1.0
            return True

    def answered(self, model: LoadedModel, *, seconds: float, failed: bool = False) -> None:
        """Note one answer, by the challenger or by the champion."""
        with self._lock:
            challenger, champion = self._pair
            if model.bundle.digest == challenger:
                self._failed.append(failed)
                self._num_answered += not failed
                self._seconds.append(seconds)
                self._judge(model)
            elif model.bundle.digest == champion:
                self._champion_seconds.append(seconds)

    def compared(self, challenger: LoadedModel, *, different: bool, difference: float) -> None:
        """Note that both have scored one picture; `difference` is that of a probability, 0..1."""
        self._metrics.shadow.labels(challenger.version, "different" if different else "same").inc()
        self._metrics.shadow_difference.observe(difference)
        with self._lock:
            if challenger.bundle.digest == self._pair[0]:
                self.num_compared += 1
                self.num_different += different
                self._different.append(different)
                self._judge(challenger)

    def _judge(self, model: LoadedModel) -> None:
        if self.returned or not self.weight:
            return
        verdict = judge(
            failed=list(self._failed),
            seconds=list(self._seconds),
            champion_seconds=list(self._champion_seconds),
            different=list(self._different),
            limits=self.limits,
        )
        if verdict:
            self.returned = verdict.reason
            self._metrics.canary_weight.set(0)
            self._metrics.canary_returned.labels(model.version, verdict.limit).inc()
            log.warning("Version %d answers no longer, the champion takes its share: %s", model.version, verdict.reason)
            self._write(model.bundle.digest, verdict.reason)

    def _start_over(self, challenger: LoadedModel | None, champion: LoadedModel | None) -> None:
        size = self.limits.window
        self._pair = tuple(model.bundle.digest if model else "" for model in (challenger, champion))
        self._failed: deque[bool] = deque(maxlen=size)
        self._different: deque[bool] = deque(maxlen=size)
        self._seconds: deque[float] = deque(maxlen=size)
        self._champion_seconds: deque[float] = deque(maxlen=size)
        self._turn = 0.0
        self.num_compared = self.num_different = self._num_answered = 0
        self.returned = self._read().get(self._pair[0], "")
        self._metrics.canary_weight.set(0.0 if self.returned or challenger is None else self.weight)

    def _read(self) -> dict[str, str]:
        try:
            record = json.loads(self._note.read_text()) if self._note else {}
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def _write(self, digest: str, reason: str) -> None:
        if self._note is None:
            return
        try:
            self._note.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._note, json.dumps({**self._read(), digest: reason}))
        except OSError as error:
            log.warning("It cannot be noted in %s, a restart will try the version again: %s", self._note, error)
