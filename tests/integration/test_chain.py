"""The chain of steps against real stores, from a folder to a model in production."""

from __future__ import annotations

import json
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from safetensors.torch import save_file
from torchvision import models

from tire_pipeline import steps
from tire_pipeline.datasets.labels import Columns
from tire_pipeline.errors import DataRefused, GateRefused, InputError
from tire_pipeline.refs import EvaluationRef, digest_of_file
from tire_pipeline.registry.lifecycle import bundle_prefix
from tire_pipeline.steps.live import stored_bundle
from tire_pipeline.wiring import Services

FORM = {"candidates": ["cnn"], "epochs": 6, "image_height": 32, "image_width": 32, "batch_size": 16}


def draw(folder: Path, *, seed: int = 0, per_class: int = 60, noise: bool = False) -> Path:
    """Grey squares: `defective` ones have a dark bar. With `noise` the classes differ in nothing."""
    rng = np.random.default_rng(seed)
    for label in ("good", "defective"):
        (folder / label).mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.normal(128, 25, (48, 48, 3)).clip(0, 255).astype(np.uint8)
            if label == "defective" and not noise:
                row = int(rng.integers(8, 36))
                pixels[row : row + 5, 8:40] = 20
            cv2.imwrite(str(folder / label / f"{i:03d}.png"), pixels)
    return folder


def run(live: Services, version: str, **form: object) -> list[EvaluationRef]:
    request = steps.check_request({"dataset_version": version, **FORM, **form})
    made = steps.split(steps.validate(version, services=live), seed=request.seed, services=live)
    specs = steps.training_specs(made, request)
    trained = [steps.train(s, services=live) for s in specs]
    return [steps.evaluate(t, made, threshold=request.threshold, services=live) for t in trained]


@pytest.mark.timeout(300)
def test_a_pushed_folder_becomes_the_model_in_production_and_a_better_one_replaces_it(
    live: Services, tmp_path: Path
) -> None:
    steps.push(draw(tmp_path / "a"), version="v1", services=live)
    evaluations = run(live, "v1", epochs=1)
    registered = steps.register(evaluations, run_key="r1", services=live) if evaluations[0].passed else []
    better = run(live, "v1")
    registered += steps.register(better, run_key="r2", services=live)
    staged = steps.stage("balanced_accuracy", run_key="r2", services=live)
    assert staged.version == registered[-1].version
    figures = steps.check_serving(staged, services=live)
    assert max(figures["parity_torch_onnx"], figures["parity_onnx_server"]) < 1e-4
    said = steps.evidence(staged, "balanced_accuracy", threshold=0.75, checked=figures, services=live)
    assert "The gate says **yes**" in said and "no model in production" in said and "- ✓ metric: " in said
    made = steps.produce("balanced_accuracy", threshold=0.75, run_key="r2", services=live)
    assert made.promoted
    assert steps.production_info(services=live)["version"] == staged.version
    again = steps.produce("balanced_accuracy", threshold=0.75, run_key="r2", services=live)
    assert again.model.version == staged.version
    actions = [r["action"] for r in reversed(steps.promotions(run_key="r2", services=live))]
    assert actions == ["registered", "staged", "produced"]
    text = steps.report(version="v1", run_key="r2", evaluations=better, services=live)
    assert f"version {staged.version} is in production" in text

    page = steps.overview_page(services=live)
    assert f'src="card/{staged.version}"' in page and "put into production" in page and "cannot" not in page
    assert "Dataset version <b>v1</b>" in page
    snapshot = better[0].trained.snapshot_digest
    assert f'src="data/{snapshot}"' in page
    assert "Figures on the locked test split" in steps.model_card(staged.version, services=live)
    assert "Class balance" in steps.data_report(snapshot, services=live)
    with pytest.raises(InputError, match="has no version 99"):
        steps.model_card(99, services=live)
    with pytest.raises(InputError, match="64 hex digits"):
        steps.data_report("../secret", services=live)
    gone = live.settings.model_copy(update={"mlflow_url": "http://me:word@127.0.0.1:1", "mlflow_public_url": ""})
    with closing(replace(live, settings=gone)) as other:
        page = steps.overview_page(services=other)
    assert (
        "MLflow at http://127.0.0.1:1 did not answer" in page and "word" not in page and "put into production" in page
    )


