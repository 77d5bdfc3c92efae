"""write_report(): a result as one HTML file that can be read anywhere."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np
import xarray as xr

from ..information import entropy_change
from ..storage import as_path, replacing
from ..tables import check_result, sites
from .certainty import describe_certainty
from .context_rows import context_rows, probe_rows
from .expectation import Expectation, expect_image
from .overview import facts_of_method, headline, numbers, table_of_images, unsure_sites
from .trust import check_trust, is_by_simulator, likelihood_of
from .viewer_data import viewer_of_micrograph, viewer_of_patches

__all__ = ["check_report_name", "write_report"]

SCRIPTS = ("view.js", "overlay.js", "inspector.js", "start.js")
MOST_DOTS = 2000  # perfect sites that are shown at first, as in plot_defects
SIGNS = {"good": "✓", "doubt": "!", "unknown": "?"}
WORDS = {"good": "good", "doubt": "doubtful", "unknown": "not checked"}
SOURCES = {
    "given": "stated",
    "recorded": "recorded by the file",
    "measured": "measured by the lattice",
}
KINDS = {
    "soft": "soft evidence, updated by the image",
    "inferred": "inferred",
}
GIVEN = ("given", "recorded", "measured")
CITE = """@misc{{bayesctx,
  title   = {{bayesctx: posteriors of defects in atomic-resolution STEM images}},
  author  = {{The bayesctx developers}},
  version = {{{version}}},
  note    = {{model {model}, seed {seed}, likelihood: {likelihood}}}
}}
@misc{{context_aware_stem,
  title  = {{Context-Aware Deep Learning for Defect Classification in Atomic-Resolution STEM}},
  eprint = {{2606.09419}},
  archivePrefix = {{arXiv}}
}}"""


def write_report(
    result: xr.DataTree,
    path: str | os.PathLike,
    *,
    compared: tuple[xr.DataTree, xr.DataTree] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write a result as one HTML file for people.

    Parameters
    ----------
    result : DataTree
        From ``infer`` or ``load``: a micrograph, patches, or independent images.
    path : path-like
        The file, which ends in .html or .htm; an existing one is replaced only by a whole one.
    compared : tuple of DataTree, optional
        Results of the same image with less and with more context, (less, more), by one likelihood;
        the second may be ``result``. Default: entropies of ``result`` alone.
    notes : sequence of str
        Warnings of the inference, which a result does not hold, to be shown.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    TypeError, ValueError
        If it is no result of ``infer``, the suffix is another one, or the results that are compared
        are of other images.
    ImportError
        Without matplotlib.
    OSError
        If it cannot be written.

    Notes
    -----
    The file loads nothing: pictures, data, styles and script are in it, and its policy forbids
    anything else. It has the image with its sites, layers of the expected image and of the
    residual, the probabilities of each site with its pixels beside the expected image of each
    hypothesis, numbers with intervals, context and probe with prior and posterior, entropies,
    checks, and how it was made. What a result does not hold is left out and said.

    Pictures are of 8 bits; of large images they are compressed, so that the file stays below 5 MB.
    Of several images the patches are shown side by side, with the context of each in a table; at
    most 2500 patches.

    Examples
    --------
    >>> write_report(result, "scan.html")  # doctest: +SKIP
    >>> less = bc.infer(image, likelihood="network")  # doctest: +SKIP
    >>> more = bc.infer(image, context, likelihood="network")  # doctest: +SKIP
    >>> write_report(more, "scan.html", compared=(less, more))  # doctest: +SKIP
    """
    check_result(result)
    file = check_report_name(path)
    page = _render(_content(result, compared, tuple(map(str, notes))))
    with replacing(file) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return file


def check_report_name(path: str | os.PathLike) -> Path:
    """Check that a report can be written to a file of this name.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    Path
        The same.

    Raises
    ------
    TypeError
        If it is no path.
    ValueError
        If it does not end in .html or .htm, by which browsers know it.
    ImportError
        Without matplotlib.
    """
    file = as_path(path)
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(
            "matplotlib was expected for a report, it is not installed; pip install bayesctx[plot]"
        )
    if file.suffix.lower() not in (".html", ".htm"):
        raise ValueError(
            f"a file that ends in .html was expected for a report, got {str(path)!r:.80}; "
            "change its ending"
        )
    return file


def _content(
    result: xr.DataTree,
    compared: tuple[xr.DataTree, xr.DataTree] | None,
    notes: tuple[str, ...],
) -> dict[str, object]:
    """What the template shows."""
    is_micrograph = "site_x" in result["constant_data"]
    num_images = result["class_posterior"].sizes.get("image", 1)
    expected, missing = _expectation(result) if is_micrograph else (None, "")
    change = _change(result, compared)
    viewer = (
        viewer_of_micrograph(result, expected, change)
        if is_micrograph
        else viewer_of_patches(result)
    )
    classes = _classes(viewer)
    still = viewer["layers"][0].pop("uri")  # once is enough
    checks = check_trust(result)
    doubts = len(notes) + sum(c.status == "doubt" for c in checks)
    table = numbers(result)
    table["rows"] = [r | {"cls": _of(classes, r["name"])} for r in table["rows"]]
    unsure = unsure_sites(result, sites(result), viewer["sites"]["num"])
    unsure = [s | {n: classes[s[n]] for n in ("first", "second")} for s in unsure]
    context = [] if num_images > 1 else context_rows(_one_image(result))
    method = facts_of_method(result)
    return {
        "title": _title(result),
        "subtitle": _subtitle(result, viewer),
        "headline": headline(result, doubts),
        "is_micrograph": is_micrograph,
        "num_images": num_images,
        "viewer": viewer,
        "still": still,
        "classes": classes,
        "checks": checks,
        "notes": notes,
        "numbers": table,
        "unsure": unsure,
        "given": [r for r in context if r.kind in GIVEN],
        "context": [r for r in context if r.kind not in GIVEN],
        "any_log": any(r.chart is not None and r.chart.is_log for r in context),
        "images": table_of_images(result) if num_images > 1 else None,
        "probe": probe_rows(result) if is_by_simulator(result) else [],
        "information": describe_certainty(result, compared),
        "method": method,
        "cite": _cite(result),
        "expectation": _of_expectation(result, expected),
        "no_expectation": missing,
    }


