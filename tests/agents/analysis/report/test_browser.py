"""The report in a real browser: it plays, and its charts and its video stay together."""

import numpy as np
import pytest

from agents import report
from agents.analysis.report.page import FOLDER
from agents.evaluation.results import format_score
from tests.agents.chromium import CHROMIUM, Chromium
from tests.agents.curve_runs import write_progress
from tests.agents.report_pages import read_data, unpack
from tests.agents.runs import make_config, make_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here"),
]
DECISIONS = 60
READY = "document.getElementById('video').readyState >= 2"
TIME = "document.getElementById('video').currentTime"
STILL = "!document.getElementById('video').seeking"
NOW = "Number(document.getElementById('seek').value)"
CURSOR = """(() => {
    const cursor = document.getElementById("cursor").getBoundingClientRect();
    return cursor.left + cursor.width / 2;
})()"""


@pytest.fixture(scope="module", params=["neurocoder", "hypernet", "linear"])
def page(request, tmp_path_factory):
    config = make_config(head=request.param, max_frames=4 * DECISIONS)
    run = make_run(tmp_path_factory.mktemp("runs") / request.param, config)
    write_progress(run, ((1000, 10.0), (2000, 21.5)))
    assert report.main([str(run), "--episodes", "1"]) == 0
    return run / "report.html"


@pytest.fixture
def browser():
    browser = Chromium()
    yield browser
    browser.close()


def box(browser, name):
    """Left, top, width and height of an element that is scrolled into view."""
    return browser.evaluate(
        f"(() => {{ const e = document.getElementById('{name}');"
        "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
        "return [b.left, b.top, b.width, b.height]; })()"
    )


def painted(browser, name):
    """How many different colours a canvas shows."""
    return browser.evaluate(
        f"(() => {{ const c = document.getElementById('{name}');"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "const seen = new Set(); for (let i = 0; i < d.length; i += 4)"
        "seen.add(d[i] << 16 | d[i + 1] << 8 | d[i + 2]); return seen.size; })()"
    )


def plot(browser, canvas):
    """Where the first agent step begins and the last ends in a lane of the timeline, in pixels."""
    left, top, width, height = box(browser, canvas)
    cursors = []
    for t in (0, DECISIONS - 1):
        browser.evaluate(
            f"(() => {{ const s = document.getElementById('seek'); s.value = {t};"
            "s.dispatchEvent(new Event('input')); })()"
        )
        cursors.append(browser.evaluate(CURSOR))
    half = (cursors[1] - cursors[0]) / (DECISIONS - 1) / 2
    assert left < cursors[0] < cursors[1] < left + width
    return cursors[0] - half, cursors[1] + half, top + height / 2


def test_everything_is_drawn_without_a_complaint_or_a_request(browser, page):
    lanes = ["curve", "policy", "value"]
    if "linear" not in str(page):
        lanes += ["attention", "matrix", "plane"]
    for width, dark in ((1200, False), (1200, True), (390, False)):
        browser.open(page.as_uri(), width=width, dark=dark)
        browser.wait(READY)
        for lane in lanes:
            assert painted(browser, lane) > 3, lane
        assert browser.evaluate("document.documentElement.scrollWidth") == width
        assert browser.evaluate(
            "[...document.images].every((i) => i.complete && i.naturalWidth > 0)"
        )
    assert browser.complaints == []
    assert {r for r in browser.requests if r != "data:"} == {page.as_uri()}


def test_a_curve_of_one_point_can_be_seen(browser, tmp_path):
    run = make_run(tmp_path / "run", make_config(head="linear", max_frames=24))
    write_progress(run, ((1000, 10.0),))
    assert report.main([str(run), "--episodes", "1"]) == 0
    browser.open((run / "report.html").as_uri())
    browser.wait(READY)
    assert browser.evaluate(
        "(() => { const c = document.getElementById('curve');"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "for (let i = 0; i < d.length; i += 4)"
        "if (d[i] === 0 && d[i + 1] === 0x72 && d[i + 2] === 0xb2) return true;"
        "return false; })()"
    )


def test_numbers_are_written_as_in_tables_and_short_on_axes(browser):
    script = (FOLDER / "charts" / "numbers.js").read_text()

    def shown(call):
        return browser.evaluate(f"(() => {{ {script} return {call}; }})()")

    for score in (0, -1, 260, 1_234_567, 0.955, -0.1, 0.30000001, 99.96, 617.25, 15_000.5):
        assert shown(f"score({score})") == format_score(score).replace("-", "\N{MINUS SIGN}")
    for number, text in ((0, "0"), (0.25, "0.25"), (999, "999"), (5000, "5 k"), (-1500, "−1.5 k")):
        assert shown(f"short({number})") == text
    assert shown("short(75e6)") == "75 M"