@pytest.mark.timeout(300)
def test_the_gate_knows_what_the_champion_learnt_from_and_what_it_does_not_know(live: Services, tmp_path: Path) -> None:
    folder = draw(tmp_path / "a")
    steps.push(folder, version="v1", services=live)
    quick = {"epochs": 2, "threshold": 0.0}  # how good they are is not asked here
    anyone = {"slice_min": None, "ece_max": None}
    (first,) = steps.register(run(live, "v1", **quick), run_key="r1", services=live)
    assert steps.produce("balanced_accuracy", limits=anyone, model=first, run_key="r1", services=live).promoted

    (reseeded,) = steps.register(run(live, "v1", **quick, seed=1), run_key="r2", services=live)
    with pytest.raises(GateRefused, match=r"version 1\) learnt from \d+ of the test images"):
        steps.produce("balanced_accuracy", model=reseeded, run_key="r2", services=live)
    (row, *_) = steps.promotions(services=live)
    assert row["action"] == "refused" and row["evidence"]["champion"]["num_learnt"] > 10

    rng = np.random.default_rng(9)
    (folder / "scratch").mkdir()
    for i in range(60):
        pixels = rng.normal(128, 25, (48, 48, 3)).clip(0, 255).astype(np.uint8)
        pixels[:, 8 + i % 30 : 13 + i % 30] = 250
        cv2.imwrite(str(folder / "scratch" / f"{i:03d}.png"), pixels)
    steps.push(folder, version="v2", services=live)
    (wider,) = steps.register(run(live, "v2", **quick), run_key="r3", services=live)
    made = steps.produce("balanced_accuracy", limits=anyone, model=wider, run_key="r3", services=live)
    assert "cannot be compared: it does not know scratch" in made.reason
    assert made.previous_version == first.version


@pytest.mark.timeout(300)
def test_an_evaluation_leaves_figures_answers_mistakes_and_a_card_and_int8_is_written_if_it_passes(
    live: Services, tmp_path: Path
) -> None:
    folder = draw(tmp_path / "a")
    label_views(folder)
    steps.push(folder, version="v1", services=live)
    (evaluation,) = run(live, "v1", epochs=2, cost_miss=20, cost_alarm=1, min_recall=0.98)
    run_id = evaluation.trained.run_id
    again = steps.evaluate_run(run_id, robust=True, services=live)
    assert again.metrics == pytest.approx(evaluation.metrics)
    figures = live.tracking.metrics(run_id)
    assert figures["test/cost"] == pytest.approx(evaluation.metrics["cost"])
    assert {f"robustness/{c}/recall" for c in ("blur", "dark", "noise", "jpeg_30", "turned_90")} <= set(figures)
    local = live.tracking.download(run_id, "evaluation", tmp_path / "artifacts")
    names = {p.name for p in local.iterdir()}
    assert {"report.json", "predictions.parquet", "model_card.md", "model_card.html", "worst_mistakes.png"} <= names
    assert "worst_mistakes_maps.png" in names
    assert {"mistakes_train.csv", "mistakes_val.csv", "mistakes_test.csv"} <= names
    kept = pd.read_parquet(local / "predictions.parquet")
    assert kept["side"].value_counts()["test"] == evaluation.num_test and len(kept) == 120
    record = json.loads((local / "report.json").read_text())
    assert (record["operating_point"]["cost_miss"], record["operating_point"]["recall_min"]) == (20.0, 0.98)
    views = {s["name"]: s["num_images"] for s in record["slices"] if s["name"].startswith("view=")}
    assert set(views) == {"view=tread", "view=sidewall"} and sum(views.values()) == evaluation.num_test
    assert "| view=sidewall" in (local / "model_card.md").read_text()

    written = steps.export(run_id, tmp_path / "int8", form="int8", threshold=0.0, services=live)
    assert written["max_difference"] > 0
    sizes = [(folder / "model.onnx").stat().st_size for folder in (tmp_path / "int8", onnx_of(live, run_id, tmp_path))]
    assert sizes[0] < sizes[1]
    with pytest.raises(GateRefused, match="The INT8 model is not written: it fails 1 of 3 rules: balanced accuracy"):
        steps.export(run_id, tmp_path / "never", form="int8", threshold=1.0, services=live)
    assert not (tmp_path / "never").exists()


