import numpy as np
import pytest
from sklearn import metrics as sk

from tire_pipeline import metrics
from tire_pipeline.errors import InputError


def scored(seed: int = 0, n: int = 200, num_classes: int = 2) -> metrics.Scored:
    rng = np.random.default_rng(seed)
    y_N = rng.integers(0, num_classes, n)
    p_NK = rng.dirichlet(np.ones(num_classes), n).round(2) + np.eye(num_classes)[y_N] * 0.4
    p_NK /= p_NK.sum(axis=1, keepdims=True)
    return metrics.Scored(y_N, p_NK, p_NK.argmax(axis=1), 1)


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_every_metric_agrees_with_scikit_learn(seed: int, num_classes: int) -> None:
    s = scored(seed, num_classes=num_classes)
    truth, score = s.y_N == 1, s.p_NK[:, 1]
    expected = {
        "accuracy": sk.accuracy_score(s.y_N, s.predicted_N),
        "balanced_accuracy": sk.balanced_accuracy_score(s.y_N, s.predicted_N),
        "f1_macro": sk.f1_score(s.y_N, s.predicted_N, average="macro"),
        "log_loss": sk.log_loss(s.y_N, s.p_NK),
        "precision": sk.precision_score(truth, s.predicted_N == 1),
        "recall": sk.recall_score(truth, s.predicted_N == 1),
        "specificity": sk.recall_score(~truth, s.predicted_N != 1),
        "auroc": sk.roc_auc_score(truth, score),
        "auprc": sk.average_precision_score(truth, score),
    }
    got = metrics.point(s)
    assert {k: got[k] for k in expected} == pytest.approx(expected, abs=1e-6)
    assert set(got) == set(metrics.names(has_positive=True))


def test_intervals_hold_the_value_and_widen_when_images_come_in_groups() -> None:
    s = scored()
    alone = metrics.with_intervals(s, np.arange(200))
    grouped = metrics.with_intervals(s, np.repeat(np.arange(20), 10))
    assert alone["accuracy_low"] < alone["accuracy"] < alone["accuracy_high"]
    width = {k: v["accuracy_high"] - v["accuracy_low"] for k, v in (("alone", alone), ("grouped", grouped))}
    assert width["alone"] > 0.05
    assert abs(alone["accuracy"] - grouped["accuracy"]) < 1e-12


def test_perfect_answers_have_no_error_and_no_spread() -> None:
    y_N = np.array([0, 1] * 20)
    s = metrics.Scored(y_N, np.eye(2)[y_N], y_N, 1)
    got = metrics.with_intervals(s, np.arange(40))
    assert got["balanced_accuracy"] == got["balanced_accuracy_low"] == got["auroc"] == 1.0
    assert got["brier"] == pytest.approx(0.0, abs=1e-9)
    assert got["ece"] == pytest.approx(0.0, abs=1e-9)


def test_wilson_is_the_published_interval() -> None:
    low, high = metrics.wilson(81, 263)  # Newcombe 1998, table I: 0.2553 to 0.3662
    assert (low, high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert metrics.wilson(0, 0) == (0.0, 1.0)


def test_the_paired_difference_sees_a_better_model_and_not_a_copy() -> None:
    champion = scored(n=400)
    better_p = champion.p_NK + np.eye(2)[champion.y_N] * 0.8
    candidate = metrics.Scored(champion.y_N, better_p / better_p.sum(1, keepdims=True), better_p.argmax(1), 1)
    _, low, _ = metrics.paired_difference(candidate, champion, np.arange(400), "accuracy")
    assert low > 0
    assert metrics.paired_difference(champion, champion, np.arange(400), "accuracy") == (0.0, 0.0, 0.0)


def test_loss_is_the_log_loss_and_an_unknown_metric_lists_the_known() -> None:
    known = metrics.names(has_positive=True)
    assert metrics.canonical("Loss", known) == "log_loss"
    assert metrics.canonical("test/balanced_accuracy", known) == "balanced_accuracy"
    assert metrics.better("log_loss", 0.1, 0.2)
    assert metrics.better("recall", 0.2, 0.1)
    with pytest.raises(InputError, match="balanced_accuracy"):
        metrics.canonical("accurracy", known)
