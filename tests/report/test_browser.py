"""Tests the page in a real browser, opened from disk without a network: interaction, layout and printing."""

from __future__ import annotations

import json
import shutil
import time
from itertools import pairwise

import pytest

from leaderboard_cases import HOSTILE, decompressed, rich
from pruneboard import report
from pruneboard.report import page as page_module

BROWSER, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = [
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs chromium and chromedriver on the PATH"),
    # The driver's process is ended with its sockets open, and selenium does not close them itself.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

OFFLINE = ("--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9", "--proxy-bypass-list=<-loopback>")
ROWS = ".board.current table.rows tbody tr"


class Window:
    """A browser window, with the requests and console messages of its page."""

    def __init__(self, *, scripts: bool = True) -> None:
        webdriver = pytest.importorskip("selenium.webdriver")
        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", *OFFLINE):
            options.add_argument(argument)
        if not scripts:
            options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))

    def open(self, path, width=1280):
        """Open a file and wait until its script has finished."""
        self.driver.get("about:blank")
        self.driver.set_window_size(width, 900)
        self.driver.get(path.as_uri())
        self.until("return document.documentElement.dataset.ready === 'yes'")

    def run(self, script, *arguments):
        """Return the result of a script."""
        return self.driver.execute_script(script, *arguments)

    def until(self, script, *arguments):
        """Wait until a script returns a true value, and return it."""
        for _ in range(200):
            if found := self.run(script, *arguments):
                return found
            time.sleep(0.05)
        raise AssertionError(f"never true: {script}")

    def find(self, selector):
        """Return the first element that matches a CSS selector."""
        return self.driver.find_element("css selector", selector)

    def press(self, selector, keys="\ue007"):
        """Send keys to an element, by default Enter. No test needs a mouse for this."""
        self.find(selector).send_keys(keys)

    def choose(self, selector, value):
        """Select an option of a list."""
        self.find(f'{selector} option[value="{value}"]').click()

    def column(self, number):
        """Return the texts of one column of the visible rows."""
        return self.run(
            "return [...document.querySelectorAll(arguments[0])].filter(row => !row.hidden)"
            ".map(row => row.cells[arguments[1]])"
            ".map(cell => (cell.querySelector('summary') || cell).textContent.trim())",
            ROWS,
            number,
        )

    def titles(self):
        """Return the titles of the chart's axes."""
        return self.run(
            "return [...document.querySelectorAll('.board.current .plot .role-axis-title')]"
            ".map(item => item.textContent)"
        )

    def console(self):
        """Return the console messages: errors and warnings, including violations of the policy."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self):
        """Return the addresses that the page has requested since the log was last read."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Return the path of a page with everything on it."""
    path = tmp_path_factory.mktemp("page") / "leaderboard.html"
    path.write_text(report.html(rich()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    """Yield a browser without a network."""
    window = Window()
    yield window
    window.driver.quit()


@pytest.fixture
def window(browser, file):
    """Yield the page, opened on its largest board; afterwards, check requests and console messages."""
    browser.driver.get_log("performance")
    browser.open(file)
    browser.choose(
        "#choose-prune", browser.run("return [...document.querySelectorAll('#choose-prune option')].pop().value")
    )
    browser.until("return document.querySelector('.board.current .plot').dataset.axes")
    browser.until("return document.querySelectorAll(arguments[0]).length > 10", ROWS)
    yield browser
    assert browser.console() == []
    assert {address.partition(":")[0] for address in browser.requests()} <= {"file", "data", "about"}


def test_axes_can_be_switched(window):
    """Selecting other axes redraws the chart with their titles."""
    assert window.titles() == ["sparsity (spaced by compression)", "test top-1, %"]
    window.choose(".board.current [data-axis=x]", "compression")
    window.until("return document.querySelector('.board.current .plot').dataset.axes === 'compression top1'")
    assert window.titles() == ["compression ratio", "test top-1, %"]
    window.choose(".board.current [data-axis=x]", "macs")
    window.choose(".board.current [data-axis=y]", "drop")
    window.until("return document.querySelector('.board.current .plot').dataset.axes === 'macs drop'")
    assert window.titles() == ["remaining multiply-adds, % of dense", "drop against dense, points"]
    window.press(".board.current [data-axis=zoom]", " ")
    window.until("return document.querySelectorAll('.board.current .plot clipPath').length > 0")


def test_a_method_can_be_hidden(window):
    """Its button in the legend removes its marks from the chart and restores them."""
    marks = "return document.querySelectorAll('.board.current .plot .mark-symbol path').length"
    before = window.run(marks)
    window.press('.board.current .legend button[data-method="probmask"]')
    window.until(f"{marks} < arguments[0]", before)
    window.press('.board.current .legend button[data-method="probmask"]')
    window.until(f"{marks} === arguments[0]", before)


def test_every_column_can_be_sorted(window):
    """The button in the header sorts up, then down, sets `aria-sort`, and keeps empty cells at the end."""
    heads = window.run("return document.querySelectorAll('.board.current table.rows thead th').length")
    for column in range(heads):
        head = f".board.current table.rows thead th:nth-child({column + 1})"
        orders = []
        for direction in ("ascending", "descending"):
            window.press(f"{head} button")
            assert window.find(head).get_attribute("aria-sort") == direction
            orders.append([text for text in window.column(column) if text != "-"])
            assert [text for text in window.column(column) if text == "-"] == window.column(column)[len(orders[-1]) :]
        assert sorted(orders[0]) == sorted(orders[1])
    window.press(".board.current table.rows thead th:nth-child(3) button")
    means = [float(text.split(" ±")[0].removeprefix("○ ")) for text in window.column(2) if text[0] in "○0123456789"]
    assert all(first <= second for first, second in pairwise(means))
    assert len(means) > 10


def test_rows_can_be_filtered(window):
    """Text, method, sparsity and seeds each select the matching rows, and their number is shown."""
    total = len(window.column(0))
    window.choose(".board.current [data-filter=method]", "probmask")
    assert set(window.column(0)) == {"probmask"}
    window.choose(".board.current [data-filter=sparsity]", "0.9")
    assert window.column(1) == ["0.9"]
    assert window.find(".board.current [data-filter=count]").text == f"1 of {total} rows"
    window.choose(".board.current [data-filter=method]", "")
    window.choose(".board.current [data-filter=sparsity]", "")
    window.choose(".board.current [data-filter=label]", "single")
    assert set(window.column(4)) == {"1 single"}
    window.choose(".board.current [data-filter=label]", "")
    window.press(".board.current [data-filter=text]", "diverged 0.9")
    assert window.column(0) == ["gmp"]


def test_run_opens_with_its_provenance(window):
    """A seed in the details of a row opens its record in a dialog by keyboard, and Escape closes it."""
    window.press(f"{ROWS} summary")
    window.press(f"{ROWS} details[open] a")
    window.until("return document.getElementById('dialog').open")
    window.until("return document.getElementById('dialog-body').innerText.includes('software.commit')")
    text = window.find("#dialog-body").text
    assert "model.initial_sha256" in text
    assert "run.json" in text
    window.press("#dialog-close", "\ue00c")
    window.until("return !document.getElementById('dialog').open")


def test_a_compressed_run_can_be_opened(window, file):
    """A run whose record is compressed is decompressed when it is opened."""
    page = file.read_text(encoding="utf-8")
    key = next(key for key in decompressed(page) if key.startswith("run-"))
    window.press("#tab-runs")
    window.press(f'[id="{key}"] > summary')
    window.until(
        "return document.getElementById('dialog-body').innerText.includes(arguments[0])", key.removeprefix("run-")
    )


def test_tabs_and_supermask_track(window):
    """Arrow keys and Enter switch between tabs, and the supermask board is shown on its own."""
    window.press("#tab-prune", "\ue014")
    assert window.run("return document.activeElement.id") == "tab-supermask"
    window.press("#tab-supermask")
    window.until("return document.getElementById('supermask').classList.contains('current')")
    assert not window.find("#prune").is_displayed()
    title = window.until("return document.querySelector('#supermask .board.current .plot').dataset.axes")
    assert title == "sparsity top1"
    assert "edge-popup" in window.find("#supermask .board.current table.rows").text
    assert not window.run("return document.querySelector('#supermask [data-axis=y] option[value=drop]')")


def test_theme_can_be_switched(window):
    """The button switches page and chart to the dark theme and back."""
    color = "return getComputedStyle(document.body).backgroundColor"
    label = "return getComputedStyle(document.querySelector('.board.current .plot .role-axis-title text')).fill"
    light = [window.run(color), window.run(label)]
    window.press("#theme")
    window.until(f"{label.replace('return ', 'return arguments[0] !== ')}", light[1])
    dark = [window.run(color), window.run(label)]
    assert dark != light
    window.press("#theme")
    window.until(f"{label.replace('return ', 'return arguments[0] === ')}", light[1])
    assert window.run(color) == light[0]


def test_name_with_a_script_in_it_is_text(window):
    """The row of the hostile method shows its name; no element was created and nothing was run."""
    assert HOSTILE in window.column(0)
    assert window.run("return [...document.scripts].filter(item => item.textContent === 'alert(1)').length") == 0
    window.choose(".board.current [data-axis=x]", "linear")
    window.until("return document.querySelector('.board.current .plot').dataset.axes === 'linear top1'")
    assert window.run("return document.querySelectorAll('.plot script, .layer-map script').length") == 0
    assert HOSTILE in window.run("return document.querySelector('.board.current .layer-map').textContent")


def test_tooltip_shows_text(window):
    """The tooltip of a mark shows the hostile name as text."""
    actions = pytest.importorskip("selenium.webdriver.common.action_chains").ActionChains(window.driver)
    mark = window.find('.board.current .plot .mark-symbol path[aria-label*="alert(1)"]')
    actions.move_to_element(mark).move_by_offset(1, 0).perform()
    text = window.until("return (document.getElementById('vg-tooltip-element') || {}).innerText")
    assert HOSTILE in text
    assert "top-1, %" in text
    assert window.run("return document.querySelectorAll('#vg-tooltip-element script').length") == 0


def test_a_phone_scrolls_only_tables(browser, file):
    """At 390 pixels, the page is as wide as the screen on every tab."""
    browser.open(file)
    browser.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        browser.open(file)
        for tab in ("prune", "supermask", "runs", "problems", "rules"):
            browser.press(f"#tab-{tab}")
            browser.until("return document.getElementById(arguments[0]).classList.contains('current')", tab)
            assert browser.run("return document.documentElement.scrollWidth") <= 390
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_print_has_no_controls(window):
    """Printed pages have the chart and complete tables on white, whatever the theme, and no controls."""
    window.press("#theme")
    window.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert window.find(".board.current .plot svg").is_displayed()
        for control in (".tabs", "#theme", ".board.current .filters", ".board.current .chart-controls", ".chooser"):
            assert not window.find(control).is_displayed(), control
        assert window.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        box = "return getComputedStyle(document.querySelector('.board.current .scroll')).maxHeight"
        assert window.run(box) == "none"
    finally:
        window.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        window.press("#theme")


def test_a_compressed_board_can_be_shown(browser, tmp_path):
    """A page that is too small for a plain board shows all boards from their compressed parts."""
    path = tmp_path / "packed.html"
    small = page_module._build(rich(), 0.01)
    path.write_text(small, encoding="utf-8")
    packed = [key for key in decompressed(small) if key.startswith("board-")]
    assert packed
    browser.open(path)
    browser.run("location.hash = arguments[0]", packed[-1])
    browser.until(
        "return document.querySelector(`#${arguments[0]}.board.current`)",
        packed[-1],
    )
    browser.until("return document.getElementById(arguments[0]).querySelector('.plot svg')", packed[-1])
    assert browser.console() == []


def test_readable_without_scripts(file):
    """Without JavaScript, all images and tables are shown, and no control that would do nothing."""
    window = Window(scripts=False)
    try:
        window.driver.get(file.as_uri())
        text = window.find("main").text
        assert "6 official" in text
        assert HOSTILE in text
        boards = window.driver.find_elements("css selector", ".board")
        assert len(boards) == len(rich().boards)
        for board in boards:
            assert board.is_displayed()
            assert board.find_element("css selector", ".plot img").size["width"] > 300
        assert not any(item.is_displayed() for item in window.driver.find_elements("css selector", "#theme, .filters"))
        assert window.find("#rules").is_displayed()
    finally:
        window.driver.quit()
