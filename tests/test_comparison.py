"""Scores against known sites."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from crystal_results import draw_crystal, index, make_result

import bayesctx as bc
from bayesctx.defects import DEFECTS
from bayesctx.tables import compare


@pytest.fixture
def case():
    """Eleven worlds, of which the first is the truth."""
    draws, places, sublattice = draw_crystal(11, share=0.2)
    truth = {
        "site_x": places[:, 1], "site_y": places[:, 0], "defect": np.array(DEFECTS)[draws[0]]
    }  # fmt: skip
    return truth, make_result(draws, places, sublattice), draws


def test_scores_are_those_of_the_matched_sites(case):
    truth, result, draws = case
    scores = compare(truth, result)
    share = result["class_posterior"].defect.values
    best, chance = share.argmax(-1), share[np.arange(len(share)), draws[0]]
    assert scores.num_matched == len(share)
    assert scores.in_truth.values.tolist() == scores.in_result.values.tolist()
    assert scores.accuracy == pytest.approx((best == draws[0]).mean())
    assert scores.log_score == pytest.approx(np.log2(chance).mean(), rel=1e-6)
    assert scores.entropy == pytest.approx(float(bc.entropy(result).entropy.mean()), rel=1e-6)
    error = np.log2(chance).std(ddof=1) / len(chance) ** 0.5
    assert scores.log_score_error == pytest.approx(error, rel=1e-6)
    vacancy = index("V_X")[0]
    true, found = draws[0] == vacancy, best == vacancy
    row = scores.sel(label="V_X")
    assert row.recall == pytest.approx((true & found).sum() / true.sum())
    assert np.isnan(scores.recall.sel(label="X2_M"))
    assert (row.num_true, row.num_found, row.num_lost) == (true.sum(), found.sum(), 0)
    assert scores.confusion.sum() == len(share)
    assert scores.attrs == {"tolerance": 0.7}


def test_lost_and_spurious_sites_are_counted(case):
    truth, result, draws = case
    table = pd.DataFrame(truth)
    table.loc[3, "site_x"] += 4.5  # px of 0.2 Å: farther than the tolerance from any site
    fewer = table.drop(index=[7, 8])
    constants = result["constant_data"].to_dataset()
    crystal = np.arange(draws.shape[1]) != 11
    result["constant_data"] = constants.assign(crystal=("patch", crystal))
    scores = compare(fewer, result)
    assert scores.unmatched_result.values.tolist() == [3, 7, 8]
    # rows 3 and 11 of the table, of which two were dropped before the latter
    assert scores.unmatched_truth.values.tolist() == [3, 9]
    assert scores.num_lost.sum() == 2
    assert (scores.num_unmatched_truth, scores.num_unmatched_result) == (2, 3)
    wide = compare(fewer, result, tolerance=1.0)
    assert wide.num_unmatched_truth == 1
    assert wide.distance.max() == pytest.approx(0.9, abs=1e-5)


def test_labels_group_classes(case):
    truth, result, draws = case
    truth["defect"] = np.where(truth["defect"] == "V_X", "vacancy", truth["defect"])
    labels = {"vacancy": ["V_X", "V_X2"], "X2": ["X2"], "M": ["M"], "D_M": ["D_M"]}
    labels["hollow"] = ["hollow"]
    scores = compare(truth, result, labels=labels)
    assert scores.label.values.tolist() == [*labels, "other"]
    plain = compare(truth | {"defect": np.array(DEFECTS)[draws[0]]}, result)
    assert scores.accuracy == plain.accuracy
    # nothing else occurs
    assert scores.log_score == pytest.approx(float(plain.log_score), rel=1e-6)
    assert scores.num_true.sel(label="other") == 0


def test_no_match_has_no_scores(case):
    truth, result, _ = case
    empty = {n: v[:0] for n, v in truth.items()}
    scores = compare(empty, result)
    assert scores.num_matched == 0
    assert scores.num_unmatched_result == result["class_posterior"].sizes["patch"]
    assert np.isnan(scores.accuracy)
    assert np.isnan(scores.log_score)


def test_a_simulated_micrograph_is_its_own_truth():
    data = bc.simulate_micrograph(bc.reference_prior(), seed=1, num_pixels=128, sampling=0.2)
    known = {n: data[n].item() for n in bc.CONTEXT if n in data}
    result = bc.infer(data.intensity, known, likelihood="network", num_draws=64)
    scores = compare(data, result)
    matched, truth = bc.metrics.match_sites(data, result)
    assert scores.in_result.values.tolist() == np.flatnonzero(matched).tolist()
    assert scores.true.values.tolist() == truth.tolist()
    log_score = bc.log_score(result["class_posterior"].defect.isel(patch=matched), truth)
    assert scores.log_score == pytest.approx(float(log_score.mean()) / np.log(2))


CHANGES = {
    "list": (lambda t: [1], TypeError, "a Dataset, a DataFrame or a mapping was expected as truth"),
    "places": (lambda t: {"defect": t["defect"]}, ValueError, "name the columns so"),
    "classes": (
        lambda t: {n: t[n] for n in ("site_x", "site_y")},
        ValueError,
        "expected as defect",
    ),
    "length": (lambda t: t | {"defect": ["M"]}, ValueError, "a finite position and a class"),
    "nan": (lambda t: t | {"site_x": t["site_x"] * np.nan}, ValueError, "drop incomplete rows"),
    "name": (lambda t: t | {"defect": ["V_S"] * len(t["defect"])}, ValueError, "got 'V_S'; rename"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_errors_of_the_truth(kind, case):
    change, error, message = CHANGES[kind]
    with pytest.raises(error, match=message):
        compare(change(case[0]), case[1])


OPTIONS = {
    "far": ({"tolerance": 3.0}, ValueError, "tolerance"),
    "text": ({"labels": "V_X"}, TypeError, "labels was expected as a mapping"),
    "name": ({"labels": {"vacancy": "V_X"}}, TypeError, "labels was expected as a mapping"),
    "class": ({"labels": {"vacancy": ["V_S"]}}, ValueError, "'V_S'"),
    "twice": ({"labels": {"a": ["V_X"], "b": ["V_X"]}}, ValueError, "each class under one label"),
    "other": ({"labels": {"V_X": ["V_X"]}}, ValueError, "classes among V_X were expected"),
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_errors_of_options(kind, case):
    options, error, message = OPTIONS[kind]
    with pytest.raises(error, match=message):
        compare(case[0], case[1], **options)


def test_only_micrographs_are_compared(case):
    result = case[1]
    result["constant_data"] = xr.Dataset()
    with pytest.raises(ValueError, match="a result of a micrograph was expected"):
        compare(case[0], result)
