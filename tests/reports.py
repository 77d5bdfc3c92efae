"""Small results, and what a report of them holds."""

import base64
import json
import zlib
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pyro.distributions as dist
import xarray as xr
from crystals import ALPHA

import bayesctx as bc

GIVEN = {
    "beam_energy": 80e3,
    "inner_collection_angle": 60.0,
    "outer_collection_angle": 200.0,
}
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>.emd"


def infer_micrograph(context=None, *, seed=3, num_pixels=112, **attrs):
    """A result of a small micrograph by the network."""
    prior = bc.reference_prior().given(GIVEN | {"host": "WSe2", "dopant": "Ti", "dose": 1e5})
    prior = replace(prior, dirichlet_alpha=ALPHA)
    data = bc.simulate_micrograph(prior, seed=seed, num_pixels=num_pixels, sampling=0.2)
    soft = {"host": "WSe2", "dopant": ["Ti", "V"], "convergence_semiangle": dist.Uniform(20, 35)}
    context = GIVEN | soft if context is None else context
    result = bc.infer(data.intensity, context, likelihood="network", num_draws=200)
    result.attrs |= attrs
    return result


def infer_patches(*dims):
    """A result of four patches: (patch,), (image,), or two images of two patches each."""
    prior = bc.reference_prior().given({"host": "WSe2"})
    values = bc.simulate(prior, 4, seed=1).intensity.values
    values = values.reshape(*((4,) if len(dims) == 1 else (2, 2)), 32, 32)
    return bc.infer(xr.DataArray(values, dims=(*dims, "y", "x")), {"host": "WSe2"})


def as_simulator(result, *, detectors=()):
    """A result of the network in the form of one by the simulator, with a probe, in two chains."""
    rng = np.random.default_rng(0)
    groups = {n: g.to_dataset() for n, g in result.children.items()}
    posterior = groups["posterior"].isel(draw=slice(0, 40))
    halves = {
        n: (("chain", "draw", *v.dims[2:]), v.values.reshape(2, 20, *v.shape[2:]), v.attrs)
        for n, v in posterior.data_vars.items()
    }
    chains, names = {}, ["source_size", "C12", "phi12", "tilt", "row_jitter"]
    for name, unit in zip(names, ("Å", "Å", "rad", "deg", "Å"), strict=True):
        chains[name] = (("chain", "draw"), rng.uniform(0.6, 0.9, (2, 20)), {"units": unit})
    groups["posterior"] = xr.Dataset(halves | chains, posterior.coords.to_dataset().drop_vars(
        ("chain", "draw")).coords)  # fmt: skip
    num_before = groups["prior"].sizes["draw"]
    groups["prior"] = groups["prior"].assign(
        {n: (("chain", "draw"), rng.uniform(0, 2, (1, num_before))) for n in names}
    )
    groups["sample_stats"] = groups["sample_stats"].assign(
        ess_bulk=("variable", np.full(len(names), 30.0)),
        r_hat=("variable", [1.0, 1.2, 1.0, 1.0, 1.0]),
        variable=names,
    )
    if detectors:
        groups = {n: _of_detectors(g, detectors) for n, g in groups.items()}
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = dict(result.attrs)
    if detectors:
        angles = {d: {"inner_collection_angle": 60.0} for d in detectors}
        stated = json.loads(tree.attrs["context"])
        tree.attrs["context"] = json.dumps(stated | {"detector": angles})
    return tree


def _of_detectors(group, detectors):
    """Variables of a detector for each of several."""
    own = ("intensity", "surprise", "conflict", "inner_collection_angle", "outer_collection_angle")
    found = {
        n: xr.concat([group[n]] * len(detectors), "detector")
        .transpose("chain", "draw", ..., missing_dims="ignore")
        .assign_attrs(group[n].attrs)
        for n in own
        if n in group
    }
    return group.assign(found).assign_coords(detector=list(detectors)) if found else group


class Reader(HTMLParser):
    """Elements of a page with their attributes, and the text of scripts and of everything else."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.scripts, self.open = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        if inside == "script":
            self.scripts.append(data)
        elif inside != "style":
            self.text.append(data)

    def words(self):
        """All that is to be read, in one line."""
        return " ".join(" ".join(self.text).split())

    def data(self):
        """What the viewer draws."""
        return json.loads(self.scripts[0])


def unpack(text, dtype):
    """An array that ``pack`` wrote."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)
