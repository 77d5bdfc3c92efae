import itertools
import re
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgb
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

from bayesctx.cli.summaries import draw_result
from bayesctx.crystal import HOSTS, METALS
from bayesctx.defects import DEFECTS
from bayesctx.information import entropy
from bayesctx.metrics import class_reliability, reliability
from bayesctx.plots import (
    COLOURS,
    PERFECT,
    on_crystal,
    plot_change,
    plot_class_reliability,
    plot_context,
    plot_defects,
    plot_map,
    plot_reliability,
)
from bayesctx.plots.panels import _histogram
from bayesctx.plots.symbols import MARKERS, TITLES, outline

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


def labels_of(ax):
    """Labels in the legend, those of several lines as one."""
    return [" ".join(t.get_text().split()) for t in ax.get_legend().get_texts()]


def legend_of(ax):
    """Counts of the classes in the legend, whose labels may be short."""
    labels = labels_of(ax)
    found = [re.fullmatch(r"(?:.*\()?(\w+)\)?: (\d+)", label) for label in labels]
    return {m[1]: int(m[2]) for m in found if m and m[1] in DEFECTS}


def symbols_of(ax):
    """Drawn symbols by class."""
    return {c.get_label(): c for c in ax.collections if c.get_label() in DEFECTS}


def middles(collection):
    """Positions of symbols: the middles of their extents."""
    corners = [p.vertices for p in collection.get_paths()]
    return np.array([(c.max(0) + c.min(0)) / 2 for c in corners]).reshape(-1, 2)


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
    drawn = symbols_of(ax)
    assert list(drawn) == sorted(DEFECTS, key=lambda d: d not in PERFECT)
    for name, collection in drawn.items():
        mine = best == name
        places = np.stack([sites.site_x, sites.site_y], -1)[mine]
        np.testing.assert_allclose(middles(collection), places, atol=1e-9)
        height = [np.ptp(p.vertices, axis=0).max() for p in collection.get_paths()]
        np.testing.assert_allclose(height, (0.32 if name in PERFECT else 1) * 7.0, rtol=1e-12)
        colours = collection.get_facecolor() if name in PERFECT else collection.get_edgecolor()
        if mine.any():
            np.testing.assert_array_equal(
                colours[:, :3], np.tile(to_rgb(COLOURS[name]), (mine.sum(), 1))
            )
            np.testing.assert_array_equal(colours[:, 3], probabilities.max(-1)[mine].clip(0.15))
    assert drawn["D_M"].get_facecolor().size == 0


def test_a_choice_of_classes(micrograph):
    chosen = ["V_X", "D_M"]
    ax = plot_defects(micrograph, defects=chosen)
    assert legend_of(ax) == {name: n for name, n in counts_of(micrograph).items() if name in chosen}
    bare = plot_defects(micrograph, defects=())
    assert bare.get_legend() is None
    assert not symbols_of(bare)
    with pytest.raises(ValueError, match="unknown class 'V_S'; known are M, D_M, .*"):
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
    # the legend lists what is drawn
    assert sum(legend_of(ax).values()) == 100
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
        assert sum(len(c.get_paths()) for c in symbols_of(ax).values()) == 40
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
    seen = [lab_of(colour, SEEN_BY[vision]) for colour in COLOURS.values()]
    # 2.3 is a just noticeable difference; nine of them separate symbols of a few pixels
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 9 * 2.3


def test_classes_have_shapes_of_their_own():
    outlines = {d: m for d, m in MARKERS.items() if d not in PERFECT}
    assert set(MARKERS) == set(DEFECTS)
    assert len(set(outlines.values())) == len(outlines) == 10
    for marker in MARKERS.values():
        corners = outline(marker)
        np.testing.assert_allclose(corners.max(0) + corners.min(0), 0, atol=1e-9)
        assert np.ptp(corners, axis=0).max() == pytest.approx(1)
    # y of an image points down: the tip of an upward triangle is above
    assert outline("^")[:, 1].min() == pytest.approx(
        outline("^")[outline("^")[:, 0].round(6) == 0, 1]
    )


