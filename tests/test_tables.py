"""Tables of sites and counts, and their files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from crystal_results import SAMPLING, draw_crystal, index, make_result, perfect_classes
from crystals import ALPHA

import bayesctx as bc
from bayesctx.crystal import HOSTS, METALS
from bayesctx.defects import DEFECTS
from bayesctx.tables import FORMATS, check_format, counts, export, name_species, sites
from bayesctx.tables.counting import interval


@pytest.fixture(scope="module")
def micrograph():
    prior = replace(bc.reference_prior(), dirichlet_alpha=ALPHA)  # so that there are dopants
    data = bc.simulate_micrograph(prior, seed=1, num_pixels=128, sampling=0.2)
    known = {n: data[n].item() for n in bc.CONTEXT if n in data and n != "dopant"}
    known["dopant"] = ["Ti", "V"]
    return bc.infer(data.intensity, known, likelihood="network", num_draws=64)


@pytest.fixture(scope="module")
def images():
    data = bc.simulate(bc.reference_prior(), 4, seed=2)
    return bc.infer(data.intensity, {}, num_draws=64)


@pytest.fixture
def drawn():
    draws, places, sublattice = draw_crystal(40)
    return make_result(draws, places, sublattice), draws, sublattice


def test_a_row_for_every_site_of_a_micrograph(micrograph):
    table = sites(micrograph)
    found = micrograph["class_posterior"].defect
    frame = table.to_dataframe()
    assert len(frame) == found.sizes["patch"]
    assert frame.index.name == "patch"
    np.testing.assert_array_equal(frame.defect, np.array(DEFECTS)[found.values.argmax(-1)])
    np.testing.assert_array_equal(frame[[f"p_{d}" for d in DEFECTS]], found.values)
    np.testing.assert_allclose(frame.probability, found.values.max(-1), rtol=1e-5)
    np.testing.assert_allclose(frame.entropy, bc.entropy(micrograph).entropy)
    constants = micrograph["constant_data"]
    np.testing.assert_array_equal(frame.x_px, constants.site_x)
    size = float(constants.sampling) / 10
    np.testing.assert_allclose(frame.y_nm, constants.site_y.values.astype(float) * size, rtol=1e-12)
    assert (frame.species_probability <= frame.probability + 1e-4).all()
    assert set(frame.site) == {"metal", "chalcogen", "hollow"}
    assert table.y_nm.attrs["units"] == "nm"


def test_the_species_of_a_class_is_that_of_the_material(micrograph):
    frame = sites(micrograph).to_dataframe()
    host = HOSTS[str(micrograph["constant_data"].host.values)]
    shown = frame[frame.defect != "D_M"]
    expected = [
        name_species(d, host.name, site=s) for d, s in zip(shown.defect, shown.site, strict=True)
    ]
    assert shown.species.tolist() == expected
    np.testing.assert_allclose(shown.species_probability, shown.probability, atol=1e-5)
    doped = micrograph["class_posterior"].dopant_at_site.values[frame.defect == "D_M"]
    assert len(doped)
    dopants = frame[frame.defect == "D_M"]
    np.testing.assert_array_equal(dopants.species, np.array(METALS)[doped.argmax(-1)])
    np.testing.assert_allclose(dopants.species_probability, doped.max(-1), rtol=1e-6)


SPECIES = {
    ("M", None): "W", ("V_M", None): "-", ("X2", None): "Se2", ("V_X", None): "Se",
    ("O_X", None): "OSe", ("Y_X", None): "SSe/TeSe", ("M_X", None): "WSe", ("hollow", None): "-",
    ("adatom_M", "hollow"): "W", ("adatom_M", "metal"): "W2", ("adatom_M", None): "W2/W",
}  # fmt: skip


@pytest.mark.parametrize("place", SPECIES)
def test_species_are_named_by_their_atoms(place):
    assert name_species(place[0], "WSe2", site=place[1]) == SPECIES[place]


def test_patches_of_open_material_have_no_position(images):
    table = sites(images)
    assert table.defect.dims == ("image", "patch")
    assert "x_px" not in table
    assert len(table.to_dataframe()) == 4
    # joint with the host, from the draws
    posterior = images["posterior"]
    best = images["class_posterior"].defect.values.argmax(-1)
    for i in range(4):
        host, defect = posterior.host.values[0, :, i], posterior.defect.values[0, :, i, 0]
        name = DEFECTS[best[i, 0]]
        if name == "D_M":
            continue
        column = [name_species(name, list(HOSTS)[h]) == table.species.values[i, 0] for h in host]
        share = np.mean(np.array(column) & (defect == best[i, 0]))
        assert table.species_probability.values[i, 0] == pytest.approx(share, abs=1e-6)


def test_flags_name_what_is_wrong_with_a_site(drawn):
    result, draws, _ = drawn
    num = draws.shape[1]
    shares = result["class_posterior"].to_dataset()
    shares.defect.values[2] = 1 / len(DEFECTS)
    result["class_posterior"] = shares
    surprise = xr.DataArray(np.zeros((2, num)), dims=("detector", "patch"), attrs={"limit": 5.0})
    surprise[1, :2] = 6.0
    result["sample_stats"] = xr.Dataset({"ess": 40.0, "surprise": surprise})
    constants = result["constant_data"].to_dataset()
    result["constant_data"] = constants.assign(crystal=("patch", np.arange(num) > 0))
    table = sites(result)
    assert table.flag.values[:4].tolist() == ["no crystal; surprise", "surprise", "undecided", ""]
    assert table.surprise.values[:3].tolist() == [6.0, 6.0, 0.0]
    frame = documented_filter(table.to_dataframe().assign(defect="V_X", probability=1.0))
    assert frame.index.tolist() == list(range(3, num))


def documented_filter(frame):
    """Sites as the page of the interface selects them."""
    page = (Path(__file__).parents[1] / "docs" / "api.md").read_text()
    (line,) = [line for line in page.splitlines() if line.startswith("frame[")]
    return eval(line, {"frame": frame})


def test_columns_are_reached_as_attributes_of_a_frame(micrograph):
    tables = sites(micrograph), counts(micrograph), bc.pair_correlations(micrograph)
    columns = [c for table in tables for c in table.to_dataframe().columns]
    assert not [c for c in columns if hasattr(pd.DataFrame, c)]


def test_numbers_densities_and_fractions_are_those_of_the_draws(drawn):
    result, draws, sublattice = drawn
    table = counts(result)
    assert table.attrs == {"num_sites": draws.shape[1], "num_draws": 40, "effective_draws": 40.0}
    number = (draws == index("V_X")[0]).sum(1)
    row = table.sel(outcome="V_X")
    assert row.number == pytest.approx(number.mean())
    assert row.species == "Se"
    assert row.fraction == pytest.approx(number.mean() / (sublattice == 1).sum())
    area = draws.shape[1] * HOSTS["WSe2"].lattice_constant ** 2 * 3**0.5 / 6 / 100
    assert row.density == pytest.approx(number.mean() / area, rel=1e-6)
    assert row.density_90_low == pytest.approx(float(row.number_90_low) / area, rel=1e-6)
    assert table.number.sum() == pytest.approx(draws.shape[1])
    inside = (number >= row.number_50_low.item()) & (number <= row.number_50_high.item())
    assert 0.5 <= inside.mean() <= 0.7
    assert len(table.to_dataframe()) == len(DEFECTS)


def test_each_dopant_that_is_drawn_has_a_row():
    draws, places, sublattice = draw_crystal(30)
    dopant = np.repeat([METALS.index("Ti"), METALS.index("V"), METALS.index("Nb")], [18, 9, 3])
    result = make_result(
        draws, places, sublattice, given={"host": "WSe2"}, variables={"dopant": dopant}
    )
    table = counts(result)
    number = (draws == index("D_M")[0]).sum(1)
    rows = table.isel(outcome=table.defect_class.values == "D_M")
    assert rows.outcome.values.tolist() == ["D_M", "D_M: Ti", "D_M: V", "D_M: Nb"]
    assert rows.species.values.tolist() == ["all", "Ti", "V", "Nb"]
    assert rows.number[0] == pytest.approx(number.mean())
    assert rows.number[1:].sum() == pytest.approx(number.mean())
    assert rows.number.sel(outcome="D_M: V") == pytest.approx(number[18:27].sum() / 30)
    # one draw is one world: it has all dopants of one metal or none
    assert rows.number_90_low[1:].values.tolist() == [0, 0, 0]
    assert rows.number_90_high.sel(outcome="D_M: Ti") >= np.median(number)


def test_the_sublattice_of_a_class_is_that_of_its_draw():
    draws, places, sublattice = draw_crystal(2, defects=())
    swapped = np.array([1, 0, 2])[sublattice]
    draws[1] = perfect_classes(swapped)
    draws[1, np.flatnonzero(swapped == 0)[:3]] = index("V_M")[0]
    chosen = np.array([0, 2])
    result = make_result(draws, places, sublattice, variables={"assignment": chosen})
    assert result["class_posterior"].assignment_class[2] == "chalcogen-metal-hollow"
    fraction = counts(result).fraction.sel(outcome="V_M")
    assert fraction == pytest.approx(3 / (swapped == 0).sum() / 2)


def test_sites_without_crystal_are_not_counted(drawn):
    result, draws, _ = drawn
    constants = result["constant_data"].to_dataset()
    present = np.arange(draws.shape[1]) % 4 > 0
    result["constant_data"] = constants.assign(crystal=("patch", present))
    table = counts(result)
    assert table.number.sum() == pytest.approx(present.sum())
    assert table.density.sum() == pytest.approx(counts(drawn[0]).density.sum())


def test_patches_are_counted_without_area(images):
    table = counts(images)
    assert "density" not in table
    whole = [str(o) in DEFECTS for o in table.outcome.values]
    assert table.number[whole].sum() == pytest.approx(4)


def test_an_undoped_crystal_has_no_dopant():
    draws, places, sublattice = draw_crystal(4, defects=("V_X",))
    result = make_result(draws, places, sublattice, given={"host": "WSe2", "dopant": "none"})
    row = counts(result).sel(outcome="D_M")
    assert (row.species, row.number) == ("none", 0)


def test_an_interval_lies_between_draws():
    values = np.array([[0.0, np.nan], [1.0, np.nan], [2.0, np.nan], [10.0, np.nan]])
    np.testing.assert_array_equal(interval(values, 0.5), [[0, np.nan], [10, np.nan]])
    np.testing.assert_array_equal(interval(values[:1], 0.9)[:, 0], [0, 0])


def test_files_hold_the_table(micrograph, tmp_path):
    frame = sites(micrograph).to_dataframe()
    read = pd.read_csv(export(micrograph, tmp_path / "x.csv"), index_col="patch")
    assert list(read.columns) == list(frame.columns)
    np.testing.assert_allclose(read.x_nm, frame.x_nm, rtol=1e-5)
    assert (read.defect == frame.defect).all()
    assert bc.load(export(micrograph, tmp_path / "x.nc")).identical(micrograph)


def test_parquet_holds_the_table(micrograph, tmp_path):
    pytest.importorskip("pyarrow")
    frame = sites(micrograph).to_dataframe()
    pd.testing.assert_frame_equal(
        pd.read_parquet(export(micrograph, tmp_path / "x.parquet")), frame
    )


def test_parquet_without_pyarrow_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install bayesctx\[parquet\], or write .csv"):
        check_format(tmp_path / "x.parquet")


def test_atoms_are_those_of_the_most_probable_classes(tmp_path):
    _, places, sublattice = draw_crystal(1)
    classes = perfect_classes(sublattice)
    first = {k: np.flatnonzero(sublattice == k) for k in range(3)}
    classes[first[0][0]], classes[first[0][1]] = index("D_M", "V_M")
    classes[first[1][0]], classes[first[1][1]] = index("V_X", "O_X")
    classes[first[2][0]] = index("adatom_M")[0]
    result = make_result(classes[None], places, sublattice)
    lines = export(result, tmp_path / "x.xyz").read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines[2:]]
    assert int(lines[0]) == len(rows)
    elements = [row[0] for row in rows]
    metals, chalcogens = len(first[0]), len(first[1])
    # a dopant, a vacancy, and an adatom in the hollow
    assert elements.count("W") == metals - 2 + 1
    assert (elements.count("Ti"), elements.count("O")) == (1, 1)
    assert elements.count("Se") == 2 * (chalcogens - 2) + 1 + 1
    (dopant,) = (row for row in rows if row[0] == "Ti")
    y, x = places[first[0][0]]
    expected = [x * SAMPLING, (199 - y) * SAMPLING, 0.0]
    np.testing.assert_allclose(np.array(dopant[1:4], float), expected, atol=1e-4)
    assert dopant[4:] == [str(first[0][0]), "D_M", "1"]
    # the upper chalcogen faces the gun
    (oxygen,) = (row for row in rows if row[0] == "O")
    assert float(oxygen[3]) == pytest.approx(HOSTS["WSe2"].chalcogen_separation / 2, abs=1e-4)


def test_errors_of_files(micrograph, images, tmp_path):
    with pytest.raises(ValueError, match=r"ends in .nc, .csv, .parquet, .xyz was expected, got"):
        export(micrograph, tmp_path / "x.xlsx")
    with pytest.raises(ValueError, match="a result of a micrograph was expected"):
        export(images, tmp_path / "x.xyz")
    assert list(tmp_path.iterdir()) == []
    assert all(check_format(f"x{s.upper()}") for s in FORMATS if s != ".parquet")


@pytest.mark.parametrize("make", [sites, counts])
def test_only_results_have_tables(make, drawn):
    with pytest.raises(TypeError, match="a DataTree was expected, got Dataset; pass what infer"):
        make(xr.Dataset())
    with pytest.raises(
        ValueError, match="a DataTree without the group posterior; pass it as it is"
    ):
        make(xr.DataTree())
    result = drawn[0]
    result["class_posterior"] = xr.DataTree()
    with pytest.raises(ValueError, match=r"without class_posterior.defect; pass it as it is"):
        make(result)


def test_counts_need_draws(drawn):
    result = drawn[0].copy()
    result["posterior"] = drawn[0]["posterior"].to_dataset().isel(draw=slice(0))
    with pytest.raises(ValueError, match="draws of the classes were expected"):
        counts(result)
