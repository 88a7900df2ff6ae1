"""The step that makes the INT8 form of a trained candidate a candidate of its own."""

from __future__ import annotations

import logging
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tire_pipeline.errors import InputError
from tire_pipeline.refs import TrainedRef, digest_of
from tire_pipeline.steps.evaluation import images_on, trained_in
from tire_pipeline.steps.live import live, stored_bundle

if TYPE_CHECKING:
    from tire_pipeline.bundle import Bundle
    from tire_pipeline.wiring import Services

log = logging.getLogger(__name__)
QUANTIZED_FROM = "tire.quantized_from"  # where the bundle lies that it was made of


def quantize(run_id: str, *, services: Services | None = None) -> TrainedRef:
    """Make the INT8 form of a finished training, with a bundle and an MLflow run of its own, or find it made already.

    Nothing but its own figures speaks for it: it is evaluated, registered, checked in the server and put into
    production as every candidate is, and refused as every candidate is. InputError for a run that is no finished
    training, or INT8 already.
    """
    from tire_pipeline.evaluation.quantization import quantized
    from tire_pipeline.registry.lifecycle import bundle_prefix
    from tire_pipeline.training.run import result_key

    s, begun = live(services), time.monotonic()
    source, tags = trained_in(s, run_id)
    if QUANTIZED_FROM in tags:
        raise InputError(f"The MLflow run {run_id} is INT8 already. Name the training that it was made of.")
    key, prefix = digest_of(["int8", source.key, source.bundle_digest]), bundle_prefix(source.key)
    if s.objects.head(result_key(key)) is not None:
        return TrainedRef(**{**s.objects.get_json(result_key(key)), "cached": True, "version": source.version})
    with stored_bundle(s, prefix) as bundle, tempfile.TemporaryDirectory(prefix="tire-int8-") as tmp:
        small = quantized(bundle, *images_on(s, bundle, tags, "train"), Path(tmp) / "bundle")
        s.objects.upload_folder(small.path, bundle_prefix(key))
        about = {name: tags[name] for name in ("tire.snapshot", "tire.split", "tire.version")}
        made = _tracked(s, small, {**about, "tire.cache_key": key, QUANTIZED_FROM: prefix}, Path(tmp))
    seconds = round(time.monotonic() - begun, 1)
    names = {"candidate": small.candidate, "key": key, "run_id": made, "bundle_digest": small.digest}
    trained = replace(source, **names, cached=False, seconds=seconds)
    s.objects.put_json(result_key(key), asdict(trained))
    log.info("%s is %s in INT8: run %s, bundle %s", trained.candidate, run_id, made, small.digest[:12])
    return trained


def _tracked(s: Services, bundle: Bundle, tags: dict[str, str], folder: Path) -> str:
    """The id of a finished MLflow run with these tags, the bundle, and its model."""
    from tire_pipeline.training.record import write_bundle

    (artifacts := folder / "artifacts").mkdir()
    write_bundle(bundle, artifacts)
    tags = {**tags, "tire.bundle_digest": bundle.digest}
    run_id = s.tracking.start_run(bundle.candidate, params={"form": "int8"}, tags=tags)
    s.tracking.log_folder(run_id, artifacts)
    s.tracking.end_run(run_id)
    return run_id
