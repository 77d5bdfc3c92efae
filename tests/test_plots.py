import itertools
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import EllipseCollection
from matplotlib.colors import to_rgb
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

from bayesctx.crystal import HOSTS, METALS
from bayesctx.defects import DEFECTS
from bayesctx.metrics import class_reliability, reliability
from bayesctx.plots import (
    COLOURS,
    PERFECT,
    on_crystal,
    plot_class_reliability,
    plot_context,
    plot_defects,
    plot_reliability,
)

NUM_SITES = 60


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def arrange(intensity, num_patches, constants=None, assignments=True):
    """A result with random classes, as infer returns it: host and beam energy given."""
    rng = np.random.default_rng(0)
    shape = (1, 200)
    classes = {
        "defect": (
            ("patch", "defect_class"),
            rng.dirichlet(np.full(len(DEFECTS), 0.2), num_patches),
        ),
        "host": ("host_class", np.eye(len(HOSTS))[list(HOSTS).index("WSe2")]),
        "dopant": ("dopant_class", rng.dirichlet(np.ones(len(METALS)))),
    }
    if assignments:
        classes["assignment"] = ("assignment_class", rng.dirichlet(np.ones(2)))
    coords = {
        "defect_class": list(DEFECTS),
        "host_class": list(HOSTS),
        "dopant_class": list(METALS),
    }
    coords["assignment_class"] = ["metal-chalcogen-hollow", "chalcogen-metal-hollow"]
    draws = {
        "inner_collection_angle": rng.normal(60, 5, shape),
        "dose": 10 ** rng.normal(5, 0.1, shape),
    }
    before = {
        "inner_collection_angle": rng.uniform(25, 120, shape),
        "dose": 10 ** rng.uniform(3, 6, shape),
    }
    groups = {
        "posterior": xr.Dataset({n: (("chain", "draw"), v) for n, v in draws.items()}),
        "prior": xr.Dataset({n: (("chain", "draw"), v) for n, v in before.items()}),
        "class_posterior": xr.Dataset(classes, coords),
        "observed_data": xr.Dataset({"intensity": intensity}),
        "constant_data": xr.Dataset({"host": "WSe2", "beam_energy": 80e3} | (constants or {})),
    }
    return xr.DataTree.from_dict(groups)


@pytest.fixture
def micrograph():
    rng = np.random.default_rng(1)
    y, x = np.divmod(np.arange(NUM_SITES), 10)
    sites = {
        "site_y": ("patch", 20.0 + 10 * y),
        "site_x": ("patch", 15.0 + 10 * x),
        "sampling": 0.2,
    }
    return arrange((("y", "x"), rng.poisson(20.0, (90, 120))), NUM_SITES, sites)


@pytest.fixture
def patches():
    rng = np.random.default_rng(1)
    return arrange(
        (("patch", "y", "x"), rng.poisson(20.0, (NUM_SITES, 16, 16))), NUM_SITES, assignments=False
    )


def counts_of(result):
    """Sites by most probable class, for the classes that occur."""
    best = result["class_posterior"].defect.values.argmax(-1)
    return {
        name: n
        for name, n in zip(DEFECTS, np.bincount(best, minlength=len(DEFECTS)).tolist(), strict=True)
        if n
    }


def legend_of(ax):
    """Counts in the legend."""
    return {name: int(n) for name, n in (t.get_text().split() for t in ax.get_legend().get_texts())}


@pytest.mark.parametrize("kind", ["micrograph", "patches"])
def test_axes_in_axes_out_with_the_counts_of_the_most_probable_classes(kind, request):
    result = request.getfixturevalue(kind)
    ax = plt.figure().subplots()
    assert plot_defects(result, ax=ax) is ax
    assert legend_of(ax) == counts_of(result)
    assert plot_defects(result) is not ax
    ax.figure.canvas.draw()


