"""The documents: links lead somewhere, code agrees with the package, every name is listed."""

import ast
import inspect
import json
import re
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.figure import Figure

import bayesctx as bc

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)]
TUTORIAL = DOCS / "guide" / "tutorial.ipynb"
FENCE = re.compile(r"^(`{3,})([^\n]*)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
PYTHON = ("python", "{code-cell} ipython3")


def text_of(page):
    """Markdown of a page, of a notebook that of its cells."""
    if page.suffix == ".md":
        return page.read_text()
    cells = json.loads(page.read_text())["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def links_of(page):
    """Where a page leads to, without what is code."""
    plain = re.sub(r"`[^`\n]*`", "code", FENCE.sub("", text_of(page)))
    return [u for u in re.findall(r"\]\(([^)\s]+)\)", plain) if "://" not in u]


def anchors_of(page):
    """Anchors of the headings, as code hosts and the site make them."""
    headings = re.findall(r"^#+ +(.*)$", FENCE.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def code_of(page):
    """Blocks of Python of a page."""
    if page.suffix == ".ipynb":
        cells = json.loads(page.read_text())["cells"]
        return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    blocks = [body for _, kind, body in FENCE.findall(page.read_text()) if kind in PYTHON]
    return [re.sub(r"\A(:.*\n)+", "", block) for block in blocks]


def name_of(node):
    """Names after ``bc`` of an expression such as ``bc.files.recorded_context``, or None."""
    names = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return names if isinstance(node, ast.Name) and node.id == "bc" and names else None


def value_of(names):
    """What the names stand for in the package."""
    value = bc
    for name in names:
        value = getattr(value, name)
    return value


def exists(names):
    """Whether the package has what the names stand for."""
    try:
        value_of(names)
    except AttributeError:
        return False
    return True


def takes(called, node):
    """Whether a function of the package takes the arguments of a call."""
    arguments = {k.arg: None for k in node.keywords}
    module = getattr(called, "__module__", None) or ""
    if not module.startswith("bayesctx") or None in arguments:
        return True
    try:
        inspect.signature(called).bind(*[None] * len(node.args), **arguments)
    except TypeError:
        return False
    return True


def test_wrong_calls_are_noticed():
    assert not exists(["no_such_name"])
    call = ast.parse("bc.infer(image, nonsense=1)").body[0].value
    assert not takes(bc.infer, call)
    assert takes(bc.infer, ast.parse("bc.infer(image, context)").body[0].value)


@pytest.mark.parametrize("page", [*PAGES, TUTORIAL], ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page):
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


@pytest.mark.parametrize("page", [*PAGES, TUTORIAL], ids=lambda p: str(p.relative_to(ROOT)))
def test_code_calls_what_there_is_with_the_arguments_that_it_takes(page):
    for block in code_of(page):
        for node in ast.walk(ast.parse(block)):
            names = name_of(node)
            assert not names or exists(names), ".".join(names)
            if isinstance(node, ast.Call) and name_of(node.func):
                assert takes(value_of(name_of(node.func)), node), ast.unparse(node)


def public_names():
    """Functions, classes and constants of ``__init__.pyi``."""
    tree = ast.parse((ROOT / "bayesctx" / "__init__.pyi").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    return {alias.name for node in imports for alias in node.names}


@pytest.mark.parametrize("page", ["api.md", "reference.md"])
def test_every_public_name_is_listed(page):
    words = set(re.findall(r"\w+", (DOCS / page).read_text()))
    assert public_names() - words == set()


def test_the_reference_names_nothing_that_is_not_there():
    listed = re.findall(r"^   (\w[\w.]*)$", (DOCS / "reference.md").read_text(), re.MULTILINE)
    assert len(listed) > 50
    assert all(inspect.getdoc(value_of(name.split("."))) for name in listed)


def test_the_tutorial_is_a_clean_notebook():
    notebook = json.loads(TUTORIAL.read_text())
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    # results are computed where it is shown, and not kept
    assert all(c["outputs"] == [] and c["execution_count"] is None for c in code)


@pytest.fixture
def plates(monkeypatch):
    """The module with which a page draws the programs."""
    monkeypatch.setattr(sys, "path", [str(DOCS / "guide"), *sys.path])
    import plates

    return plates


def program():
    """A chain a -> b -> c, factors, one of which shows b only where a is positive, and data."""
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.factor("limit", -(a**2))
    b = pyro.sample("b", dist.Normal(pyro.deterministic("twice", 2 * a), 1.0))
    pyro.factor("gate", a.clamp(min=0) * b)
    with pyro.plate("row", 3):
        c = pyro.sample("c", dist.Normal(b, 1.0))
        pyro.sample("data", dist.Normal(c, 1.0), obs=torch.zeros(3))


def test_dependencies_are_those_of_the_program(plates):
    state = torch.random.get_rng_state()
    sites, edges = plates.find_dependencies(program)
    assert torch.equal(torch.random.get_rng_state(), state)
    # nothing leads through b from a to c, since b is held
    gate = {("a", "gate"), ("b", "gate")}
    assert edges == {("a", "limit"), ("a", "b"), ("b", "c"), ("c", "data")} | gate
    assert list(sites) == ["a", "limit", "b", "gate", "c", "data"]
    assert [n for n, s in sites.items() if s.is_factor] == ["limit", "gate"]
    assert sites["data"].is_observed
    assert sites["c"].plates == ("row",)


def test_a_figure_of_other_sites_is_refused(plates):
    sites, edges = plates.find_dependencies(program)
    places = {
        "a": (0, 2),
        "limit": (1, 2),
        "gate": (1, 1),
        "b": (0, 1),
        "c": (0, 0),
        "data": (1, 0),
    }
    nodes = [plates.Node(name, (name,), at) for name, at in places.items()]
    ax = Figure().subplots()
    plates.draw_plates(ax, nodes, sites, edges)
    assert len(ax.texts) == len(nodes) + 1  # and the name of the plate
    with pytest.raises(ValueError, match=r"nodes for the sites of the program were expected"):
        plates.draw_plates(ax, nodes[1:], sites, edges)
