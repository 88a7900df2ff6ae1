import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics as sk

from tests.unit.metrics.answers import as_one, right_where, scored
from tire_pipeline import metrics
from tire_pipeline.errors import InputError
from tire_pipeline.metrics.values import weighted


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_every_metric_agrees_with_scikit_learn(seed: int, num_classes: int) -> None:
    s = scored(seed, num_classes=num_classes)
    truth, score = s.y_N == 1, s.p_NK[:, 1]
    expected = {
        "accuracy": sk.accuracy_score(s.y_N, s.predicted_N),
        "balanced_accuracy": sk.balanced_accuracy_score(s.y_N, s.predicted_N),
        "f1_macro": sk.f1_score(s.y_N, s.predicted_N, average="macro"),
        "f1_weighted": sk.f1_score(s.y_N, s.predicted_N, average="weighted"),
        "log_loss": sk.log_loss(s.y_N, s.p_NK),
        "precision": sk.precision_score(truth, s.predicted_N == 1),
        "recall": sk.recall_score(truth, s.predicted_N == 1),
        "specificity": sk.recall_score(~truth, s.predicted_N != 1),
        "auroc": sk.roc_auc_score(truth, score),
        "auprc": sk.average_precision_score(truth, score),
    }
    if num_classes == 2:
        expected["brier"] = sk.brier_score_loss(truth, score)
    got = metrics.point(s)
    assert {k: got[k] for k in expected} == pytest.approx(expected, abs=1e-6)
    assert set(got) == set(metrics.names(has_positive=True))
    assert (metrics.confusion(s) == sk.confusion_matrix(s.y_N, s.predicted_N)).all()


OF_POSITIVES = ("precision", "recall", "specificity", "auroc", "auprc")


def test_several_positive_classes_count_as_one() -> None:
    s = replace(scored(num_classes=4), positives=(0, 2))
    got, expected = metrics.point(s), metrics.point(as_one(s))
    assert {k: got[k] for k in OF_POSITIVES} == pytest.approx({k: expected[k] for k in OF_POSITIVES})
    got, expected = (metrics.with_intervals(answers, np.arange(200)) for answers in (s, as_one(s)))
    ends = [f"{name}_{end}" for name in OF_POSITIVES[:3] for end in ("low", "high")]
    assert {k: got[k] for k in ends} == pytest.approx({k: expected[k] for k in ends})


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_weight_counts_an_image_as_often_as_copies_of_it_would(num_classes: int) -> None:
    s = scored(num_classes=num_classes, costs=metrics.Costs(20, 1))
    w_BN = np.random.default_rng(1).integers(0, 4, (3, 200))
    got = weighted(s, w_BN.astype(float))
    for b, w_N in enumerate(w_BN):
        rows = np.repeat(np.arange(200), w_N)
        copies = metrics.Scored(s.y_N[rows], s.p_NK[rows], s.predicted_N[rows], (1,), s.costs)
        assert {k: v[b] for k, v in got.items()} == pytest.approx(metrics.point(copies))


def test_a_thousand_classes_take_no_more_memory_than_their_probabilities() -> None:
    s = scored(n=300, num_classes=1000)
    tracemalloc.start()
    try:
        got = metrics.point(s)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert got["accuracy"] == pytest.approx(np.mean(s.correct))
    assert peak < 20 * s.p_NK.nbytes


def test_a_miss_costs_what_a_miss_costs_and_an_alarm_what_an_alarm_costs() -> None:
    y_N, given_N = np.array([1, 1, 0, 0, 2]), np.array([0, 1, 1, 0, 0])
    s = metrics.Scored(y_N, np.eye(3)[given_N], given_N, (1,), metrics.Costs(miss=20, alarm=2))
    assert s.cost.tolist() == [20, 0, 2, 0, 1]
    assert metrics.point(s)["cost"] == pytest.approx(23 / 5)
    assert metrics.Scored(y_N, s.p_NK, given_N).cost.tolist() == [1, 0, 1, 0, 1]
    assert metrics.Scored(y_N, s.p_NK, given_N, (0, 1), s.costs).cost.tolist() == [1, 0, 1, 0, 2]


@pytest.mark.parametrize("given", [{"miss": 0}, {"alarm": -1}, {"miss": math.inf}, {"alarm": math.nan}])
def test_a_cost_that_is_no_cost_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(InputError, match="must cost more than 0"):
        metrics.Costs(**given)


def test_what_the_images_do_not_allow_is_no_number() -> None:
    only_good = right_where(np.ones(5, bool), np.zeros(5, int))
    got = metrics.point(only_good)
    assert all(math.isnan(got[name]) for name in ("recall", "auroc", "auprc"))
    assert (got["accuracy"], got["specificity"], got["precision"]) == (1.0, 1.0, 0.0)


def test_loss_is_the_log_loss_and_an_unknown_metric_lists_the_known() -> None:
    known = metrics.names(has_positive=True)
    assert metrics.canonical("Loss", known) == "log_loss"
    assert metrics.canonical("test/balanced_accuracy", known) == "balanced_accuracy"
    assert metrics.better("log_loss", 0.1, 0.2)
    assert metrics.better("recall", 0.2, 0.1)
    with pytest.raises(InputError, match="balanced_accuracy"):
        metrics.canonical("accurracy", known)