def test_sites_have_their_position_the_colour_of_the_class_and_the_opacity_of_its_probability(
    micrograph,
):
    ax = plot_defects(micrograph, size=7.0)
    probabilities = micrograph["class_posterior"].defect.values
    best, sites = np.array(DEFECTS)[probabilities.argmax(-1)], micrograph["constant_data"]
    drawn = {c.get_label(): c for c in ax.collections if isinstance(c, EllipseCollection)}
    assert list(drawn) == sorted(DEFECTS, key=lambda d: d not in PERFECT)
    for name, collection in drawn.items():
        mine = best == name
        np.testing.assert_array_equal(
            collection.get_offsets(), np.stack([sites.site_x, sites.site_y], -1)[mine]
        )
        assert (collection.get_widths() == (0.45 if name in PERFECT else 1) * 7.0).all()
        colours = collection.get_facecolor() if name in PERFECT else collection.get_edgecolor()
        if mine.any():
            np.testing.assert_array_equal(
                colours[:, :3], np.tile(to_rgb(COLOURS[name]), (mine.sum(), 1))
            )
            np.testing.assert_array_equal(colours[:, 3], probabilities.max(-1)[mine].clip(0.1))
    assert drawn["D_M"].get_facecolor().size == 0


def test_a_choice_of_classes(micrograph):
    chosen = ["V_X", "D_M"]
    ax = plot_defects(micrograph, defects=chosen)
    assert legend_of(ax) == {name: n for name, n in counts_of(micrograph).items() if name in chosen}
    bare = plot_defects(micrograph, defects=())
    assert bare.get_legend() is None
    assert not any(isinstance(c, EllipseCollection) for c in bare.collections)
    with pytest.raises(ValueError, match="classes among M, D_M, .* were expected, got 'V_S'"):
        plot_defects(micrograph, defects=["V_S"])


def test_the_scale_bar_is_as_long_as_it_says(micrograph):
    ax = plot_defects(micrograph)
    (bar,) = (a for a in ax.artists if isinstance(a, AnchoredSizeBar))
    assert bar.txt_label.get_text() == "5 Å"
    # 5 Å is the largest round length within a quarter of 24 Å; a pixel is 0.2 Å
    assert bar.size_bar.get_children()[0].get_width() == pytest.approx(25.0, abs=1e-12)


def test_patches_lie_side_by_side_with_class_and_probability(patches):
    ax = plot_defects(patches)
    probabilities = patches["class_posterior"].defect.values
    assert len(ax.images) == NUM_SITES
    expected = [f"{DEFECTS[p.argmax()]} {p.max():.2f}" for p in probabilities]
    assert [t.get_text() for t in ax.texts] == expected
    colours = [line.get_color() for line in ax.lines]
    assert colours == [COLOURS[text.split()[0]] for text in expected]


def test_independent_images_are_patches_too_and_many_are_cut_off():
    result = arrange((("patch", "y", "x"), np.ones((300, 8, 8))), 300, assignments=False)
    ax = plot_defects(result)
    assert len(ax.images) == 100
    assert ax.get_title() == "the first 100 of 300 patches"
    assert sum(legend_of(ax).values()) == 300
    absent = next(
        d for d in DEFECTS if d not in counts_of(arrange((("y", "x"), np.ones((8, 8))), 1))
    )
    one = arrange((("y", "x"), np.ones((8, 8))), 1)
    assert len(plot_defects(one).images) == 1
    assert plot_defects(one, defects=[absent]).get_title() == "no patch of these classes"


@pytest.mark.parametrize("kind", ["micrograph", "patches"])
def test_sites_without_crystal_are_neither_drawn_nor_counted(kind, request):
    result = request.getfixturevalue(kind)
    crystal = np.arange(NUM_SITES) % 3 > 0
    constants = result["constant_data"].to_dataset()
    result["constant_data"] = constants.assign(crystal=("patch", crystal))
    np.testing.assert_array_equal(on_crystal(result), crystal)
    ax = plot_defects(result)
    left = result.copy()
    left["class_posterior"] = left["class_posterior"].to_dataset().isel(patch=crystal)
    assert legend_of(ax) == counts_of(left)
    assert sum(legend_of(ax).values()) == 40
    if kind == "patches":
        assert len(ax.images) == 40
    else:
        rings = [c for c in ax.collections if isinstance(c, EllipseCollection)]
        assert sum(len(c.get_offsets()) for c in rings) == 40
    ax.figure.canvas.draw()