@pytest.mark.timeout(300)
def test_int8_is_a_candidate_that_its_own_evaluation_lets_into_production_or_not(
    live: Services, tmp_path: Path
) -> None:
    steps.push(draw(tmp_path / "a"), version="v1", services=live)
    (evaluation,) = run(live, "v1")
    made = steps.quantize(evaluation.trained.run_id, services=live)
    assert made.candidate == "cnn-int8" and made.bundle_digest != evaluation.trained.bundle_digest
    assert steps.quantize(evaluation.trained.run_id, services=live) == replace(made, cached=True)
    with pytest.raises(InputError, match="is INT8 already"):
        steps.quantize(made.run_id, services=live)

    own = steps.evaluate_run(made.run_id, services=live)
    (model,) = steps.register([own], run_key="r1", services=live)
    steps.check_serving(model, services=live)
    local = live.tracking.download(made.run_id, "evaluation", tmp_path / "artifacts")
    found = json.loads((local / "serving_check.json").read_text())["parity"]
    assert [p["between"] for p in found] == ["torch and ONNX", "ONNX and INT8", "INT8 and the server"]
    assert [p["num_images"] for p in found] == [own.num_test] * 3
    assert found[1]["max_difference"] > found[2]["max_difference"] and found[2]["num_flips"] == 0
    strict = live.settings.model_copy(update={"parity_int8_difference_max": found[1]["max_difference"] / 2})
    with closing(replace(live, settings=strict)) as other, pytest.raises(GateRefused, match="ONNX and INT8 differ by"):
        steps.check_serving(model, services=other)

    with pytest.raises(GateRefused, match=r"cnn-int8 .* stays out of production"):
        steps.produce("balanced_accuracy", threshold=1.0, model=model, run_key="r1", services=live)
    assert steps.produce("balanced_accuracy", threshold=0.5, model=model, run_key="r1", services=live).promoted


def label_views(folder: Path) -> None:
    """A labels.csv beside the pictures, which says for each of them which side of the tyre it shows."""
    images = sorted(p.relative_to(folder) for p in folder.rglob("*.png"))
    rows = [f"{p.as_posix()},{p.parent.name},{('tread', 'sidewall')[i % 2]}" for i, p in enumerate(images)]
    (folder / "labels.csv").write_text("\n".join(["path,label,view", *rows]))


def onnx_of(live: Services, run_id: str, folder: Path) -> Path:
    steps.export(run_id, folder / "onnx", services=live)
    return folder / "onnx"


@pytest.mark.timeout(300)
def test_a_repeated_run_ends_from_the_cache_with_the_same_version(live: Services, tmp_path: Path) -> None:
    folder = draw(tmp_path / "a")
    steps.push(folder, version="v1", services=live)
    first = run(live, "v1")
    assert steps.push(folder, version="v1", services=live).uploaded == 0
    start = time.monotonic()
    second = run(live, "v1")
    assert time.monotonic() - start < 20
    assert second[0].trained.cached
    assert second[0].trained.bundle_digest == first[0].trained.bundle_digest
    assert second[0].metrics == first[0].metrics
    versions = {steps.register(e, run_key="r", services=live)[0].version for e in (first, second)}
    assert len(versions) == 1


@pytest.mark.timeout(300)
def test_noise_is_never_registered(live: Services, tmp_path: Path) -> None:
    steps.push(draw(tmp_path / "a", noise=True), version="v1", services=live)
    evaluations = run(live, "v1", epochs=2)
    with pytest.raises(GateRefused, match="balanced accuracy"):
        steps.register(evaluations, run_key="r", services=live)
    with pytest.raises(InputError, match="production"):
        steps.production_info(services=live)