def test_the_legend_spells_classes_out_and_says_what_the_opacity_means(micrograph):
    ax = plot_defects(micrograph)
    labels = labels_of(ax)
    for name, count in counts_of(micrograph).items():
        assert f"{TITLES[name]} ({name}): {count}" in labels
    assert labels[-3:] == ["probability 1", "probability 0.7", "probability 0.4"]
    keys = ax.get_legend().legend_handles[-3:]
    assert [k.get_alpha() for k in keys] == [1.0, 0.7, 0.4]


def test_the_picture_of_the_command_line_spells_classes_out(micrograph):
    figure = draw_result(micrograph)
    figure.draw_without_rendering()
    ax = figure.axes[0]
    for name, count in counts_of(micrograph).items():
        assert f"{TITLES[name]} ({name}): {count}" in labels_of(ax)
    legend, image = ax.get_legend().get_window_extent(), ax.get_window_extent()
    assert image.width > 1.5 * legend.width
    assert all(t.get_fontsize() > 7 for t in ax.get_legend().get_texts())
    # neither covers the image nor the context
    right = [a.get_tightbbox() for a in figure.axes[1:] if a.get_visible()]
    assert image.x1 <= legend.x0
    assert legend.x1 <= min(box.x0 for box in right)


def test_labels_are_broken_into_lines_before_they_are_short(micrograph):
    figure = plt.figure(figsize=(14, 6), layout="constrained")
    texts = [plot_defects(micrograph, ax=ax) for ax in figure.subplots(1, 2)][0].get_legend()
    labels = [t.get_text() for t in texts.get_texts()]
    assert any("\n" in label for label in labels)
    assert not any(re.search(r":\n", label) for label in labels)
    assert "probability 0.7" in labels
    narrow = plot_defects(micrograph, ax=plt.figure(figsize=(3, 2.5), layout="constrained").gca())
    assert labels_of(narrow)[-1] == "p = 0.4"


def test_legend_and_scale_bar_follow_the_view(micrograph):
    ax = plot_defects(micrograph)
    ax.set(xlim=(10, 50), ylim=(45, 15))
    sites = micrograph["constant_data"]
    seen = ((sites.site_x <= 50) & (sites.site_y <= 45)).values
    part = micrograph.copy()
    part["class_posterior"] = part["class_posterior"].to_dataset().isel(patch=seen)
    assert legend_of(ax) == counts_of(part)
    (bar,) = (a for a in ax.artists if isinstance(a, AnchoredSizeBar))
    # 40 px of 0.2 Å: 2 Å is the largest round length within a quarter
    assert bar.txt_label.get_text() == "2 Å"
    bar.remove()
    ax.set(xlim=(1000, 1001))
    assert ax.get_legend() is None


@pytest.mark.parametrize("layout", ["constrained", "none"])
@pytest.mark.parametrize("size", [(3, 2.5), (9, 4), (16, 5)])
@pytest.mark.parametrize("kind", ["micrograph", "patches"])
def test_legends_are_not_clipped(kind, size, layout, request):
    result = request.getfixturevalue(kind)
    figure = plt.figure(figsize=size, layout=layout)
    for ax in figure.subplots(1, 2):
        plot_defects(result, ax=ax)
    figure.canvas.draw()
    for ax in figure.axes:
        box, whole = ax.get_legend().get_window_extent(), figure.bbox
        # the border of the box is a pixel wide
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= whole.width + 1
        assert box.y1 <= whole.height + 1
        assert box.width > 20


def test_perfect_sites_of_a_large_image_are_left_out():
    num = 2500
    y, x = np.divmod(np.arange(num), 50)
    sites = {"site_y": ("patch", 10.0 * y), "site_x": ("patch", 10.0 * x), "sampling": 0.2}
    result = arrange((("y", "x"), np.ones((500, 500))), num, sites)
    ax = plot_defects(result)
    assert set(symbols_of(ax)) == set(DEFECTS) - set(PERFECT)
    assert set(legend_of(ax)) == set(DEFECTS) - set(PERFECT)
    assert "M" in symbols_of(plot_defects(result, defects=["M"]))
    # a sixtieth of the image
    corners = symbols_of(ax)["D_M"].get_paths()[0].vertices
    assert np.ptp(corners, axis=0).max() == pytest.approx(500 / 60)


