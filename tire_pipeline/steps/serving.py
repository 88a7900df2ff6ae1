"""Steps on what will serve: check the server with a candidate, and write a candidate's model as a file."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tire_pipeline.errors import GateRefused, InputError
from tire_pipeline.refs import ModelRef
from tire_pipeline.steps.contest import candidate_of, tags_of
from tire_pipeline.steps.evaluation import answers_on, draw_maps, images_on
from tire_pipeline.steps.live import check_digest, live, stored_bundle
from tire_pipeline.steps.quantization import QUANTIZED_FROM

if TYPE_CHECKING:
    from tire_pipeline.bundle import Bundle
    from tire_pipeline.evaluation.answers import Answers
    from tire_pipeline.evaluation.checked_server import ServingImage
    from tire_pipeline.evaluation.parity import Parity, ParityLimits
    from tire_pipeline.evaluation.serving_check import Served, Server
    from tire_pipeline.wiring import Services

log = logging.getLogger(__name__)
FETCHERS = 8  # originals that are in memory beside a request's
FORMATS = ("onnx", "int8")


def check_serving(
    model: ModelRef, *, task: Mapping[str, str] | None = None, services: Services | None = None
) -> dict[str, float]:
    """Start the server on the model's bundle, as a container of `TIRE_SERVING_IMAGE` where that is set, and compare its
    answers on every test image with those of onnxruntime and of torch; ask it for what is no image, and under a short
    load. Stops it.

    `task` are dag_id, run_id, task_id and map_index of the task instance that checks, by which the reaper knows when
    nobody waits for the container any more.

    An INT8 model stands between the ONNX model that it was made of and the server. What was found goes to MLflow, with
    pictures of where the network looked in its worst mistakes. GateRefused when anything differs, or takes more time
    or memory than the settings allow, or the input gate sends back too many test images (`TIRE_CHECK_*`,
    `TIRE_PARITY_*`).
    """
    from tire_pipeline.evaluation.parity import check
    from tire_pipeline.evaluation.serving_check import ServingLimits, check_answers, check_load, serving
    from tire_pipeline.training.trained import trained_network

    s = live(services)
    tags, settings = tags_of(s, model), s.settings
    with tempfile.TemporaryDirectory(prefix="tire-check-") as tmp:
        folder = s.objects.download_folder(tags["tire.bundle"], Path(tmp) / "bundle")
        with serving(folder, log_file=Path(tmp) / "server.log", image=_image(s, task or {})) as (bundle, server):
            check_digest(bundle, tags)
            figures = check_answers(bundle, server)
            figures |= check_load(bundle, server, ServingLimits(settings.check_p95_ms, settings.check_memory_mb))
            test = answers_on(s, bundle, tags, "test")
            original = _original(s, model, bundle, Path(tmp) / "original")
            network = trained_network(original)
            found = _parities(s, bundle, original, network, server, test)
        (made := Path(tmp) / "check").mkdir()
        draw_maps(original, network, test, made)
        _log_check(s, model, figures, list(found), made)
    for parity, limits in found.items():
        check(parity, limits)
    log.info("serving check of %s version %d: %s", model.candidate, model.version, figures)
    return figures | {p.name: p.max_difference for p in found}


def _image(s: Services, task: Mapping[str, str]) -> ServingImage | None:
    from tire_pipeline.evaluation.checked_server import ServingImage

    name, network = s.settings.serving_image, s.settings.trainer_network
    return ServingImage(name, network, s.containers, task) if name else None


def export(
    run_id: str,
    out: Path,
    *,
    form: str = "onnx",
    metric: str = "balanced_accuracy",
    threshold: float = 0.75,
    services: Services | None = None,
) -> dict[str, Any]:
    """Write the bundle of a finished training into the folder `out` (new): as it is, or with an INT8 model.

    INT8 is written only if its own evaluation on the test split passes the gate; GateRefused says what it lost.
    """
    if form not in FORMATS:
        raise InputError(f"The format is {form!r}, but must be one of {', '.join(FORMATS)}.")
    if out.exists():
        raise InputError(f"{out} exists. Name a folder that does not, so that nothing is mixed.")
    s = live(services)
    tags = s.tracking.tags(run_id)
    if "tire.bundle_digest" not in tags:
        raise InputError(f"The MLflow run {run_id} is no finished training of this project.")
    with stored_bundle(s, f"runs/{tags['tire.cache_key']}/bundle/") as bundle:
        if form == "onnx":
            shutil.copytree(bundle.path, out)
            return {"folder": str(out), "digest": bundle.digest}
        return _export_int8(s, bundle, tags, out, metric=metric, threshold=threshold)


def _export_int8(
    s: Services, bundle: Bundle, tags: dict[str, str], out: Path, *, metric: str, threshold: float
) -> dict[str, Any]:
    from tire_pipeline.evaluation.parity import compare
    from tire_pipeline.evaluation.quantization import quantized
    from tire_pipeline.registry.gate import Gate, decide

    test = answers_on(s, bundle, tags, "test")
    with tempfile.TemporaryDirectory(prefix="tire-int8-") as tmp:
        small = quantized(bundle, *images_on(s, bundle, tags, "train"), Path(tmp) / "bundle")
        own = answers_on(s, small, tags, "test")
        found = compare("ONNX and INT8", bundle, test.scored.p_NK, own.scored.p_NK)
        decision = decide(candidate_of(s, small, own, metric), None, Gate(metric, threshold))
        if not decision.promote:
            raise GateRefused(f"The INT8 model is not written: {decision.reason}.")
        shutil.copytree(small.path, out)
    return {"folder": str(out), "digest": small.digest, "reason": decision.reason, **asdict(found)}


def _original(s: Services, model: ModelRef, bundle: Bundle, folder: Path) -> Bundle:
    """The bundle that an INT8 one was made of, fetched into the folder; any other bundle is its own."""
    from tire_pipeline.bundle import Bundle

    prefix = s.tracking.tags(model.run_id).get(QUANTIZED_FROM)
    return Bundle.load(s.objects.download_folder(prefix, folder)) if prefix else bundle


def _parities(
    s: Services, bundle: Bundle, original: Bundle, network: Any, server: Server, test: Answers
) -> dict[Parity, ParityLimits]:
    """torch, ONNX, INT8 where the bundle is, and the server, each beside the next on the test images, and what may
    differ; the server is sent their files."""
    from tire_pipeline.evaluation.answers import probabilities
    from tire_pipeline.evaluation.parity import ParityLimits, compare
    from tire_pipeline.evaluation.torch_answers import torch_probabilities

    exact = ParityLimits(s.settings.parity_difference_max, s.settings.parity_flips_max)
    rough = ParityLimits(s.settings.parity_int8_difference_max, s.settings.parity_int8_flips_max)
    is_int8, own_NK = original is not bundle, test.scored.p_NK
    onnx_NK = probabilities(original, test.images_NHWC, test.positions)[0] if is_int8 else own_NK
    torch_NK = torch_probabilities(network, original, test.images_NHWC, test.positions)
    found = {compare("torch and ONNX", original, torch_NK, onnx_NK): exact}
    if is_int8:
        found[compare("ONNX and INT8", bundle, onnx_NK, own_NK)] = rough
    served, owed = _served(s, bundle, server, test)
    between = f"{'INT8' if is_int8 else 'ONNX'} and the server"
    last = compare(between, bundle, own_NK[served.places], served.p_NK, decided=(owed, served.decisions))
    return {**found, last: exact}


def _served(s: Services, bundle: Bundle, server: Server, test: Answers) -> tuple[Served, list[tuple[str, str]]]:
    """What the server says of the test images' files, and the label and decision that it owes each.

    GateRefused when the input gate sends back more of them than the settings allow: of such a model, production would
    see none of what its evaluation promises.
    """
    from tire_pipeline.evaluation.answers import gated
    from tire_pipeline.evaluation.serving_check import answers

    keys = list(test.rows["key"])
    served = answers(bundle, server, s.objects.get_many(keys, workers=FETCHERS, ahead=FETCHERS))
    if left_out := len(keys) - len(served.places):
        log.warning(
            "%d of %d test images are larger than the server takes; it was not asked for them", left_out, len(keys)
        )
    owed, num_refused = gated(bundle, test, served.places)
    if (share := num_refused / len(owed)) > s.settings.check_retakes_max:
        raise GateRefused(
            f"The model's input gate sends back {num_refused} of {len(owed)} test images ({share:.0%}); at most "
            f"{s.settings.check_retakes_max:.0%} is allowed. Nothing was promoted."
        )
    return served, owed


def _log_check(s: Services, model: ModelRef, figures: dict[str, float], found: list[Parity], folder: Path) -> None:
    record = {"serving": figures, "parity": [asdict(parity) for parity in found]}
    (folder / "serving_check.json").write_text(json.dumps(record, indent=1))
    s.tracking.log_folder(model.run_id, folder, to="evaluation")
    s.tracking.log_metrics(model.run_id, {f"serving/{name}": value for name, value in figures.items()})