def test_a_version_whose_bytes_changed_is_refused_by_name(live: Services, tmp_path: Path) -> None:
    steps.push(draw(tmp_path / "a", per_class=12), version="v1", services=live)
    key = "datasets/v1/good/000.png"
    data = bytearray(live.objects.get(key))
    data[len(data) // 2] ^= 1
    live.objects.put(key, bytes(data))
    with pytest.raises(DataRefused, match=r"good/000\.png"):
        steps.validate("v1", services=live)
    live.objects.delete(key)
    with pytest.raises(DataRefused, match=r"good/000\.png"):
        steps.validate("v1", services=live)


@pytest.mark.timeout(300)
def test_a_candidate_is_measured_by_cross_validation_without_any_image_judging_its_own_kind(
    live: Services, tmp_path: Path
) -> None:
    folder = draw(tmp_path / "a", per_class=24)
    rows = [f"{p.relative_to(folder)},{p.parent.name},{p.parent.name}-{int(p.stem) % 3}" for p in folder.rglob("*.png")]
    (folder / "labels.csv").write_text("\n".join(["path,label,group", *rows]))
    steps.push(folder, version="v1", services=live)
    snapshot = steps.validate("v1", services=live)
    request = steps.check_request({"dataset_version": "v1", **FORM})
    done: list[tuple[int, int]] = []
    measured = steps.cross_validate(
        snapshot, request, kind="logo", progress=lambda i, n: done.append((i, n)), services=live
    )
    assert done[-1] == (6, 6)
    assert {f["fold"] for f in measured.folds} == {f"{label}-{i}" for label in ("good", "defective") for i in range(3)}
    assert sum(f["num_images"] for f in measured.folds) == 48
    assert measured.passed == (measured.metrics["balanced_accuracy"] >= 0.75)
    assert live.tracking.metrics(measured.run_id)["cv/accuracy"] == pytest.approx(measured.metrics["accuracy"])
    with pytest.raises(InputError, match=r"'jackknife' is unknown\. Choose from: kfold, logo"):
        steps.cross_validate(snapshot, request, kind="jackknife", services=live)


@pytest.mark.timeout(300)
def test_the_next_version_is_reported_against_the_data_and_by_the_model_in_production(
    live: Services, tmp_path: Path
) -> None:
    steps.push(draw(tmp_path / "a"), version="v1", services=live)
    registered = steps.register(run(live, "v1"), run_key="r1", services=live)
    steps.stage("balanced_accuracy", snapshot_digest=registered[0].snapshot_digest, run_key="r1", services=live)
    assert steps.produce("balanced_accuracy", threshold=0.75, run_key="r1", services=live).promoted
    folder = draw(tmp_path / "b", seed=5, per_class=40)
    swapped = [f"good/{i:03d}.png" for i in (3, 14, 15)]
    for path in swapped:  # a pit is taken for a good one: its picture lies in the wrong folder
        (folder / path).write_bytes((folder / path.replace("good", "defective")).read_bytes() + b"\0")
        (folder / path.replace("good", "defective")).unlink()
    darker = [p for p in folder.rglob("*.png") if p.relative_to(folder).as_posix() not in swapped]
    for file in darker:
        cv2.imwrite(str(file), np.clip(cv2.imread(str(file)).astype(int) - 12, 0, 255).astype(np.uint8))
    steps.push(folder, version="v2", services=live)
    snapshot = steps.validate("v2", services=live)
    record = live.objects.get_json(f"snapshots/{snapshot.digest}/report.json")
    assert record["reference"] == "v1"
    assert record["doubter"].startswith(f"the model in production (version {registered[0].version}), balanced accuracy")
    assert set(swapped) <= {s["path"] for s in record["suspects"]}
    shifted = [s["column"] for s in record["shifts"] if s["notable"]]
    assert "brightness" in shifted
    assert not {"width", "height", "format", "label"} & set(shifted)
    warned = " ".join(record["warnings"])
    assert f"nothing has shifted against the data of the model in production: found {len(shifted)}" in warned
    run_id = live.tracking.find_run("tire.data_version", "v2")
    assert run_id is not None
    assert live.tracking.metrics(run_id)["data/num_suspects"] == len(record["suspects"])
    text = steps.report(version="v2", run_key="r2", evaluations=[], services=live)
    page = f"{live.tracking.run_url(run_id)}/artifacts/report.html"
    assert f"report on the data: {page}" in text


@pytest.mark.timeout(300)
def test_several_label_columns_make_one_model_that_is_judged_and_served_for_each_label(
    live: Services, tmp_path: Path
) -> None:
    folder = draw(tmp_path / "a", per_class=80)
    rows = ["path,condition,light"]
    for i, file in enumerate(sorted(folder.rglob("*.png"))):
        if i % 2:
            cv2.imwrite(str(file), 255 - cv2.imread(str(file)))  # a bright bar
        rows.append(f"{file.relative_to(folder)},{file.parent.name},{'negative' if i % 2 else 'positive'}")
    (folder / "labels.csv").write_text("\n".join(rows))
    steps.push(folder, version="v1", columns=Columns(label="condition,light"), services=live)
    (evaluation,) = run(live, "v1", epochs=12)
    snapshot = steps.validate("v1", services=live)
    assert len(snapshot.classes) == 4
    assert snapshot.classes[0] == "condition=defective;light=negative"
    logged = live.tracking.metrics(evaluation.trained.run_id)
    figures = [logged[f"test/{name}"] for name in ("accuracy", "condition/recall", "light/balanced_accuracy")]
    assert figures == [evaluation.metrics[n] for n in ("accuracy", "condition/recall", "light/balanced_accuracy")]
    assert evaluation.metrics["accuracy"] <= evaluation.metrics["condition/accuracy"]
    assert evaluation.metrics["condition/accuracy"] >= 0.8

    (registered,) = steps.register([replace(evaluation, passed=True)], run_key="r1", services=live)
    steps.check_serving(registered, services=live)
    made = steps.produce(
        "balanced_accuracy", threshold=0.5, limits={"recall_min": 0.7}, model=registered, services=live
    )
    rules = [v["rule"] for v in made.evidence["verdicts"]]
    assert rules[:4] == ["metric", "metric of condition", "metric of light", "recall of condition"]
    answers = steps.predict([folder / "defective", folder / "good"], services=live)
    assert {a["decision"] for a in answers} <= {"defective", "good", "review"}
    agreed = ["condition=defective" in a["label"] for a in answers if a["decision"] == "defective"]
    assert agreed and all(agreed)
    (quick,) = run(live, "v1", epochs=1, threshold=0.0)
    (worse,) = steps.register([quick], run_key="r2", services=live)
    with pytest.raises(GateRefused, match=r"stays out of production: .* the champion \(version 1\)"):
        steps.produce("balanced_accuracy", threshold=0.0, model=worse, services=live)


@pytest.mark.timeout(300)
def test_weights_in_s3_are_pinned_and_logged_and_their_normalisation_is_the_bundles(
    live: Services, tmp_path: Path
) -> None:
    save_file(models.resnet18().state_dict(), tmp_path / "r18.safetensors")
    sha256 = digest_of_file(tmp_path / "r18.safetensors")
    entry = {"file": "r18.safetensors", "sha256": sha256, "architecture": "resnet18", "licence": "mit"}
    live.objects.put_file("weights/r18.safetensors", tmp_path / "r18.safetensors")
    live.objects.put_json("weights/weights.json", {"files": [{**entry, "mean": [0.5] * 3, "std": [0.5] * 3}]})
    settings = live.settings.model_copy(update={"weights": f"s3://{live.settings.bucket}/weights"})
    with closing(Services(settings)) as s:
        steps.push(draw(tmp_path / "a", per_class=24), version="v1", services=s)
        first, again = (
            run(s, "v1", candidates=["resnet18"], weights="imagenet", epochs=1)[0].trained for _ in range(2)
        )
        assert again.cached and again.bundle_digest == first.bundle_digest
        with stored_bundle(s, bundle_prefix(first.key)) as bundle:
            assert (bundle.preprocessing.mean, bundle.preprocessing.std) == ((0.5,) * 3, (0.5,) * 3)
    client = MlflowClient(tracking_uri=settings.mlflow_url)
    assert sha256 in client.get_run(first.run_id).data.params["pretrained"]
    assert "augmentation.png" in {a.path for a in client.list_artifacts(first.run_id)}
