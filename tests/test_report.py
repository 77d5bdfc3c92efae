import base64
import hashlib
import io
import json
import re
import subprocess
import warnings
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from crystal_results import draw_crystal, make_result
from PIL import Image
from reports import HOSTILE, Reader, as_simulator, infer_micrograph, infer_patches, unpack

import bayesctx as bc
from bayesctx.cli import main
from bayesctx.cli.reports import report_result
from bayesctx.defects import DEFECTS, SPECIES
from bayesctx.plots import COLOURS, MARKERS
from bayesctx.plots.symbols import outline
from bayesctx.prediction import Columns, read_draw, render_draw
from bayesctx.report.charts import density_chart, format_number
from bayesctx.report.context_rows import context_rows, describe_stated, probe_rows
from bayesctx.report.expectation import STILL, _columns, expect_image
from bayesctx.report.page import SCRIPTS
from bayesctx.report.rasters import draw_raster, fold_patches, pack
from bayesctx.report.trust import check_trust

SECTIONS = ("trust", "image", "numbers", "context", "probe", "information", "method", "cite")


@pytest.fixture(scope="module")
def results():
    """Results of every kind, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few effective draws
        network = infer_micrograph()
        found = {
            "network": network,
            "less": infer_micrograph({"host": "WSe2"}),
            "open host": infer_micrograph({}),
            "undoped": infer_micrograph({"host": "WSe2", "dopant": None}),
            "patches": infer_patches("patch"),
            "images": infer_patches("image"),
            "images of patches": infer_patches("image", "patch"),
        }
    found["simulator"] = as_simulator(network)
    found["vacuum"] = network.copy(deep=True)
    found["vacuum"]["constant_data"]["crystal"][:40] = 0
    found["vacuum"]["observed_data"]["intensity"][:30] = np.nan
    found["two detectors"] = as_simulator(network, detectors=("ADF1", "ADF2"))
    return found


@pytest.fixture(scope="module")
def pages(results, tmp_path_factory):
    """Their reports, by name, each read from the file of a loaded result."""
    folder = tmp_path_factory.mktemp("reports")
    found = {}
    for name, result in results.items():
        bc.save(result, folder / "result.nc")
        loaded = bc.load(folder / "result.nc")
        compared = (results["less"], loaded) if name == "network" else None
        path = bc.write_report(loaded, folder / f"{name}.html", compared=compared)
        found[name] = Reader(path.read_text(encoding="utf-8"))
    return found


KINDS = (
    "network", "less", "open host", "undoped", "patches", "images", "images of patches",
    "simulator", "two detectors", "vacuum",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_has_every_section_and_loads_nothing(kind, pages):
    page = pages[kind]
    tags = [tag for tag, _ in page.elements]
    assert [a["id"] for t, a in page.elements if t == "section"] == list(SECTIONS)
    # nothing that a browser fetches: only data of the page itself, and no element that could
    fetched = {"src", "srcset", "data", "poster", "action", "formaction", "background"}
    for tag, attrs in page.elements:
        for name in fetched & set(attrs):
            assert attrs[name].startswith("data:"), (tag, name)
        if "href" in attrs:
            assert attrs["href"].startswith(("#", "data:")), attrs
    assert not {"iframe", "object", "embed", "base", "form"} & set(tags)
    assert "log score" in page.words()
    assert "unknown" in page.words()
    assert "How to cite" in page.words()


@pytest.mark.parametrize("kind", KINDS)
def test_the_policy_allows_the_script_of_the_page_and_no_connection(kind, pages):
    page = pages[kind]
    (policy,) = (a["content"] for _, a in page.elements if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; ")
    data, script = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "http" not in policy
    assert "url(" not in script
    assert json.loads(data)["classes"][0]["name"] == DEFECTS[0]


def test_every_id_is_unique_and_every_reference_leads_somewhere(pages):
    for page in pages.values():
        ids = [a["id"] for _, a in page.elements if "id" in a]
        assert len(ids) == len(set(ids))
        for _, attrs in page.elements:
            for name in ("aria-labelledby", "aria-describedby", "for"):
                assert attrs.get(name, ids[0]) in ids
            if attrs.get("href", "").startswith("#"):
                assert attrs["href"][1:] in ids


def test_what_comes_from_files_is_escaped(results, tmp_path):
    result = results["two detectors"].copy(deep=True)
    entry = {"value": 6e4, "unit": "eV", "origin": HOSTILE, "recorded": HOSTILE}
    result.attrs |= {
        "source": f"/data/{HOSTILE}", "format": HOSTILE, "history": HOSTILE,
        "recorded": json.dumps({"beam_energy": entry, "detector": {HOSTILE: {}}}),
        "context": json.dumps({"beam_energy": HOSTILE, "abundance": {HOSTILE: HOSTILE}}),
        "version": HOSTILE, "model": HOSTILE, "seed": HOSTILE, "stated": json.dumps([HOSTILE]),
    }  # fmt: skip
    for group in result.children.values():
        if "detector" in group.coords:
            group.coords["detector"] = [HOSTILE, "]]> <!--"]
    path = bc.write_report(result, tmp_path / "a.html", notes=[HOSTILE, "{{ 7 * 7 }}"])
    text = path.read_text(encoding="utf-8")
    page = Reader(text)
    assert len(page.scripts) == 2
    assert "<script>window" not in text
    assert "<img src=x" not in text
    assert not [a for _, a in page.elements if "onerror" in a or a.get("src") == "x"]
    words = page.words()
    # the text itself is shown as it is
    assert words.count("window.hacked = 1") >= 6
    assert "{{ 7 * 7 }}" in words
    assert page.data()["detectors"] == [HOSTILE, "]]> <!--"]


BROKEN = [
    {}, {"context": "[1"}, {"context": 3.5, "recorded": "[]"}, {"recorded": "{}", "stated": "{"},
]  # fmt: skip


@pytest.mark.parametrize("attrs", BROKEN)
def test_a_result_without_its_attributes_is_reported_all_the_same(attrs, results, tmp_path):
    result = results["network"].copy()
    result.attrs = dict(attrs)
    page = Reader(bc.write_report(result, tmp_path / "a.html").read_text(encoding="utf-8"))
    assert "not in the result" in page.words()


def test_a_result_with_little_in_it_is_reported_with_what_it_has(tmp_path):
    draws, sites, sublattice = draw_crystal(50, shape=(120, 120))
    result = make_result(draws, sites, sublattice, shape=(120, 120))
    page = Reader(bc.write_report(result, tmp_path / "a.html").read_text(encoding="utf-8"))
    words = page.words()
    assert "There is no expected and no residual image" in words
    assert [layer["kind"] for layer in page.data()["layers"]] == ["observed"]


def test_sites_and_their_probabilities_are_those_of_the_result(pages, results):
    data, result = pages["network"].data(), results["network"]
    shares = result["class_posterior"].defect.values
    found = unpack(data["sites"]["p"], np.uint16).reshape(shares.shape) / data["sites"]["steps"]
    np.testing.assert_allclose(found, shares, atol=0.5 / data["sites"]["steps"] + 1e-6)
    x = unpack(data["sites"]["x"], np.float32)
    np.testing.assert_array_equal(x, result["constant_data"].site_x.values.astype(np.float32))
    for entry in data["classes"]:
        assert entry["colour"] == COLOURS[entry["name"]]
        np.testing.assert_allclose(entry["corners"], outline(MARKERS[entry["name"]]), atol=5e-4)
    change = unpack(data["sites"]["change"], np.float32)
    less, more = (bc.entropy(r).entropy.values for r in (results["less"], result))
    np.testing.assert_allclose(change, less - more, atol=1e-6)


def test_the_picture_is_the_image(pages, results):
    (still,) = (a["src"] for t, a in pages["network"].elements if t == "img")
    layer = pages["network"].data()["layers"][0]
    grey = np.asarray(Image.open(io.BytesIO(base64.b64decode(still.partition(",")[2]))), float)
    seen = layer["low"] + grey / 255 * (layer["high"] - layer["low"])
    values = results["network"]["observed_data"].intensity.values
    step = (layer["high"] - layer["low"]) / 255
    assert layer["quality"] == 0
    assert np.abs(seen - values.clip(layer["low"], layer["high"])).max() <= 0.51 * step


def test_counts_are_those_of_the_table(pages, results):
    table = bc.counts(results["network"]).sel(outcome="V_X")
    words = pages["network"].words()
    low, high = (int(table[f"number_90_{side}"]) for side in ("low", "high"))
    assert f"{float(table.number):.1f}" in words
    assert f"{low}–{high}" in words


def test_context_is_sorted_into_given_soft_and_inferred(results):
    rows = {r.name: r for r in context_rows(results["network"])}
    assert {n: r.kind for n, r in rows.items()} == {
        "host": "given", "dopant": "soft", "beam_energy": "given",
        "convergence_semiangle": "soft", "inner_collection_angle": "given",
        "outer_collection_angle": "given", "defocus": "inferred", "dose": "inferred",
        "sampling": "measured", "assignment": "inferred",
    }  # fmt: skip
    assert rows["dopant"].note == "stated: Ti or V"
    assert "Uniform" in rows["convergence_semiangle"].note
    assert rows["beam_energy"].value == "80\u202f000"
    draws = results["network"]["posterior"].dose.values
    assert rows["dose"].interval.count(" to ") == 1
    assert rows["dose"].chart.is_log
    assert float(rows["dose"].value.split(" ±")[0].replace("\u202f", "")) == pytest.approx(
        draws.mean(), rel=0.05
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (80000.0, "80000"),
        ("WSe2", "WSe2"),
        (["Ti", "V"], "Ti or V"),
        ({"Uniform": [30.0, 40.0]}, "Uniform(30, 40)"),
        ({"V_X": 0.03, "Y_X": 0.0}, "V_X: 0.03, Y_X: 0"),
        (None, "none"),
    ],
)
def test_what_was_stated_is_said_in_words(value, text):
    assert describe_stated(value) == text


def test_a_given_angle_of_one_detector_is_given(results):
    result = results["two detectors"].copy(deep=True)
    angle = xr.DataArray(
        np.full((2, 20, 2), 60.0),
        dims=("chain", "draw", "detector"),
        coords={"detector": ["ADF1", "ADF2"]},
    )
    result["constant_data"] = result["constant_data"].to_dataset().drop_vars(
        "inner_collection_angle")  # fmt: skip
    angle[..., 1] += np.arange(20)
    result["posterior"]["inner_collection_angle"] = angle.assign_attrs(units="mrad")
    result.attrs["context"] = json.dumps({"detector": {"ADF1": {"inner_collection_angle": 60.0}}})
    rows = {r.title: (r.kind, r.value) for r in context_rows(result)}
    assert rows["inner collection angle, ADF1"] == ("given", "60")
    assert rows["inner collection angle, ADF2"][0] == "inferred"


def test_values_that_a_file_records_are_told_from_stated_ones(results):
    result = results["network"].copy()
    entry = {"value": 80e3, "unit": "eV", "origin": "Optics.AccelerationVoltage"}
    other = {"value": 50.0, "unit": "mrad", "origin": "Detector.Inner"}
    recorded = {"beam_energy": entry, "inner_collection_angle": other}
    result.attrs["recorded"] = json.dumps(recorded)
    rows = {r.name: r for r in context_rows(result)}
    assert rows["beam_energy"].kind == "recorded"
    assert rows["beam_energy"].note == "Optics.AccelerationVoltage"
    # what is stated wins, and both are told
    assert rows["inner_collection_angle"].kind == "given"
    assert rows["inner_collection_angle"].note == "the file records 50 (Detector.Inner)"


def test_a_value_that_was_stated_is_not_called_recorded(results):
    """Where the user states what the file records, and where the recorded dose was adapted."""
    result = results["network"].copy()
    entries = {
        "beam_energy": {"value": 80e3, "unit": "eV", "origin": "Optics.AccelerationVoltage"},
        "inner_collection_angle": {"value": 55.0, "unit": "mrad", "origin": "Detector.Inner"},
    }
    result.attrs |= {"recorded": json.dumps(entries), "stated": json.dumps(["beam_energy"])}
    rows = {r.name: r for r in context_rows(result)}
    assert rows["beam_energy"].kind == "given"
    assert rows["inner_collection_angle"].kind == "recorded"
    expected = "Detector.Inner; with the pixel size in the file 55"
    assert rows["inner_collection_angle"].note == expected


def test_the_given_context_is_said_to_be_stated_or_recorded(pages, results, tmp_path):
    assert "Given context (JSON)" in pages["network"].words()
    result = results["network"].copy()
    result.attrs |= {"recorded": "{}", "stated": json.dumps(["host", "dopant"])}
    path = bc.write_report(result, tmp_path / "a.html")
    words = Reader(path.read_text(encoding="utf-8")).words()
    assert "Given context: stated, and recorded by the file (JSON)" in words
    assert "Stated: host, dopant. The rest is what the file records." in words


def test_abundances_that_were_given_are_listed(results):
    result = results["network"].copy()
    stated = json.loads(result.attrs["context"]) | {"abundance": {"Y_X": 0.0, "V_X": "Uniform()"}}
    result.attrs["context"] = json.dumps(stated)
    rows = {r.name: (r.kind, r.value) for r in context_rows(result)}
    assert rows["abundance.Y_X"] == ("given", "0")
    assert rows["abundance.V_X"] == ("soft", "Uniform()")


def test_the_probe_is_that_of_the_simulator(pages, results):
    assert probe_rows(results["network"]) == []
    rows = {r.name: r for r in probe_rows(results["simulator"])}
    assert list(rows) == ["source_size", "C12", "phi12", "tilt", "row_jitter"]
    assert rows["source_size"].unit == "Å"
    assert rows["C12"].diagnosis == "30 effective, r-hat 1.20 (not mixed)"
    assert "Not inferred" in pages["network"].words()
    assert "Not inferred" not in pages["simulator"].words()
    assert "C12" in {c for check in check_trust(results["simulator"]) for c in re.findall(
        r"C12", check.text) if check.status == "doubt"}  # fmt: skip


def test_an_azimuth_around_zero_has_a_mean_around_zero(results):
    result = results["simulator"].copy(deep=True)
    around = np.random.default_rng(0).normal(0, 0.1, (2, 20)) % np.pi
    result["posterior"]["phi12"] = xr.DataArray(around, dims=("chain", "draw"))
    (row,) = (r for r in probe_rows(result) if r.name == "phi12")
    mean = float(row.value.split(" ±")[0].replace("−", "-"))
    assert min(mean, np.pi - mean) < 4 * 0.1 / np.sqrt(40)


def test_detectors_have_layers_and_rows_of_their_own(pages, results):
    data = pages["two detectors"].data()
    titles = [layer["title"] for layer in data["layers"]]
    assert titles == [f"{k}, {d}" for d in ("ADF1", "ADF2")
                      for k in ("Observed", "Expected", "Residual")]  # fmt: skip
    names = [r.title for r in context_rows(results["two detectors"])]
    assert "inner collection angle, ADF2" in names


def test_images_have_a_table_of_their_contexts(pages):
    words = pages["images"].words()
    assert "Context of each image" not in words  # a label, not text
    assert "each has a context of its own" in words
    data = pages["images"].data()
    assert data["labels"] == [f"image {k}" for k in range(4)]
    assert data["num_all"] == 4
    both = pages["images of patches"].data()["labels"]
    assert both == [f"image {i}, patch {k}" for i in (0, 1) for k in (0, 1)]
    assert pages["patches"].data()["labels"][3] == "patch 3"


def test_sites_without_crystal_are_left_out(pages, results):
    data = pages["vacuum"].data()
    flags = unpack(data["sites"]["flags"], np.uint8)
    assert (flags[:40] & 1 == 1).all()
    assert not (flags[40:] & 1).any()
    assert sum(c["count"] for c in data["classes"]) == len(flags) - 40
    present = unpack(data["columns"]["present"], np.int8)
    np.testing.assert_array_equal(present < 0, flags & 1 == 1)
    assert "40 sites lie in vacuum" in pages["vacuum"].words()
    expected = expect_image(results["vacuum"])
    assert np.isfinite(expected.image).all()


def test_warnings_of_the_run_and_low_numbers_are_told(results, tmp_path):
    result = results["network"].copy(deep=True)
    result["sample_stats"]["ess"] = 7.0
    result["sample_stats"]["surprise"] += 100
    result["sample_stats"]["conflict"][0] = 99.0
    claim = str(result["sample_stats"].claim.values[0])
    checks = {c.title: c for c in check_trust(result)}
    assert [c.status for c in checks.values()] == ["doubt", "doubt", "doubt", "good"]
    assert f"check {claim}, or leave it out" in checks[
        "Does the image agree with the given context?"].text  # fmt: skip
    path = bc.write_report(result, tmp_path / "a.html", notes=["the stage drifted"])
    words = Reader(path.read_text(encoding="utf-8")).words()
    assert "the stage drifted" in words
    assert "4 warnings and doubtful checks" in words
    assert "With 7 effective draws of the context they can be too narrow" in words


def test_the_limit_of_another_model_is_not_assumed(results):
    result = results["network"].copy()
    result.attrs["model"] = "another"
    (check,) = (c for c in check_trust(result) if c.title.startswith("Does the image agree"))
    assert check.status == "unknown"


def test_entropies_are_compared_where_two_results_are_given(pages, results):
    words = pages["network"].words()
    less, more = (bc.entropy(results[n]).entropy.values.mean() for n in ("less", "network"))
    assert f"{less:.3f} {more:.3f} {less - more:.3f}" in words
    assert "not compared" in pages["less"].words()


def test_likelihoods_of_compared_results_are_told(results, tmp_path):
    less, network, simulator = (results[n] for n in ("less", "network", "simulator"))
    texts = [
        Reader(
            bc.write_report(simulator, tmp_path / "a.html", compared=pair).read_text("utf-8")
        ).words()
        for pair in ((less, network), (less, simulator))
    ]
    assert "Both by the network" in texts[0]
    assert "The likelihoods differ" in texts[1]


def test_a_result_of_the_simulator_is_compared_by_the_network(results, tmp_path):
    image = results["simulator"]["observed_data"].intensity
    path, context = tmp_path / "a.html", {"host": "WSe2", "beam_energy": 80e3}
    report_result(path, image, context, bc.load_model(), results["simulator"], ["a note"])
    words = Reader(path.read_text(encoding="utf-8")).words()
    assert "Less context: nothing. More context: host = WSe2; beam_energy = 80000." in words
    assert "Both by the network" in words
    assert "a note" in words
    # detectors together are read by the simulator only
    several = results["two detectors"]
    report_result(path, several["observed_data"].intensity, context, None, several, [])
    assert "not compared" in Reader(path.read_text(encoding="utf-8")).words()


def test_results_of_other_images_are_not_compared(results, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = infer_micrograph({"host": "WSe2"}, seed=4)
    for pair in ((other, results["network"]), (other, other)):
        with pytest.raises(ValueError, match="same patches"):
            bc.write_report(results["network"], tmp_path / "a.html", compared=pair)


@pytest.mark.parametrize("name", ["a.pdf", "a", "a.html.gz"])
def test_another_suffix_is_refused(name, results, tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.html was expected for a report"):
        bc.write_report(results["network"], tmp_path / name)


def test_what_is_no_result_is_refused(tmp_path):
    with pytest.raises(TypeError, match="DataTree was expected"):
        bc.write_report(np.ones(3), tmp_path / "a.html")
    with pytest.raises(ValueError, match="a result of infer was expected"):
        bc.write_report(xr.DataTree(), tmp_path / "a.html")


def test_a_report_without_matplotlib_says_what_to_install(results, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install bayesctx\[plot\]"):
        bc.write_report(results["network"], tmp_path / "a.html")


def test_the_same_result_gives_the_same_file(results, tmp_path):
    first, second = (
        bc.write_report(results["network"], tmp_path / n).read_bytes() for n in ("a.html", "b.html")
    )
    assert first == second


def test_another_column_changes_the_expected_image_as_rendering_it_does(results):
    result = results["network"]
    crystal, values = Columns.of(result), read_draw(result, 0) | STILL
    hypotheses, columns, step = _columns(result, values, 0)
    at = [[h.defect for h in hypotheses].index(n) for n in ("X2", "V_X2")]
    species = [next(k for k, s in enumerate(SPECIES) if s.defect == n) for n in ("X2", "V_X2")]
    middle = int(np.argmin(((crystal.places - 55) ** 2).sum(1)))
    images = []
    for own in species:
        every = np.full(len(crystal.places), species[0])
        every[middle] = own
        rng = np.random.default_rng(0)
        images.append(render_draw(values, crystal, every, (112, 112), rng)[0])
    alone = columns[0, at[1]] - columns[0, at[0]]
    side = alone.shape[0]
    x, y = (np.arange(112) - place for place in crystal.places[middle])
    u, v = (np.meshgrid(x, y)[k] / step + (side - 1) / 2 for k in (0, 1))
    near = (np.minimum(u, v) > 0) & (np.maximum(u, v) < side - 1)
    found = _between(alone, v[near], u[near])
    true = (images[1] - images[0])[near]
    # points lie 0.15 Å apart: errors of h² / (8 width²) of the height, the width at least 0.35 Å
    assert np.abs(found - true).max() < 0.15**2 / (8 * 0.35**2) * np.abs(true).max()
    assert np.abs(true).max() > 0


def test_the_expected_image_explains_what_was_simulated(results):
    expected = expect_image(results["network"])
    values = results["network"]["observed_data"].intensity.values
    rest = expected.residual(values, 0)
    assert expected.image.shape == (1, 112, 112)
    # a fit with an intercept explains this share of the pixels near crystal, which is nearly all of
    # them, and leaves a residual of deviation one
    share = 1 - np.var(values - expected.image[0]) / np.var(values)
    assert share == pytest.approx(expected.explained[0], abs=0.01)
    assert share > 0.4
    assert rest.std() == pytest.approx(1, abs=0.1)


def _between(values, v, u):
    """Bilinear interpolation."""
    j, k = v.astype(int), u.astype(int)
    b, a = v - j, u - k
    return (
        values[j, k] * (1 - a) * (1 - b)
        + values[j, k + 1] * a * (1 - b)
        + values[j + 1, k] * (1 - a) * b
        + values[j + 1, k + 1] * a * b
    )


def test_large_images_stay_within_the_budget():
    noise = np.random.default_rng(0).normal(size=(600, 700))
    raster = draw_raster(noise, -3, 3, 60_000)
    assert raster.quality > 0
    assert len(base64.b64decode(raster.uri.partition(",")[2])) <= 60_000
    small = draw_raster(noise, -3, 3, 10_000)
    assert small.shrink > 1
    assert len(base64.b64decode(small.uri.partition(",")[2])) <= 10_000
    lossless = draw_raster(noise[:50, :50], -3, 3, 60_000)
    assert (lossless.quality, lossless.shrink) == (0, 1)


def test_missing_pixels_are_drawn_as_black():
    values = np.array([[0.0, np.nan], [np.inf, 1.0]])
    raster = draw_raster(values, 0.0, 1.0, 10**6)
    grey = np.asarray(Image.open(io.BytesIO(base64.b64decode(raster.uri.partition(",")[2]))))
    assert grey.tolist() == [[0, 0], [255, 255]]


def test_patches_lie_where_their_middles_say():
    patches = np.random.default_rng(0).random((5, 7, 9))
    image, middles = fold_patches(patches)
    for patch, (x, y) in zip(patches, middles.astype(int), strict=True):
        seen = image[y - 3 : y + 4, x - 4 : x + 5]
        low, high = patch.min(), patch.max()
        np.testing.assert_allclose(seen, (patch - low) / (high - low))


def test_packed_arrays_are_read_as_they_were():
    values = np.arange(-5, 300, dtype=np.int16)
    np.testing.assert_array_equal(unpack(pack(values), np.int16), values)


@pytest.mark.parametrize(
    ("value", "like", "text"),
    [
        (80000.0, (), "80\u202f000"),
        (0.1985643, (), "0.19856"),
        (60.0, (), "60"),
        (-25.31, (-45.0, 43.0), "−25"),
        (-0.001, (-1.0, 1.0), "0.0"),
        (150.0, (100.0, 7e5), "150"),
        (0.048803, (0.0498, 0.0498), "0.0488"),
        (np.nan, (0.0, 1.0), "–"),
        (0.0, (0.0, 0.0), "0"),
    ],
)
def test_numbers_have_the_digits_that_their_interval_supports(value, like, text):
    assert format_number(value, like) == text


def test_densities_have_equal_areas():
    rng = np.random.default_rng(0)
    chart = density_chart(rng.uniform(0, 10, 4000), rng.uniform(4, 6, 4000), 4000)
    areas = []
    for path in (chart.prior, chart.posterior):
        x = [float(re.match(r"M([\d.]+)", path)[1])]
        total = 0.0
        for y, right in re.findall(r"V([\d.]+)H([\d.]+)", path):
            total += (56 - float(y)) * (float(right) - x[-1])
            x.append(float(right))
        areas.append(total)
    # coordinates have one digit after the point
    assert areas[0] == pytest.approx(areas[1], rel=0.03)
    assert [t for _, t in chart.ticks] == ["0", "5", "10"] or len(chart.ticks) >= 3


@pytest.mark.filterwarnings("always")
def test_infer_writes_a_report_with_its_warnings_and_what_the_context_was_worth(tmp_path, capsys):
    prior = bc.reference_prior().given({"host": "WSe2", "dose": 1e5})
    data = bc.simulate_micrograph(prior, seed=3, num_pixels=112, sampling=0.2)
    np.save(tmp_path / "image.npy", data.intensity.values)
    words = ["--context", "host=WSe2", "sampling=0.2", "--likelihood", "network"]
    out = ["--out", str(tmp_path / "a.nc"), "--report", str(tmp_path / "a.html")]
    assert main(["infer", str(tmp_path / "image.npy"), *words, "--num-draws", "20", *out]) == 0
    page = Reader((tmp_path / "a.html").read_text(encoding="utf-8"))
    text = page.words()
    assert text.startswith("image.npy")
    told = [line.partition("warning: ")[2] for line in capsys.readouterr().err.splitlines()]
    assert "effective draws of the context" in told[0]
    assert told[0] in text
    assert "Less context: nothing." in text
    assert "More context: host = WSe2; sampling = 0.2." in text
    assert "change" in page.data()["sites"]


def test_infer_refuses_another_suffix_before_it_starts(tmp_path, capsys):
    words = ["infer", str(tmp_path / "absent.npy"), "--out", str(tmp_path / "a.nc")]
    assert main([*words, "--report", str(tmp_path / "a.pdf")]) == 2
    assert "a file that ends in .html or .htm was expected" in capsys.readouterr().err


def test_the_files_of_the_page_are_part_of_the_package():
    """Packages are built of what git does not ignore."""
    web = Path(str(resources.files("bayesctx.report") / "web"))
    files = [f for f in web.iterdir() if f.is_file()]
    assert {f.name for f in files} == {"report.html", "report.css", *SCRIPTS}
    checkout = Path(__file__).parents[1]
    if web.parents[2] == checkout:
        command = ["git", "-C", str(checkout), "check-ignore", *map(str, files)]
        assert subprocess.run(command, capture_output=True).stdout == b""


@pytest.mark.slow
def test_a_report_of_a_large_image_stays_below_five_megabytes(tmp_path):
    shape = (2048, 2048)
    draws, sites, sublattice = draw_crystal(20, shape=shape)
    given = {"host": "WSe2", "dopant": "Ti", "beam_energy": 80e3, "convergence_semiangle": 25.0,
             "inner_collection_angle": 60.0, "outer_collection_angle": 200.0, "defocus": 0.0,
             "dose": 1e5}  # fmt: skip
    result = make_result(draws, sites, sublattice, shape=shape, given=given)
    noise = np.random.default_rng(0).poisson(20.0, shape).astype(float)
    result["observed_data"]["intensity"] = xr.DataArray(noise, dims=("y", "x"))
    path = bc.write_report(result, tmp_path / "a.html")
    layers = Reader(path.read_text(encoding="utf-8")).data()["layers"]
    assert len(sites) > 10_000
    assert [layer["kind"] for layer in layers] == ["observed", "expected", "residual"]
    assert path.stat().st_size < 5e6
