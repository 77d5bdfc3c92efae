"""Information of the context in bits about every target, at three doses."""

from __future__ import annotations

import argparse
import time

import xarray as xr
from report import table, write
from tqdm import tqdm

import bayesctx as bc
from bayesctx.information import TARGETS

KNOWN = [name for name in bc.CONTEXT if name != "sampling"]
SUBSETS = {
    "nothing": [],
    "host": ["host"],
    "host and dopant": ["host", "dopant"],
    "all but host and dopant": [n for n in KNOWN if n not in ("host", "dopant")],
    "everything": KNOWN,
}
DOSES = (1e6, 1e5, 1e4)

INTRODUCTION = """\
{num} patches of the 576 cases of `tmd_prior()` at each dose, thirteen equally probable classes, all
nuisances, the shipped weights. Bits; errors by the paired bootstrap over the patches. From nothing
known to everything known (host, dopant, probe, detector, defocus, dose). I is the conditional
mutual information of the target and the context given the image, as the mean gain of the log score;
overconfidence is the reduction of the entropy minus this gain. Removed: the share of the entropy,
and in brackets that of minus the log score.

| target | what it is |
|---|---|
| class | one of the thirteen classes of the site |
| species | chemical formula of the column on the site, whatever the kind of site |
| class_host, species_host, species_host_dopant | with the host, and the dopant of the crystal |
| class_of_five | M, D_M, X2, V_X, V_X2; other patches are left out, the five renormalised |
| whole | class, species, host and dopant: everything discrete behind a patch |
"""
BY_SUBSET = """

The log score by what is known (bits):

"""


def value_of(found: xr.Dataset, name: str) -> str:
    """A mean with its standard error."""
    return f"{float(found[name]):.3f} ± {float(found[f'{name}_error']):.3f}"


def percent(found: xr.Dataset, name: str) -> str:
    """A share with its standard error in percent."""
    return f"{100 * float(found[name]):.1f} ± {100 * float(found[f'{name}_error']):.1f}"


def rows_of(found: xr.Dataset) -> list[list[str]]:
    """Rows of the table of one dose."""
    rows = []
    for target in TARGETS:
        before, after = (found.sel(known=k, target=target) for k in ("nothing", "everything"))
        rows.append([
            target, f"{float(before.entropy):.3f} → {float(after.entropy):.3f}",
            f"{float(before.log_score):.3f} → {float(after.log_score):.3f}",
            value_of(after, "log_score_gain"), value_of(after, "overconfidence"),
            f"{percent(after, 'entropy_removed')} ({percent(after, 'log_score_removed')})",
            f"{percent(before, 'accuracy')} → {percent(after, 'accuracy')}",
        ])  # fmt: skip
    return rows


def measure(dose: float, num: int, seed: int, model: bc.DefectModel) -> xr.Dataset:
    """Information at one dose."""
    data = bc.simulate(model.prior.given({"dose": dose}), num, seed=seed)
    results = {
        name: bc.infer(data.intensity, data[known] if known else None, model, num_draws=256)
        for name, known in tqdm(SUBSETS.items())
    }
    return bc.measure_information(results, data, targets=list(TARGETS), seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-patches", type=int, default=1500, help="per dose (default: 1500)")
    parser.add_argument("--model", help="default: the reference model")
    parser.add_argument("--seed", type=int, default=8000)
    arguments = parser.parse_args()
    start = time.perf_counter()
    model = bc.load_model(arguments.model).with_prior(bc.tmd_prior())
    found = {d: measure(d, arguments.num_patches, arguments.seed, model) for d in DOSES}
    body = INTRODUCTION.format(num=arguments.num_patches)
    header = ["target", "entropy", "log score", "I(target; context given image)", "overconfidence",
              "removed (%)", "right (%)"]  # fmt: skip
    for dose, bits in found.items():
        body += f"\n\nAt {dose:.0e} e/Å²:\n\n" + table(header, rows_of(bits))
    body += BY_SUBSET
    shown = ("class", "species_host", "class_of_five")
    rows = [
        [f"{d:.0e}", name, *(value_of(bits.sel(known=name, target=t), "log_score") for t in shown)]
        for d, bits in found.items()
        for name in SUBSETS
    ]
    body += table(["dose (e/Å²)", "known", *shown], rows)
    body += f"\n\nAll of it in {time.perf_counter() - start:.0f} s."
    write("information", "Information of the context", body, arguments.seed)


if __name__ == "__main__":
    main()
