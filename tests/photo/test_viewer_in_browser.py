import base64
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_viewer import EVIL, evil, face, page, photo, write  # noqa: F401 (fixtures)

from e2far import raster

pytestmark = pytest.mark.slow
NAMES = "chromium chromium-browser google-chrome google-chrome-stable chrome".split()
NAMES += ["headless_shell", "chrome-headless-shell"]
CACHE = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH", Path.home() / ".cache/ms-playwright"))
FOUND = [os.environ.get("CHROME"), *map(shutil.which, NAMES)]
FOUND += [str(path) for path in sorted(CACHE.glob("chromium*/*/*")) if path.name in NAMES]
CHROME = next(filter(None, FOUND), None)
SOFTWARE = "--use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader".split()
SOFTWARE += ["--ignore-gpu-blocklist"]


class Browser:
    """A headless Chromium, driven through its DevTools pipe.

    Messages are JSON ended by a zero byte, to descriptor 3 and from descriptor 4.
    """

    def __init__(self, folder, *options):
        theirs_in, self.ours_out = os.pipe()
        self.ours_in, theirs_out = os.pipe()

        def wire():
            ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        command = [CHROME, "--headless", "--no-sandbox", "--remote-debugging-pipe", *options]
        command += [f"--user-data-dir={folder}", "--window-size=900,640", "--hide-scrollbars"]
        silent = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        self.process = subprocess.Popen(
            [*command, "about:blank"], preexec_fn=wire, close_fds=False, **silent
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.number, self.unread, self.session, self.events = 0, b"", {}, []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        attached = self("Target.attachToTarget", targetId=target, flatten=True)
        self.session = dict(sessionId=attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def read(self):
        while b"\0" not in self.unread:
            assert select.select([self.ours_in], [], [], 30)[0], "the browser does not answer"
            part = os.read(self.ours_in, 1 << 20)
            assert part, "the browser has ended"
            self.unread += part
        message, self.unread = self.unread.split(b"\0", 1)
        return json.loads(message)

    def __call__(self, method, **parameters):
        self.number += 1
        message = dict(id=self.number, method=method, params=parameters, **self.session)
        os.write(self.ours_out, json.dumps(message).encode() + b"\0")
        while (message := self.read()).get("id") != self.number:
            self.events.append(message)
        assert "error" not in message, message
        return message["result"]

    def load(self, path):
        self.events.clear()
        self("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self.read())

    def open(self, path):
        self.load(path)
        return self.picture()

    def js(self, code):
        result = self("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def picture(self):
        """The stage on the screen, (H, W, 3) int, at rest, without buttons, help and focus ring."""
        last, end = None, time.time() + 10
        while time.time() < end:
            self.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            x, y, width, height = self.js(
                "(({x, y, width, height}) => [x, y, width, height])"
                "(document.getElementById('stage').getBoundingClientRect())"
            )
            box = dict(x=x + 5, y=y + 45, width=width - 10, height=height - 80, scale=1)
            data = base64.b64decode(self("Page.captureScreenshot", clip=box)["data"])
            now = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
            if last is not None and np.array_equal(last, now):
                return now
            last = now
        raise AssertionError("the picture does not come to rest")

    def after(self, code):
        self.js(code)
        return self.picture()

    def mouse(self, kind, x, y, **more):
        self("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def key(self, key):
        self("Input.dispatchKeyEvent", type="keyDown", key=key)

    def slide(self, name, value):
        self.js(f"""(slider => {{
            slider.value = {value};
            slider.dispatchEvent(new Event("input", {{bubbles: true}}));
        }})([...document.querySelectorAll("label.slider")].find(
            label => label.textContent.includes("{name}")).querySelector("input"))""")
        return self.picture()

    def complaints(self):
        """Exceptions, dialogs, and what was logged as an error or a warning."""
        kinds = ("Runtime.exceptionThrown", "Page.javascriptDialogOpening", "Log.entryAdded")
        logged = [e for e in self.events if e["method"] == "Runtime.consoleAPICalled"]
        loud = [e for e in logged if e["params"]["type"] in ("error", "warning", "assert")]
        return [event for event in self.events if event["method"] in kinds] + loud

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.ours_in)
        os.close(self.ours_out)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if CHROME is None or os.name != "posix":
        pytest.skip("no Chromium: install it, or name one in the environment variable CHROME")
    started = Browser(tmp_path_factory.mktemp("profile"), *SOFTWARE)
    yield started
    started.close()


@pytest.fixture
def browser(chromium):
    """After each test the page must not have complained."""
    yield chromium
    assert not chromium.complaints()


def apart(one, two):
    """The share of pixels that differ visibly."""
    return float((abs(one - two).max(-1) > 8).mean())


def test_the_head_is_drawn_and_every_control_changes_it(browser, page):
    first = browser.open(page)
    head = abs(first - first[0, 0]).max(-1) > 8  # in colours, amid an empty stage
    assert 0.1 < head.mean() < 0.9 and not head[:, :5].any() and first[head].std() > 10
    wireframe = browser.after("wireframe.click()")
    plain = browser.after("wireframe.click(); texture.click()")
    assert apart(browser.after("texture.click()"), first) < 0.001
    front, side = browser.after("front.click()"), browser.after("side.click()")
    assert min(apart(seen, first) for seen in (wireframe, plain, front, side)) > 0.02
    assert np.ptp(plain[head], axis=1).mean() < 40  # no colours of the photo
    sent = (e["params"] for e in browser.events if e["method"] == "Network.requestWillBeSent")
    assert {one["request"]["url"].split(":")[0] for one in sent} == {"file", "data"}


def test_sliders_move_the_mesh_and_buttons_bring_it_back(browser, page):
    values = "[...document.querySelectorAll('.units output')].map(output => output.value)"
    first = browser.open(page)
    lines = browser.after("wireframe.click()")
    assert apart(browser.slide("jaw open", 1), lines) > 0.005
    button = "[...document.querySelectorAll('details button')].find(button => button.textContent"
    assert apart(browser.after(f"{button} == 'Reset jaw').click()"), lines) < 0.001
    assert apart(browser.slide("Strength", 1.5), lines) > 0.02
    recovered = browser.js("face.units.map(unit => unit.recovered)")
    assert [float(v) for v in browser.js(values)] == pytest.approx(
        1.5 * np.array(recovered), abs=0.01
    )
    assert apart(browser.after("rest.click()"), lines) > 0.02
    assert set(browser.js(values)) == {"0.00"}
    assert apart(browser.after("asInPhoto.click(); wireframe.click()"), first) < 0.001


def test_mouse_keys_and_wheel_turn_and_zoom(browser, page):
    browser.open(page)
    front = browser.after("front.click()")
    browser.mouse("mousePressed", 250, 300, button="left", clickCount=1)
    browser.mouse("mouseMoved", 310, 300, button="left", buttons=1)
    browser.mouse("mouseReleased", 310, 300, button="left", clickCount=1)
    assert apart(browser.picture(), front) > 0.02
    assert browser.js("view.rotation[0][2]") > 0  # to the right: x' = cos x + sin z
    browser.js("canvas.focus()")
    browser.key("0")
    assert apart(browser.picture(), front) < 0.001
    browser.key("ArrowLeft")
    assert browser.js("view.rotation[0][2]") < 0
    browser.key("0")
    browser.mouse("mouseWheel", 250, 300, deltaX=0, deltaY=-300)
    assert browser.js("view.zoom") > 1.2 and apart(browser.picture(), front) > 0.02


def test_the_mesh_is_laid_over_the_photo_as_opaque_as_asked(browser, face, page):
    browser.open(page)
    browser.js("overlay.click()")
    photo, covered, half = (browser.slide("How much", share) for share in (0, 1, 0.5))
    dark = photo[..., 1] < 160  # the photo alone: its red half to the left, its blue one above
    for channel, axis in ((0, 1), (2, 0)):
        bright = photo[..., channel] > 160
        inside, outside = (np.nonzero(part)[axis].mean() for part in (bright, ~bright & dark))
        assert inside + 50 < outside
    changed = abs(photo - covered).max(-1) > 30
    unlike = abs(half - (photo + covered) / 2).max(-1)
    assert changed.mean() > 0.05 and np.median(unlike[changed]) < 6

    frame = browser.js("frame(face, view, canvas.clientWidth, canvas.clientHeight)")
    middle = np.array(browser.js("[canvas.clientWidth / 2 - 5, canvas.clientHeight / 2 - 45]"))
    turned = (face.vertices @ face.pose.rotation.T).astype(np.float32)
    points = middle + (frame["scale"] * turned[:, :2] + frame["shift"]) * [1, -1]
    sides = np.concatenate((face.triangles, face.triangles[:, ::-1])).astype(np.int32)
    depth = np.ascontiguousarray(turned[:, 2])
    expected = raster.zbuffer(points.astype(np.float32), depth, sides, 640)[0] >= 0
    expected = expected[: photo.shape[0], : photo.shape[1]]
    covers = abs(photo - covered).max(-1) > 8
    assert (covers & expected).sum() > 0.97 * (covers | expected).sum()
    browser.after("turn(.3, 0)")
    assert not browser.js("overlay.checked")  # turned away from the photo, the photo goes


def test_text_in_the_page_does_not_run(browser, evil):
    browser.open(evil)
    assert browser.js("document.querySelectorAll('img, body > script:not([type])').length") == 2
    assert browser.js("document.querySelector('.units span').textContent") == EVIL


def green_and_red(picture):
    """Where a picture is rather green, and where rather red."""
    more = picture[..., 1] - picture[..., 0]
    return more > 20, more < -20


def test_a_texture_is_shown_upright(browser, write):
    """Upper half of the texture green: what lies at small v, the upper half of the head, is."""
    texture = np.full((64, 64, 3), (200, 40, 40), np.uint8)
    texture[:32] = 40, 200, 40
    browser.open(write(texture=texture))
    green, red = green_and_red(browser.after("front.click()"))
    assert min(green.sum(), red.sum()) > 1000
    assert np.nonzero(green)[0].mean() + 50 < np.nonzero(red)[0].mean()


@pytest.mark.parametrize("back", [False, True])
def test_the_nearest_surface_is_seen(browser, face, write, back):
    """From the side the left half, green, hides the red one, unless it is drawn further back.

    As teeth are, whose place in the texture is its lower left corner.
    """
    bases = ("mean", "identity_basis", "expression_basis", "triangles", "landmarks", "region")
    left = 40 * (face.model.mean[:, 0] > 0).float()  # drawn 160 mm back
    texture = np.full((64, 64, 3), (220, 40, 40), np.uint8)
    texture[:, 32:] = texture[54:, :10] = 40, 220, 40
    model = type(face.model)(
        *(getattr(face.model, name) for name in bases), attributes=dict(teeth=left) if back else {}
    )
    browser.open(write(replace(face, model=model), texture=texture))
    green, red = green_and_red(browser.after("side.click()"))
    assert green.sum() + red.sum() > 5000
    assert red.sum() > green.sum() if back else green.sum() > 4 * red.sum()


@pytest.mark.usefixtures("chromium")
def test_without_webgl_the_page_says_so(page, tmp_path):
    without = Browser(tmp_path, "--disable-3d-apis")
    try:
        without.load(page)
        assert "WebGL" in without.js("message.hidden ? '' : message.textContent")
        without.slide("Strength", 0.5)  # and the controls raise nothing
        raised = [e for e in without.events if e["method"] == "Runtime.exceptionThrown"]
        assert not raised
    finally:
        without.close()
