"""Plate diagrams of Pyro programs: what depends on what is found by running the program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyro
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch, Rectangle
from pyro.poutine import Trace

NUM_RUNS, NUM_TRIES = 6, 2  # of the program, and of each site in each: some change nothing
INK, OBSERVED, FRAME = "#333333", "#b9cde4", "#999999"
WIDTH, HEIGHT, FACTOR, MARGIN = 1.5, 0.62, 0.16, 0.22  # of ellipses, factors and plates


@dataclass(frozen=True)
class Site:
    """What a program samples at one place.

    Attributes
    ----------
    plates : tuple of str
        The plates that it is in, outermost first.
    is_observed, is_factor : bool
        Whether it is data, and whether it is a factor of the density without a value.
    """

    plates: tuple[str, ...]
    is_observed: bool
    is_factor: bool


@dataclass(frozen=True)
class Node:
    """One ellipse of the diagram, or the square of a factor.

    Attributes
    ----------
    label : str
        Its text.
    sites : tuple of str
        Sites of the program that it stands for.
    at : tuple of float
        Its middle.
    """

    label: str
    sites: tuple[str, ...]
    at: tuple[float, float]


def sites_of(trace: Trace) -> dict[str, Site]:
    """What a run of a program sampled, without plates and what is computed from the rest.

    Parameters
    ----------
    trace : Trace
        Of the run.

    Returns
    -------
    dict of str to Site
        By name, in the order of the program.
    """
    return {
        name: Site(
            tuple(f.name for f in sorted(node["cond_indep_stack"], key=lambda f: f.dim)),
            node["is_observed"],
            isinstance(node["fn"], pyro.distributions.Unit),
        )
        for name, node in trace.nodes.items()
        if node["type"] == "sample"
        and not type(node["fn"]).__name__.startswith("_Subsample")
        and not node["infer"].get("_deterministic")
    }


def find_dependencies(
    program: Callable, *args: object, seed: int = 0, **kwargs: object
) -> tuple[dict[str, Site], set[tuple[str, str]]]:
    """Find which sites of a program depend directly on which.

    Parameters
    ----------
    program : callable
        A Pyro program.
    *args : object
        Its arguments.
    seed : int
        Of the values that are tried.
    **kwargs : object
        Its arguments by name.

    Returns
    -------
    sites : dict of str to Site
        What the program samples.
    edges : set of (str, str)
        Pairs of a site and one whose density, at a fixed value, changes with the value of the
        first one while all others are held.
    """
    edges = set()
    # validation would stop at values that are tried and are impossible
    with torch.random.fork_rng(), pyro.validation_enabled(False):
        pyro.set_rng_seed(seed)
        for _ in range(NUM_RUNS):
            trace = _possible_run(program, *args, **kwargs)
            edges |= _edges_at(trace, program, *args, **kwargs)
    return sites_of(trace), edges


def _possible_run(program: Callable, *args: object, **kwargs: object) -> Trace:
    """A run of the program whose density is not zero."""
    while True:
        trace = pyro.poutine.trace(program).get_trace(*args, **kwargs)
        if torch.isfinite(trace.log_prob_sum()):
            return trace


def _edges_at(
    trace: Trace, program: Callable, *args: object, **kwargs: object
) -> set[tuple[str, str]]:
    """Dependencies that show when one value of a run after the other is replaced."""
    sites, nodes = sites_of(trace), trace.nodes
    values = {n: nodes[n]["value"] for n, s in sites.items() if not s.is_factor}

    def densities(values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        run = pyro.poutine.trace(pyro.condition(program, data=values))
        found = run.get_trace(*args, **kwargs).nodes
        return {n: found[n]["fn"].log_prob(found[n]["value"]).nan_to_num() for n in sites}

    before, edges = densities(values), set()
    for name in (n for n in values if not sites[n].is_observed):
        for _ in range(NUM_TRIES):
            after = densities(values | {name: nodes[name]["fn"].sample()})
            changed = (n for n in sites if not torch.equal(before[n], after[n]))
            edges |= {(name, n) for n in changed if n != name}
    return edges


def draw_plates(
    ax: Axes, nodes: Sequence[Node], sites: Mapping[str, Site], edges: set[tuple[str, str]]
) -> None:
    """Draw a plate diagram.

    Parameters
    ----------
    ax : Axes
        Empty axes.
    nodes : sequence of Node
        Where every site is drawn; several sites may share a node.
    sites, edges : dict and set
        From ``find_dependencies``.

    Raises
    ------
    ValueError
        If the nodes are not those of the program.
    """
    drawn = [name for node in nodes for name in node.sites]
    if sorted(drawn) != sorted(sites):
        raise ValueError(
            f"nodes for the sites of the program were expected, {sorted(sites)}, got "
            f"{sorted(drawn)}; draw what has changed"
        )
    place = {name: node for node in nodes for name in node.sites}
    plates = dict.fromkeys(p for site in sites.values() for p in site.plates)
    for level, plate in enumerate(plates):
        within = [n.at for n in nodes if plate in sites[n.sites[0]].plates]
        _frame(ax, plate, within, MARGIN * (len(plates) - level))
    for start, end in {(place[a], place[b]) for a, b in edges if place[a] is not place[b]}:
        _arrow(ax, start, end, sites)
    for node in nodes:
        _draw_node(ax, node, sites[node.sites[0]])
    x, y = zip(*(n.at for n in nodes), strict=True)
    wide = WIDTH / 2 + MARGIN * (len(plates) + 1)
    tall = HEIGHT / 2 + MARGIN * (len(plates) + 2)
    ax.set(xlim=(min(x) - wide, max(x) + wide), ylim=(min(y) - tall, max(y) + tall))
    ax.set_aspect("equal")
    ax.axis("off")


def _frame(ax: Axes, plate: str, within: Sequence[tuple[float, float]], margin: float) -> None:
    """The rectangle of a plate around the middles of its nodes."""
    x, y = zip(*within, strict=True)
    left, right = min(x) - WIDTH / 2 - margin, max(x) + WIDTH / 2 + margin
    low, high = min(y) - HEIGHT / 2 - margin - 0.2, max(y) + HEIGHT / 2 + margin
    style = {"boxstyle": "round,pad=0,rounding_size=0.12", "fill": False, "ec": FRAME}
    ax.add_patch(FancyBboxPatch((left, low), right - left, high - low, **style))
    ax.text(
        right - 0.1, low + 0.06, f"each {plate}", ha="right", va="bottom", fontsize=9, color=INK
    )


def _outline(node: Node, site: Site, **style: object) -> Ellipse | Rectangle:
    """Ellipse of a value, square of a factor."""
    if site.is_factor:
        corner = node.at[0] - FACTOR / 2, node.at[1] - FACTOR / 2
        return Rectangle(corner, FACTOR, FACTOR, fc=INK, ec=INK, **style)
    fill = OBSERVED if site.is_observed else "white"
    return Ellipse(node.at, WIDTH, HEIGHT, fc=fill, ec=INK, lw=1.0, **style)


def _draw_node(ax: Axes, node: Node, site: Site) -> None:
    """One node with its text."""
    ax.add_patch(_outline(node, site, zorder=3))
    left = FACTOR if site.is_factor else 0.0
    style = {"ha": "right" if site.is_factor else "center", "va": "center", "fontsize": 8}
    ax.text(node.at[0] - left, node.at[1], node.label, color=INK, zorder=4, **style)


def _arrow(ax: Axes, start: Node, end: Node, sites: Mapping[str, Site]) -> None:
    """An arrow from one outline to another."""
    ends = [_outline(n, sites[n.sites[0]], visible=False) for n in (start, end)]
    for outline in ends:
        ax.add_patch(outline)
    style = {"arrowstyle": "-|>", "mutation_scale": 10, "color": INK, "lw": 0.8, "zorder": 2}
    shrink = {"shrinkA": 0, "shrinkB": 1}
    ax.add_patch(
        FancyArrowPatch(start.at, end.at, patchA=ends[0], patchB=ends[1], **shrink, **style)
    )