def test_the_sites_of_independent_images_have_crystal_each(patches):
    images = patches["class_posterior"].to_dataset().rename(patch="image").expand_dims("patch", 1)
    patches["class_posterior"] = images
    assert on_crystal(patches).all()
    constants = patches["constant_data"].to_dataset()
    crystal = np.arange(NUM_SITES)[:, None] > 5
    patches["constant_data"] = constants.assign(crystal=(("image", "patch"), crystal))
    assert on_crystal(patches).tolist() == crystal.ravel().tolist()


def test_an_image_without_crystal_is_drawn_alone(micrograph):
    constants = micrograph["constant_data"].to_dataset()
    micrograph["constant_data"] = constants.assign(crystal=("patch", np.zeros(NUM_SITES, bool)))
    ax = plot_defects(micrograph)
    assert ax.get_legend() is None
    ax.figure.canvas.draw()


@pytest.mark.parametrize("kind", ["micrograph", "patches"])
def test_a_probability_that_rounding_puts_above_one_is_drawn(kind, request):
    result = request.getfixturevalue(kind)
    sure = np.zeros((NUM_SITES, len(DEFECTS)))
    sure[:, 4] = 1.0000001
    posterior = result["class_posterior"].to_dataset()
    result["class_posterior"] = posterior.assign(defect=(("patch", "defect_class"), sure))
    ax = plot_defects(result)
    ax.figure.canvas.draw()
    assert legend_of(ax) == {DEFECTS[4]: NUM_SITES}


def test_gaps_of_an_image_do_not_set_its_grey_scale(micrograph):
    values = micrograph["observed_data"].intensity.values.astype(float)
    values[:, 100:] = np.nan
    micrograph["observed_data"] = xr.Dataset({"intensity": (("y", "x"), values)})
    (drawn,) = plot_defects(micrograph).images
    assert drawn.get_clim() == tuple(np.percentile(values[:, :100], (0.5, 99.8)))


