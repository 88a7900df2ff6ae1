"""Moves of a model through its life, each under the ledger's lock and in its append-only history."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from tire_pipeline.errors import GateRefused, InputError, ServiceUnavailable
from tire_pipeline.metrics import better
from tire_pipeline.refs import EvaluationRef, ModelRef
from tire_pipeline.registry.gate import Decision
from tire_pipeline.stores.ledger import Ledger
from tire_pipeline.stores.tracking import RegisteredVersion, Tracking

log = logging.getLogger(__name__)

MOVES = ("produced", "rolled_back")
NOTHING_BEFORE = "There is no earlier version in production to go back to. `tire promotions` lists all."


def bundle_prefix(key: str) -> str:
    """Where a training's bundle lies in the bucket."""
    return f"runs/{key}/bundle/"


class Registry:
    """The registered model of one project. `actor` and `run_key` say in the history who moved it, and in which run."""

    def __init__(self, tracking: Tracking, ledger: Ledger, *, actor: str, run_key: str) -> None:
        self._tracking, self._ledger, self._actor, self._run_key = tracking, ledger, actor, run_key

    @property
    def model(self) -> str:
        return self._tracking.project

    def register(self, evaluation: EvaluationRef) -> ModelRef:
        """The version of this training, made once however often it is asked for. It must have passed its threshold."""
        if not evaluation.passed:
            raise GateRefused(f"{evaluation.trained.candidate} is not registered: {evaluation.reason}.")
        trained = evaluation.trained
        tags = {
            "tire.candidate": trained.candidate,
            "tire.snapshot": trained.snapshot_digest,
            "tire.split": trained.split_digest,
            "tire.version": trained.version,
            "tire.bundle": bundle_prefix(trained.key),
            "tire.bundle_digest": trained.bundle_digest,
        }
        with self._ledger.promotion_lock(self.model) as check_held:
            known = self._tracking.version_by_tag("tire.key", trained.key)
            found = known or self._tracking.register(run_id=trained.run_id, key=trained.key, tags=tags)
            if not self._recorded("registered", found.version):
                evidence = {"metrics": evaluation.metrics, "key": trained.key, "bundle": trained.bundle_digest}
                self._record(check_held, "registered", None, found.version, evaluation.reason, evidence)
        value = evaluation.metrics[evaluation.metric]
        return _as_ref(self.model, found, metric=evaluation.metric, value=value)

    def best(self, metric: str, *, snapshot_digest: str) -> ModelRef:
        """The registered version of the snapshot with the best `test/<metric>`; InputError when there is none."""
        candidates = [v for v in self._tracking.versions() if v.tags.get("tire.snapshot") == snapshot_digest]
        measured = [(v, self._tracking.metrics(v.run_id).get(f"test/{metric}")) for v in candidates]
        scored = [(v, value) for v, value in measured if value is not None and math.isfinite(value)]
        if not scored:
            raise InputError(
                f"No registered version of {self.model} was trained on the snapshot {snapshot_digest[:12]} and has "
                f"test/{metric}. Train, evaluate and register one first."
            )
        best, best_value = scored[0]
        for version, value in scored[1:]:
            if better(metric, value, best_value):
                best, best_value = version, value
        return _as_ref(self.model, best, metric=metric, value=best_value)

    def stage(self, model: ModelRef) -> ModelRef:
        """Put the alias `staging` on this version."""
        with self._ledger.promotion_lock(self.model) as check_held:
            before = self._behind("staging")
            if before != model.version or not self._recorded("staged", model.version):
                self._move(check_held, "staging", model.version)
                reason = f"best of its snapshot by {model.metric}: {model.value:.3f}"
                self._record(check_held, "staged", before, model.version, reason, {"model": model.bundle_digest})
        return model

    def champion(self) -> RegisteredVersion | None:
        return self._tracking.by_alias("production")

    def staged(self) -> ModelRef:
        """The version behind `staging`; InputError when there is none."""
        found = self._tracking.by_alias("staging")
        if found is None:
            raise InputError("No model is in staging. `tire stage METRIC` puts the best registered one there.")
        return _as_ref(self.model, found)

    def produce(
        self, model: ModelRef, decision: Decision, evidence: Mapping[str, Any], *, expected: int | None
    ) -> int | None:
        """Carry out the gate's decision; returns the version that was in production before.

        `expected` is the champion that the decision was made against: if another one serves by now the promotion is
        stale and refused. Raises GateRefused for a refusal, after writing it down.
        """
        with self._ledger.promotion_lock(self.model) as check_held:
            current = self._behind("production")
            stale = current != expected and current != model.version
            if stale or not decision.promote:
                reason = (
                    f"version {current} went into production since this was decided against version {expected}"
                    if stale
                    else decision.reason
                )
                self._record(check_held, "refused", current, model.version, reason, evidence)
                raise GateRefused(f"{model.candidate} (version {model.version}) stays out of production: {reason}.")
            before = current
            if current == model.version:  # the alias moved, and a crash may have come before the record
                before = self._last_move().get("to_version")
            else:
                if current is not None:
                    self._settle(check_held, current)
                    self._move(check_held, "previous", current)
                self._move(check_held, "production", model.version)
            if before != model.version:
                self._record(check_held, "produced", before, model.version, decision.reason, evidence)
        return current

    def refuse(self, model: ModelRef, reason: str) -> None:
        """Write down that a person said no; moves nothing. Repeating it in the same run changes nothing."""
        with self._ledger.promotion_lock(self.model) as check_held:
            if not self._recorded("refused", model.version, reason):
                evidence = {"model": model.bundle_digest}
                self._record(check_held, "refused", self._behind("production"), model.version, reason, evidence)

    def rollback(self, *, to: int | None = None) -> tuple[int, int]:
        """Put the version before, or version `to`, back into production; returns (from, to).

        It is written down before it is done: had the aliases moved first and the record failed, repeating the command
        would go back to the version that was just left. For the same reason nothing is raised once `production` has
        moved. What an earlier rollback left half done is completed.
        """
        with self._ledger.promotion_lock(self.model) as check_held:
            champion = self.champion()
            if champion is None:
                raise InputError(NOTHING_BEFORE)
            left, target = self._unfinished(champion.version, to) or self._begin(check_held, champion, to)
            if target != left:
                if self._behind("previous") == left:  # which would say that this rollback is done
                    self._move(check_held, "previous", target)
                self._move(check_held, "production", target)
                self._leave(check_held, left)
        return left, target

    def _unfinished(self, current: int, to: int | None) -> tuple[int, int] | None:
        """The rollback (from, to) that is recorded and of which an alias has not moved yet, if it is what is asked."""
        last = self._last_move()
        if not last or last["action"] != "rolled_back" or to not in (None, last["to_version"]):
            return None
        left, target = last["from_version"], last["to_version"]
        begun = current == left or (current == target and self._behind("previous") != left)
        return (left, target) if begun else None

    def _begin(self, check_held: Callable[[], None], champion: RegisteredVersion, to: int | None) -> tuple[int, int]:
        """Choose where a new rollback goes and write it down; returns (from, to), alike if it serves already."""
        current = champion.version
        self._settle(check_held, current)
        target = self._served_before(current) if to is None else self._version(to)
        if target.version != current:
            digests = {str(v.version): v.tags.get("tire.bundle_digest", "") for v in (champion, target)}
            evidence = {"bundles": digests}
            self._record(check_held, "rolled_back", current, target.version, "asked for by a person", evidence)
        return current, target.version

    def _settle(self, check_held: Callable[[], None], current: int) -> None:
        """Make the history end with what serves: a promotion may have been cut short before its record, and a rollback
        after it."""
        recorded = self._last_move().get("to_version")
        if recorded != current:
            reason = "found in production without a record: a move was cut short, or it was made by hand"
            self._record(check_held, "produced", recorded, current, reason, {})

    def _leave(self, check_held: Callable[[], None], version: int) -> None:
        """Put `previous` on the version that a rollback left; if that fails, the next rollback completes it."""
        try:
            self._move(check_held, "previous", version)
        except ServiceUnavailable as error:
            log.warning("the rollback is done, but `previous` may not be on version %d yet: %s", version, error)

    def _move(self, check_held: Callable[[], None], alias: str, version: int) -> None:
        check_held()
        self._tracking.set_alias(alias, version)

    def _served_before(self, current: int) -> RegisteredVersion:
        """What `previous` says; a move that was cut short leaves that on the champion, and the history knows more."""
        known = self._behind("previous")
        if known in (None, current):
            moves = self._ledger.promotions(model=self.model, actions=MOVES)
            known = next((r["from_version"] for r in moves if r["to_version"] == current), None)
        if known is None:
            raise InputError(NOTHING_BEFORE)
        return self._version(known)

    def _behind(self, alias: str) -> int | None:
        found = self._tracking.by_alias(alias)
        return found.version if found else None

    def _version(self, number: int) -> RegisteredVersion:
        found = next((v for v in self._tracking.versions() if v.version == number), None)
        if found is None:
            raise InputError(f"{self.model} has no version {number}. `tire promotions` lists those that served.")
        return found

    def _recorded(self, action: str, version: int, reason: str | None = None) -> bool:
        rows = self._ledger.promotions(model=self.model, run_key=self._run_key, actions=[action])
        return any(r["to_version"] == version and reason in (None, r["reason"]) for r in rows)

    def _last_move(self) -> dict[str, Any]:
        return next(iter(self._ledger.promotions(model=self.model, actions=MOVES, limit=1)), {})

    def _record(
        self,
        check_held: Callable[[], None],
        action: str,
        before: int | None,
        after: int | None,
        reason: str,
        evidence: Mapping[str, Any],
    ) -> None:
        check_held()
        self._ledger.record_promotion(
            actor=self._actor,
            action=action,
            model=self.model,
            from_version=before,
            to_version=after,
            reason=reason,
            evidence=evidence,
            run_key=self._run_key,
        )


def _as_ref(name: str, version: RegisteredVersion, *, metric: str = "", value: float = 0.0) -> ModelRef:
    return ModelRef(
        name=name,
        version=version.version,
        run_id=version.run_id,
        bundle_digest=version.tags.get("tire.bundle_digest", ""),
        candidate=version.tags.get("tire.candidate", ""),
        snapshot_digest=version.tags.get("tire.snapshot", ""),
        metric=metric,
        value=value,
    )