@pytest.fixture
def known(micrograph):
    """True sites of the micrograph: one of another class, one somewhere else."""
    best = np.array(DEFECTS)[micrograph["class_posterior"].defect.values.argmax(-1)]
    sites = micrograph["constant_data"]
    truth = {"site_x": sites.site_x.values.copy(), "site_y": sites.site_y.values, "defect": best}
    truth["defect"][4] = "M" if best[4] != "M" else "X2"
    truth["site_x"][9] += 5.0
    return truth


def test_wrong_sites_and_those_that_are_not_found_are_marked(micrograph, known):
    ax = plot_defects(micrograph, truth=known)
    marks = {line.get_label(): line for line in ax.lines}
    (x, y) = (marks["not found"].get_data()[k] for k in (0, 1))
    assert (x.tolist(), y.tolist()) == ([known["site_x"][9]], [known["site_y"][9]])
    octagon = np.array(marks["wrong"].get_data())
    assert octagon.shape == (2, 9)
    np.testing.assert_allclose(octagon[:, :8].mean(1), [known["site_x"][4], known["site_y"][4]])
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert labels[-2:] == ["wrong: 1", "not found: 1"]
    # of a class that is not shown nothing is marked
    best = np.array(DEFECTS)[micrograph["class_posterior"].defect.values.argmax(-1)]
    others = [d for d in DEFECTS if d != best[4]]
    lines = plot_defects(micrograph, truth=known, defects=others).lines
    assert [line.get_label() for line in lines] == ["not found"]


def test_wrong_patches_name_their_true_class(patches):
    best = np.array(DEFECTS)[patches["class_posterior"].defect.values.argmax(-1)]
    true = np.where(np.arange(NUM_SITES) == 3, "M" if best[3] != "M" else "X2", best)
    ax = plot_defects(patches, truth={"defect": true})
    assert [i for i, t in enumerate(ax.texts) if "true" in t.get_text()] == [3]
    assert ax.texts[3].get_text().endswith(f"true {true[3]}")
    with pytest.raises(ValueError, match="of each of 60 patches as defect was expected, got 2"):
        plot_defects(patches, truth={"defect": true[:2]})


def test_maps_show_the_number_of_every_site(micrograph):
    shares = micrograph["class_posterior"].defect
    sites = micrograph["constant_data"]
    places = np.stack([sites.site_x, sites.site_y], -1)
    expected = {
        "defect": 1 - shares.sel(defect_class=list(PERFECT)).sum("defect_class").values,
        "entropy": entropy(micrograph).entropy.values,
        "V_X": shares.sel(defect_class="V_X").values,
    }
    for quantity, values in expected.items():
        ax = plot_map(micrograph, quantity)
        (tiles,) = ax.collections
        np.testing.assert_allclose(tiles.get_array(), values)
        np.testing.assert_allclose(middles(tiles), places, atol=1e-9)
        ax.figure.canvas.draw()
    assert ax.figure.axes[1].get_ylabel() == "probability of V_X"
    with pytest.raises(ValueError, match="unknown quantity 'V_S'; known are defect, entropy, M"):
        plot_map(micrograph, "V_S")


def test_what_context_changed_is_drawn(micrograph):
    after = micrograph.copy(deep=True)
    values = after["class_posterior"].defect.values
    best = values.argmax(-1)
    values[:10] = 0.0
    values[np.arange(10), best[:10]] = 1.0
    values[7] = np.eye(len(DEFECTS))[(best[7] + 1) % len(DEFECTS)]
    ax = plot_change(micrograph, after)
    tiles, rings = ax.collections
    bits = entropy(micrograph).entropy.values
    np.testing.assert_allclose(tiles.get_array(), np.where(np.arange(NUM_SITES) < 10, bits, 0))
    sites = micrograph["constant_data"]
    np.testing.assert_allclose(middles(rings), [[sites.site_x[7], sites.site_y[7]]])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["another class: 1"]
    assert plot_change(micrograph, micrograph).get_legend() is None


def test_maps_need_a_micrograph(patches):
    for draw in (plot_map, lambda r: plot_change(r, r)):
        with pytest.raises(ValueError, match="a result of a micrograph was expected"):
            draw(patches)