# Machado, Oliveira and Fernandes, IEEE Trans. Vis. Comput. Graph. 15, 1291 (2009): severity 1,
# linear RGB
SEEN_BY = {
    "normal": np.eye(3),
    "protanope": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranope": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanope": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def lab_of(colour, vision):
    """CIELAB coordinates of a colour as somebody sees it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = (np.asarray(vision) @ linear).clip(0, 1)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    t = to_xyz @ linear / [0.9505, 1.0, 1.089]
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", SEEN_BY)
def test_colours_of_classes_stay_apart(vision):
    assert set(COLOURS) == set(DEFECTS)
    for group in (set(DEFECTS) - set(PERFECT), PERFECT):
        seen = [lab_of(COLOURS[name], SEEN_BY[vision]) for name in group]
        # 2.3 is a just noticeable difference; nine of them separate symbols of a few pixels
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 9 * 2.3


def test_context_shows_what_is_given_and_what_is_inferred_with_units(micrograph):
    truth = {"inner_collection_angle": 62.0, "host": "WSe2"}
    axes = plot_context(micrograph, truth=truth)
    labels = [ax.get_xlabel() for ax in axes]
    assert labels == [
        "host (given)",
        "dopant",
        "beam energy [eV]",
        "inner collection angle [mrad]",
        "dose [e/Å²]",
        "assignment of the sublattices",
    ]
    by_label = dict(zip(labels, axes, strict=True))
    assert by_label["beam energy [eV]"].lines[0].get_xdata() == [80e3, 80e3]
    assert by_label["inner collection angle [mrad]"].lines[-1].get_xdata() == [62.0, 62.0]
    assert by_label["dose [e/Å²]"].get_xscale() == "log"
    assert not by_label["dose [e/Å²]"].lines
    heights = [p.get_height() for p in by_label["dopant"].patches]
    np.testing.assert_array_equal(heights, micrograph["class_posterior"].dopant)
    for name in ("inner collection angle [mrad]", "dose [e/Å²]"):
        prior, posterior = by_label[name].patches
        # both histograms hold all draws
        assert prior.get_data().values.sum() == pytest.approx(1, abs=1e-12)
        assert posterior.get_data().values.sum() == pytest.approx(1, abs=1e-12)
        assert posterior.get_data().values.max() > 2 * prior.get_data().values.max()
    axes[0].figure.canvas.draw()


def test_context_takes_axes_and_a_dataset_as_truth(micrograph):
    mine = plt.figure().subplots(2, 2)
    names = ["dose", "dopant"]
    axes = plot_context(
        micrograph, variables=names, truth=xr.Dataset({"dose": 1e5, "dopant": "Ti"}), axes=mine
    )
    assert list(axes) == list(mine.ravel()[:2])
    assert mine[0, 0].lines[-1].get_xdata() == [1e5, 1e5]
    assert mine[0, 1].lines[-1].get_xdata() == [METALS.index("Ti")]


def test_context_draws_the_prior_of_names_where_the_result_has_it(micrograph):
    draws = np.array([[METALS.index("Ti"), METALS.index("V")]])
    micrograph["prior"] = xr.DataTree(
        micrograph["prior"]
        .to_dataset()
        .isel(draw=slice(2))
        .assign(dopant=(("chain", "draw"), draws))
    )
    (ax,) = plot_context(micrograph, variables=["dopant"])
    prior = [p.get_height() for p in ax.patches[: len(METALS)]]
    assert prior == [0.5 * (m in ("Ti", "V")) for m in METALS]


def test_errors_of_context(micrograph):
    with pytest.raises(
        ValueError, match="variables among host, .*, assignment were expected, got 'defocus'"
    ):
        plot_context(micrograph, variables=["defocus"])
    with pytest.raises(ValueError, match="2 axes were expected for dose, dopant, got 1"):
        plot_context(micrograph, variables=["dose", "dopant"], axes=[plt.figure().subplots()])
    several = micrograph.copy()
    hosts = np.tile(several["class_posterior"].host.values, (3, 1))
    several["class_posterior"] = xr.DataTree(
        xr.Dataset({"host": (("image", "host_class"), hosts)}, {"host_class": list(HOSTS)})
    )
    with pytest.raises(
        ValueError, match=r"one image was expected, got 3; select one: result.isel\(image=0"
    ):
        plot_context(several)
    one = several.isel(image=0, missing_dims="ignore")
    assert len(plot_context(one, variables=["host"])) == 1


def test_reliability_draws_the_bins_that_hold_patches():
    rng = np.random.default_rng(0)
    posterior = xr.DataArray(rng.dirichlet(np.ones(4), 300), dims=("patch", "defect_class"))
    table = reliability(posterior, rng.integers(4, size=300))
    ax = plt.figure().subplots()
    assert plot_reliability(table, ax=ax) is ax
    used = table["count"].values > 0
    points = ax.containers[1].lines[0]
    np.testing.assert_array_equal(points.get_xdata(), table.confidence.values[used])
    np.testing.assert_array_equal(points.get_ydata(), table.accuracy.values[used])
    np.testing.assert_allclose(
        [p.get_height() for p in ax.containers[0]], table["count"] / 300, rtol=1e-15
    )
    accuracy, error = float(table.accuracy_overall), float(table.expected_calibration_error)
    assert ax.get_title() == f"accuracy {accuracy:.3f}, calibration error {error:.3f}"
    assert plot_reliability(table) is not ax


def test_class_reliability_draws_a_line_for_every_class():
    rng = np.random.default_rng(0)
    names = ["M", "X2", "hollow", "V_X"]
    posterior = xr.DataArray(
        rng.dirichlet(np.ones(4), 3000), {"defect_class": names}, ("patch", "defect_class")
    )
    table = class_reliability(posterior, rng.integers(4, size=3000))
    ax = plt.figure().subplots()
    assert plot_class_reliability(table, ax=ax) is ax
    lines = {line.get_label(): line for line in ax.lines}
    assert list(lines) == ["calibrated", *names]
    row = table.sel(defect_class="X2")
    np.testing.assert_array_equal(
        lines["X2"].get_xdata(), row.confidence.values[row["count"].values >= 30]
    )
    assert plot_class_reliability(table) is not ax


def test_without_matplotlib_one_line_says_what_to_install(micrograph, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for draw in (plot_defects, plot_context):
        with pytest.raises(ImportError, match=r"pip install bayesctx\[plot\]"):
            draw(micrograph)
