"""Reports in headless Chromium, as a person uses them."""

import warnings

import pytest
from browser import CHROMIUM, browser
from reports import HOSTILE, as_simulator, infer_micrograph, infer_patches

import bayesctx as bc

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)"
)
PHONE = (375, 740)
SELECTED = "Number(document.getElementById('site').dataset.site)"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Reports of a micrograph, of two detectors with hostile names, and of independent images."""
    folder = tmp_path_factory.mktemp("pages")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few effective draws
        result = infer_micrograph(source=f"/data/{HOSTILE}")
        less = infer_micrograph({"host": "WSe2"})
        images = infer_patches("image")
    several = as_simulator(result, detectors=(HOSTILE, "ADF2"))
    bc.write_report(result, folder / "one.html", compared=(less, result), notes=[HOSTILE])
    bc.write_report(several, folder / "two.html")
    bc.write_report(images, folder / "images.html")
    return result, folder


@pytest.fixture(scope="module")
def tab():
    with browser() as page:
        yield page


@pytest.fixture
def page(tab, files):
    """The report of the micrograph on a desktop."""
    tab.resize(1280, 900)
    tab.errors.clear()
    tab.requests.clear()
    tab.open(files[1] / "one.html")
    yield tab
    assert tab.errors == []


def middle_of(page, selector):
    """Place of an element in the window, after scrolling to it."""
    return page.run(
        f"(() => {{ const e = document.querySelector('{selector}');"
        "e.scrollIntoView({block: 'center', behavior: 'instant'});"
        "const b = e.getBoundingClientRect();"
        "return [b.left + b.width / 2, b.top + b.height / 2, b.width, b.height]; })()"
    )


def picture(page):
    """What the canvas shows, once it is drawn."""
    return page.run(
        "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() =>"
        "done(document.getElementById('canvas').toDataURL()))))"
    )


def tap_site(page, index, result):
    """Click where a site is drawn in the whole image."""
    x, y, width, height = middle_of(page, "#canvas")
    image = result["observed_data"].sizes
    scale = min(width / image["x"], height / image["y"])
    place = result["constant_data"]
    left = x + (float(place.site_x[index]) + 0.5 - image["x"] / 2) * scale
    top = y + (float(place.site_y[index]) + 0.5 - image["y"] / 2) * scale
    page.click(left, top)


@pytest.mark.parametrize("name", ["one", "two", "images"])
@pytest.mark.parametrize("is_phone", [False, True])
def test_a_report_opens_without_errors_requests_or_scrolling_sideways(name, is_phone, tab, files):
    tab.resize(*(PHONE if is_phone else (1280, 900)), is_phone=is_phone)
    tab.errors.clear()
    tab.requests.clear()
    tab.open(files[1] / f"{name}.html")
    assert tab.errors == []
    assert [u for u in tab.requests if not u.startswith("data:")] == [
        (files[1] / f"{name}.html").absolute().as_uri()
    ]
    width = PHONE[0] if is_phone else 1280
    assert tab.run("document.documentElement.scrollWidth") == width
    assert tab.run("document.getElementById('broken').hidden")
    # what stands in the file was not run
    assert tab.run("typeof window.hacked") == "undefined"
    assert len(picture(tab)) > 1000


def test_a_tap_shows_the_probabilities_of_a_site(page, files):
    result = files[0]
    index = result["class_posterior"].sizes["patch"] // 2
    tap_site(page, index, result)
    assert page.run(SELECTED) == index
    shares = result["class_posterior"].defect[index]
    first = page.run("document.querySelector('#site tbody tr').textContent")
    best = str(shares.defect_class.values[shares.values.argmax()])
    assert first.replace(" ", "") == f"{best}{float(shares.max()):.3f}"
    # its pixels, smoothed, and one image for each column that the kind of site can hold
    tiles = page.run("[...document.querySelectorAll('#site figure')].map((f) => f.textContent)")
    assert tiles[:2] == ["observed", "smoothed"]
    assert len(tiles) >= 4
    assert tiles[2].startswith(best)
    assert f"probability {float(shares.max()):.3f}" in page.run(
        "document.getElementById('chosen').textContent"
    )


def test_the_mouse_shows_a_site_as_long_as_it_rests_on_it(page, files):
    result = files[0]
    before = page.run(SELECTED)
    index = result["class_posterior"].sizes["patch"] // 3
    x, y, width, _ = middle_of(page, "#canvas")
    scale = width / result["observed_data"].sizes["x"]
    place = result["constant_data"]
    left = x - width / 2 + (float(place.site_x[index]) + 0.5) * scale
    top = y - width / 2 + (float(place.site_y[index]) + 0.5) * scale
    page.mouse("mouseMoved", left, top)
    page.wait(f"{SELECTED} === {index}")
    assert page.run(SELECTED) == index
    page.mouse("mouseMoved", 2, 2)
    page.wait(f"{SELECTED} === {before}")
    assert page.run(SELECTED) == before


def test_layers_and_maps_change_the_picture(page):
    seen = [picture(page)]
    for k in (1, 2):
        page.run(f"document.querySelectorAll('input[name=layer]')[{k}].click()")
        seen.append(picture(page))
    for name in ("defect", "entropy", "surprise", "change", "none"):
        page.run(
            f"(() => {{ const s = document.getElementById('overlay'); s.value = '{name}';"
            "s.dispatchEvent(new Event('change')); })()"
        )
        seen.append(picture(page))
    assert len(set(seen)) == len(seen)
    assert "standard deviations" in page.run("document.getElementById('scale').textContent")


def test_classes_and_probabilities_are_filters(page):
    before = picture(page)
    page.run("document.querySelector('input[name=shown]').click()")
    without = picture(page)
    page.run("document.querySelector('input[name=shown]').click()")
    assert picture(page) == before != without
    page.run(
        "(() => { const s = document.getElementById('least'); s.value = 1;"
        "s.dispatchEvent(new Event('input')); })()"
    )
    assert picture(page) != before
    assert page.run("document.getElementById('least-value').textContent") == "1.00"


def test_the_wheel_zooms_and_dragging_moves(page):
    whole = picture(page)
    x, y, *_ = middle_of(page, "#canvas")
    page.mouse("mouseMoved", x, y)
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-600)
    page.wait("document.getElementById('canvas').classList.contains('movable')")
    zoomed = picture(page)
    page.mouse("mousePressed", x, y, button="left", clickCount=1)
    page.mouse("mouseMoved", x + 20, y + 10, button="left", buttons=1)
    page.mouse("mouseMoved", x + 60, y + 40, button="left", buttons=1)
    page.mouse("mouseReleased", x + 60, y + 40, button="left", clickCount=1)
    page.mouse("mouseMoved", 2, 2)
    moved = picture(page)
    assert len({whole, zoomed, moved}) == 3
    page.run("document.getElementById('whole').click()")
    assert picture(page) == whole


def test_the_keyboard_moves_zooms_and_steps_through_sites(page):
    whole = picture(page)
    page.run("document.getElementById('canvas').focus()")
    page.key("+", "+")
    zoomed = picture(page)
    page.key("ArrowLeft")
    moved = picture(page)
    page.key("0", "0")
    assert picture(page) == whole
    assert len({whole, zoomed, moved}) == 3
    first = page.run(SELECTED)
    page.key("n", "n")
    assert page.run(SELECTED) != first
    page.key("p", "p")
    assert page.run(SELECTED) == first
    # every control has a place in the order of the tabulator, and a name
    nameless = page.run(
        "[...document.querySelectorAll('button, select, input, #canvas')].filter((e) =>"
        "!(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length)).length"
    )
    assert nameless == 0


def test_two_fingers_zoom_on_a_phone(tab, files):
    tab.resize(*PHONE, is_phone=True)
    tab.errors.clear()
    tab.open(files[1] / "one.html")
    whole = picture(tab)
    x, y, *_ = middle_of(tab, "#canvas")

    def touch(kind, *reaches):
        points = [{"x": x + r, "y": y, "id": k} for k, r in enumerate(reaches)]
        tab.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    touch("touchStart", -20, 20)
    for reach in (30, 50, 80):
        touch("touchMove", -reach, reach)
    touch("touchEnd")
    assert picture(tab) != whole
    assert tab.run("document.getElementById('canvas').style.touchAction") == "none"
    tab.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
    tab.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    assert tab.errors == []


def test_a_row_of_the_table_leads_to_its_site(page):
    page.run("document.querySelectorAll('button[data-site]')[3].click()")
    index = page.run("Number(document.querySelectorAll('button[data-site]')[3].dataset.site)")
    assert page.run(SELECTED) == index


def test_each_detector_has_its_pixels(tab, files):
    tab.resize(1280, 900)
    tab.errors.clear()
    tab.open(files[1] / "two.html")
    names = tab.run("[...document.querySelectorAll('#site h4')].map((h) => h.textContent)")
    assert names == [HOSTILE, "ADF2"]
    assert tab.run("document.querySelectorAll('input[name=layer]').length") == 6
    assert tab.errors == []


def test_a_report_prints(page):
    pdf = page.pdf()
    assert pdf.startswith(b"%PDF")
    # the picture is in it
    assert b"/Subtype /Image" in pdf
    assert 2 <= pdf.count(b"/Type /Page\n") <= 12


def test_text_has_enough_contrast(page):
    """WCAG 2.1, 1.4.3: 4.5 for text, over the background of the nearest element that has one."""
    code = """
(() => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((s, v, k) => s + v * [0.2126, 0.7152, 0.0722][k], 0);
  const poor = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length || e.closest("svg, script, style")) continue;
    let b = e;
    while (b && (parse(getComputedStyle(b).backgroundColor)[3] ?? 1) === 0) b = b.parentElement;
    const back = b ? light(parse(getComputedStyle(b).backgroundColor)) : 1;
    const front = light(parse(getComputedStyle(e).color));
    const ratio = (Math.max(back, front) + 0.05) / (Math.min(back, front) + 0.05);
    if (ratio < 4.5) poor.push([e.tagName, e.className, ratio, e.textContent.slice(0, 30)]);
  }
  return poor;
})()"""
    assert page.run(code) == []