def test_the_heat_map_shows_the_weights_of_what_is_selected(browser, page):
    if "linear" in str(page):
        return
    data = read_data(page.read_text())
    browser.open(page.as_uri(), height=1400)
    browser.wait(READY)
    signed = "hypernet" in str(page)
    choices = [(0, 1, "mean"), (1, 2, "3"), (0, 0, "0")]
    if signed:
        choices = [(0, 0, "mean"), (1, 0, "mean")]
    for head, memory, component in choices:
        for name, value in (("head", head), ("memory", memory), ("component", component)):
            browser.evaluate(
                f"(() => {{ const s = document.getElementById('{name}'); if (!s) return;"
                f"s.value = '{value}'; s.dispatchEvent(new Event('change')); }})()"
            )
        selection = data["heads"][head]["selections"][memory]
        weights = unpack(selection["weights"]) / (1 if signed else 255)
        weights = weights.mean(axis=1) if component == "mean" else weights[:, int(component)]
        start, end, _ = plot(browser, "attention")
        left, top, _, height = box(browser, "attention")
        t, slot = np.unravel_index(np.abs(weights).argmax(), weights.shape)
        x = start + (t + 0.5) / DECISIONS * (end - start)
        y = top + (slot + 0.5) / weights.shape[1] * (height - 4)
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        text = browser.evaluate("document.getElementById('readout').textContent")
        kind = "factor" if signed else "slot"
        value = f"{weights[t, slot]:.3f}".replace("-", "\N{MINUS SIGN}")
        assert text.endswith(f"step {t + 1}: {kind} {slot + 1}, {value}")
        pixel = browser.evaluate(
            "[...document.getElementById('attention').getContext('2d')"
            f".getImageData({x - left}, {y - top}, 1, 1).data].slice(0, 3)"
        )
        end_of_ramp = "#08306b" if not signed else "#2166ac" if weights[t, slot] < 0 else "#c4501b"
        assert bytes(pixel).hex() == end_of_ramp[1:]


def test_a_click_in_a_chart_takes_the_video_to_that_moment(browser, page):
    browser.open(page.as_uri())
    browser.wait(READY)
    for lane in ("policy", "value", "attention"):
        if lane == "attention" and "linear" in str(page):
            continue
        start, end, y = plot(browser, lane)
        for t in (45, 10):
            x = start + (t + 0.5) / DECISIONS * (end - start)
            browser.click(x, y)
            browser.wait(STILL)
            assert browser.evaluate(NOW) == t
            assert t / 15 < browser.evaluate(TIME) < (t + 1) / 15
            assert browser.evaluate(CURSOR) == pytest.approx(x, abs=1)
    assert browser.complaints == []


def test_a_click_on_a_point_or_a_picture_takes_the_video_to_its_moment(browser, page):
    browser.open(page.as_uri())
    browser.wait(READY)
    if "linear" in str(page):
        assert browser.evaluate("document.getElementById('plane')") is None
        return
    browser.evaluate("document.querySelector('#gallery button:last-child').click()")
    browser.wait(STILL)
    t = browser.evaluate(
        "JSON.parse(document.getElementById('data').textContent).gallery[0].at(-1).t"
    )
    assert browser.evaluate(NOW) == t
    assert t / 15 < browser.evaluate(TIME) < (t + 1) / 15
    browser.evaluate("document.getElementById('gallery').style.display = 'none'")
    # The ring lies on the point of the agent step, so a click there stays with it, or with a twin.
    left, top, *_ = box(browser, "ring")
    browser.click(left + 9, top + 9)
    browser.wait(STILL)
    again = box(browser, "ring")
    assert again[:2] == pytest.approx([left, top], abs=3)


def test_the_cursor_follows_the_video_that_plays_to_its_end(browser, page):
    browser.open(page.as_uri())
    browser.wait(READY)
    assert browser.evaluate("document.getElementById('video').duration") == pytest.approx(
        DECISIONS / 15, abs=0.05
    )
    before = browser.evaluate(CURSOR)
    browser.evaluate("document.getElementById('play').click()")
    browser.wait(f"{TIME} > 1")
    assert browser.evaluate("document.getElementById('play').textContent") == "Pause"
    assert browser.evaluate(CURSOR) > before
    browser.wait("document.getElementById('video').ended")
    browser.wait(f"{NOW} === {DECISIONS - 1}")
    assert browser.evaluate("document.getElementById('play').textContent") == "Play"
    assert browser.evaluate("document.getElementById('video').error") is None
    assert browser.complaints == []


def test_the_keyboard_moves_by_one_agent_step_and_plays(browser, page):
    browser.open(page.as_uri())
    browser.wait(READY)
    browser.evaluate("document.getElementById('seek').focus()")
    for _ in range(3):
        browser.press("ArrowRight", "ArrowRight", 39)
    browser.wait(f"{NOW} === 3")
    browser.wait(f"{TIME} > 3 / 15 && {TIME} < 4 / 15")
    browser.press(" ", "Space", 32)
    browser.wait("!document.getElementById('video').paused")
