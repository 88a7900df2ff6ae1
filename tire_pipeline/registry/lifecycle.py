"""Moves of a model through its life, each under the ledger's lock and in its append-only history."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tire_pipeline.errors import GateRefused, InputError
from tire_pipeline.metrics import better
from tire_pipeline.refs import EvaluationRef, ModelRef
from tire_pipeline.registry.gate import Decision
from tire_pipeline.stores.ledger import Ledger
from tire_pipeline.stores.tracking import RegisteredVersion, Tracking

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
        with self._ledger.promotion_lock(self.model):
            known = self._tracking.version_by_tag("tire.key", trained.key)
            found = known or self._tracking.register(run_id=trained.run_id, key=trained.key, tags=tags)
            if not self._recorded("registered", found.version):
                evidence = {"metrics": evaluation.metrics, "key": trained.key, "bundle": trained.bundle_digest}
                self._record("registered", None, found.version, evaluation.reason, evidence)
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
        with self._ledger.promotion_lock(self.model):
            before = self._behind("staging")
            if before != model.version or not self._recorded("staged", model.version):
                self._tracking.set_alias("staging", model.version)
                reason = f"best of its snapshot by {model.metric}: {model.value:.3f}"
                self._record("staged", before, model.version, reason, {"model": model.bundle_digest})
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
        with self._ledger.promotion_lock(self.model):
            current = self._behind("production")
            stale = current != expected and current != model.version
            if stale or not decision.promote:
                reason = (
                    f"version {current} went into production since this was decided against version {expected}"
                    if stale
                    else decision.reason
                )
                self._record("refused", current, model.version, reason, evidence)
                raise GateRefused(f"{model.candidate} (version {model.version}) stays out of production: {reason}.")
            if current != model.version:
                if current is not None:
                    self._tracking.set_alias("previous", current)
                self._tracking.set_alias("production", model.version)
            if (recorded := self._last_produced()) != model.version:
                before = recorded if current == model.version else current  # the alias moved, and then came a crash
                self._record("produced", before, model.version, decision.reason, evidence)
        return current

    def refuse(self, model: ModelRef, reason: str) -> None:
        """Write down that a person said no; moves nothing. Repeating it in the same run changes nothing."""
        with self._ledger.promotion_lock(self.model):
            if not self._recorded("refused", model.version, reason):
                evidence = {"model": model.bundle_digest}
                self._record("refused", self._behind("production"), model.version, reason, evidence)

    def rollback(self, *, to: int | None = None) -> tuple[int, int]:
        """Put the version before, or version `to`, back into production; returns (from, to).

        It is written down before it is done: had the aliases moved first and the record failed, repeating the command
        would go back to the version that was just left. What an earlier move left half done is completed.
        """
        with self._ledger.promotion_lock(self.model):
            champion, last = self.champion(), self._last_move()
            if champion is None:
                raise InputError(NOTHING_BEFORE)
            current = champion.version
            rolled_back = bool(last) and last["action"] == "rolled_back"
            if rolled_back and last["to_version"] == current == self._behind("previous") and to in (None, current):
                self._tracking.set_alias("previous", last["from_version"])
                return last["from_version"], current
            if last and last["to_version"] != current and not (rolled_back and last["from_version"] == current):
                reason = "found in production without a record: its promotion was cut short, or it was moved by hand"
                self._record("produced", last["to_version"], current, reason, {})
            target = self._served_before(current) if to is None else self._version(to)
            if target.version != current:
                if self._last_produced() != target.version:
                    digests = {str(v.version): v.tags.get("tire.bundle_digest", "") for v in (champion, target)}
                    self._record("rolled_back", current, target.version, "asked for by a person", {"bundles": digests})
                self._tracking.set_alias("production", target.version)
                self._tracking.set_alias("previous", current)
        return current, target.version

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

    def _last_produced(self) -> int | None:
        """The version that the history says is in production; a crash may have moved the alias without a record."""
        return self._last_move().get("to_version")

    def _record(
        self, action: str, before: int | None, after: int | None, reason: str, evidence: Mapping[str, Any]
    ) -> None:
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
