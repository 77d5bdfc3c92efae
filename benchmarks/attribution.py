"""What each variable of the context is worth, at three doses."""

from __future__ import annotations

import argparse
import time

import xarray as xr
from report import FOLDER, table, write

import bayesctx as bc
from bayesctx.information import attribute_information, plot_attribution

DOSES = (1e6, 1e5, 1e4)
FIGURE = FOLDER.parent / "figures" / "attribution.png"

INTRODUCTION = """\
{num} patches of the 576 cases of `tmd_prior()` at each dose, all nuisances, the shipped weights:
information about the class of the site in bits, as the gain of the mean log score. Alone: nothing
else is known. Given others: all others are known. Shapley value: the mean gain over the orders in
which the variables become known, two opposite orders for each patch; these values add up to the
total. Errors by the bootstrap over patches, which holds the sampling of the orders. In brackets the
Shapley value by the entropy. Outer and inner collection angle are one variable, the detector.

![What each variable is worth](../figures/attribution.png)
"""


def value_of(found: xr.Dataset, name: str) -> str:
    """A value with its standard error."""
    return f"{float(found[name]):.3f} ± {float(found[f'{name}_error']):.3f}"


def rows_of(found: xr.Dataset) -> list[list[str]]:
    """Rows of the table of one dose, the largest value first."""
    rows = []
    for name in found.sortby(-found.shapley)["variable"].values:
        own = found.sel(variable=name)
        rows.append([
            name, value_of(own, "alone"), value_of(own, "given_others"),
            f"{value_of(own, 'shapley')} ({float(own.shapley_entropy):.3f})",
        ])  # fmt: skip
    rows.append(["all", "", "", f"{value_of(found, 'total')} ({float(found.total_entropy):.3f})"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-patches", type=int, default=196, help="per dose (default: 196)")
    parser.add_argument("--model", help="default: the reference model")
    parser.add_argument("--seed", type=int, default=8100)
    arguments = parser.parse_args()
    start = time.perf_counter()
    prior = bc.tmd_prior()
    model = bc.load_model(arguments.model).with_prior(prior)
    parts = [
        bc.simulate(prior.given({"dose": d}), arguments.num_patches, seed=arguments.seed + i)
        for i, d in enumerate(DOSES)
    ]
    found = {}
    for dose, data in zip(DOSES, parts, strict=True):
        found[dose] = attribute_information(data, model, seed=arguments.seed, progress=True)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    plot_attribution({f"{d:.0e} e/Å²": v for d, v in found.items()}).savefig(FIGURE, dpi=150)
    body = INTRODUCTION.format(num=arguments.num_patches)
    header = ["variable", "alone", "given others", "Shapley value (entropy)"]
    for dose, values in found.items():
        body += f"\n\nAt {dose:.0e} e/Å²:\n\n" + table(header, rows_of(values))
    body += f"\n\nAll of it in {time.perf_counter() - start:.0f} s."
    write("attribution", "What each variable of the context is worth", body, arguments.seed)


if __name__ == "__main__":
    main()