def test_bins_are_as_many_as_effective_draws_support():
    values = np.random.default_rng(0).normal(size=1000)
    assert [len(_histogram(values, n)[0]) for n in (1, 10, 1000, 1e6)] == [3, 5, 20, 40]
    for draws in (values, np.full(5, 3.0), np.array([1e5, 1e5 + 1e-9])):
        density, edges = _histogram(draws, 10)
        assert (density * np.diff(edges)).sum() == pytest.approx(1)
        assert edges[0] <= draws.min()
        assert edges[-1] >= draws.max()


def test_bins_follow_the_effective_draws_of_the_result(micrograph):
    micrograph["sample_stats"] = xr.Dataset({"ess": 8.0})
    (ax,) = plot_context(micrograph, variables=["dose"])
    assert [len(p.get_data().values) for p in ax.patches] == [12, 4]
    statistics = xr.Dataset({"ess": 8.0, "ess_bulk": ("variable", [27.0])}, {"variable": ["dose"]})
    micrograph["sample_stats"] = statistics
    (ax,) = plot_context(micrograph, variables=["dose"])
    assert [len(p.get_data().values) for p in ax.patches] == [12, 6]


def test_context_shows_what_is_given_and_what_is_inferred_with_units(micrograph):
    truth = {"inner_collection_angle": 62.0, "host": "WSe2"}
    axes = plot_context(micrograph, truth=truth)
    labels = [ax.get_xlabel() for ax in axes]
    assert labels == [
        "host (given)",
        "dopant",
        "beam energy [keV]",
        "inner collection angle [mrad]",
        "dose [e/Å²]",
        "assignment of the sublattices",
    ]
    by_label = dict(zip(labels, axes, strict=True))
    assert by_label["beam energy [keV]"].lines[0].get_xdata() == [80e3, 80e3]
    assert by_label["inner collection angle [mrad]"].lines[-1].get_xdata() == [62.0, 62.0]
    assert by_label["dose [e/Å²]"].get_xscale() == "log"
    assert not by_label["dose [e/Å²]"].lines
    heights = [p.get_height() for p in by_label["dopant"].patches]
    np.testing.assert_array_equal(heights, micrograph["class_posterior"].dopant)
    for name in ("inner collection angle [mrad]", "dose [e/Å²]"):
        prior, posterior = by_label[name].patches
        for drawn in (prior, posterior):
            density, edges, _ = drawn.get_data()
            # of area one on the axis that is shown
            widths = np.diff(np.log10(edges) if "dose" in name else edges)
            assert (density * widths).sum() == pytest.approx(1, abs=1e-12)
            # 200 draws: Rice's rule
            assert len(density) == 12
        assert posterior.get_data().values.max() > 2 * prior.get_data().values.max()
    axes[0].figure.canvas.draw()


def test_large_values_are_in_thousands_without_a_factor_in_the_corner(micrograph):
    energy = xr.DataArray(np.linspace(40e3, 300e3, 200)[None], dims=("chain", "draw"))
    for group in ("posterior", "prior"):
        micrograph[group]["beam_energy"] = energy
    micrograph["constant_data"] = micrograph["constant_data"].to_dataset().drop_vars("beam_energy")
    (ax,) = plot_context(micrograph, variables=["beam_energy"])
    ax.figure.canvas.draw()
    assert ax.get_xlabel() == "beam energy [keV]"
    assert ax.xaxis.get_offset_text().get_text() == ""
    assert {"100", "200"} <= {t.get_text() for t in ax.get_xticklabels()}


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
    assert list(lines) == ["calibrated", *(TITLES[n] for n in names)]
    assert lines[TITLES["V_X"]].get_marker() == MARKERS["V_X"]
    row = table.sel(defect_class="X2")
    np.testing.assert_array_equal(
        lines[TITLES["X2"]].get_xdata(), row.confidence.values[row["count"].values >= 30]
    )
    assert plot_class_reliability(table) is not ax


def test_without_matplotlib_one_line_says_what_to_install(micrograph, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for draw in (plot_defects, plot_context):
        with pytest.raises(ImportError, match=r"pip install bayesctx\[plot\]"):
            draw(micrograph)