def _change(
    result: xr.DataTree, compared: tuple[xr.DataTree, xr.DataTree] | None
) -> np.ndarray | None:
    """Reduction of the entropy at every site; raises for results of other images."""
    if compared is None:
        return None
    for other in compared:
        check_result(other)
    entropy_change(compared[1], result)
    return entropy_change(*compared)


def _expectation(result: xr.DataTree) -> tuple[Expectation | None, str]:
    """The expected image; None, and why, where the result does not allow one."""
    try:
        return expect_image(result), ""
    except (ValueError, np.linalg.LinAlgError) as error:
        return None, f"There is no expected and no residual image: {error}."


def _of_expectation(result: xr.DataTree, expected: Expectation | None) -> str:
    """What the expected and residual images are, and how good."""
    if expected is None:
        return ""
    share = ", ".join(f"{100 * s:.0f} %" for s in expected.explained)
    probe = (
        "context and probe of the joint draw that is closest to the middle of the image"
        if is_by_simulator(result)
        else "the draw of the context that is closest to the middle of the image, with aberrations "
        "and source size from their prior, since the network does not infer them: the shapes of "
        "columns are less certain than their heights"
    )
    return (
        f"Expected image: the most probable class of every site, {probe}; gain and background are "
        "fitted, scan jitter and displacements are left out. It explains "
        f"{share} of the variance of the pixels on crystal (noise included). Residual: observed "
        "minus expected, in standard deviations at that intensity."
    )


def _classes(viewer: dict[str, object]) -> list[dict[str, object]]:
    """Classes with their symbols, and which of them are shown at first."""
    classes = viewer["classes"]
    many = sum(c["count"] for c in classes) > MOST_DOTS
    return [
        c
        | {
            "index": k,
            "shown": not (many and c["perfect"]),
            "points": " ".join(
                f"{x * size:.3f},{y * size:.3f}"
                for size in (0.45 if c["perfect"] else 1.0,)
                for x, y in c["corners"]
            ),
        }
        for k, c in enumerate(classes)
    ]


def _of(classes: list[dict[str, object]], name: str) -> dict[str, object]:
    """The class of a name."""
    return next(c for c in classes if c["name"] == name)


def _one_image(result: xr.DataTree) -> xr.DataTree:
    """A result without the dimension of a single image."""
    return result.isel(image=0, missing_dims="ignore")


def _title(result: xr.DataTree) -> str:
    """Name of the file, or what it is of."""
    source = str(result.attrs.get("source", "")).replace("\\", "/").rstrip("/")
    return source.rsplit("/", 1)[-1] or "Posterior of the defects of an image"


def _subtitle(result: xr.DataTree, viewer: dict[str, object]) -> str:
    """Size, detectors and likelihood in a line."""
    image = result["observed_data"].intensity
    if viewer["sampling"]:
        size = viewer["sampling"] / 10
        nm = f"{size * viewer['width']:.1f} × {size * viewer['height']:.1f} nm"
        parts = [f"{viewer['width']} × {viewer['height']} px, {nm}"]
        names = ", ".join(filter(None, viewer["detectors"]))
        parts += [f"detectors {names}"] if names else []
    else:
        shown = viewer["sites"]["num"]
        parts = [f"{viewer['num_all']} patches of {image.shape[-1]} × {image.shape[-2]} px"]
        parts += [f"the first {shown} are drawn"] if shown < viewer["num_all"] else []
    return " · ".join([*parts, f"read by the {likelihood_of(result)}"])


def _cite(result: xr.DataTree) -> str:
    """Entries of BibTeX."""
    words = {n: str(result.attrs.get(n, "unknown")) for n in ("version", "model", "seed")}
    return CITE.format(**words, likelihood=likelihood_of(result).partition(" ")[0])


def _render(content: dict[str, object]) -> str:
    """The page; its policy allows no script but its own, and no connection."""
    web = resources.files(__package__) / "web"
    script = "".join((web / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}}})();\n'
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
        f"form-action 'none'; script-src 'sha256-{digest}'"
    )
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.from_string((web / "report.html").read_text(encoding="utf-8"))
    style = (web / "report.css").read_text(encoding="utf-8")
    return template.render(
        **content,
        policy=policy,
        script=script,
        style=style,
        signs=SIGNS,
        words=WORDS,
        kinds=KINDS,
        sources=SOURCES,
    )
