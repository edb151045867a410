import base64
import fcntl
import io
import json
import os
import re
import select
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from e2far import camera, raster
from e2far.morphable import toy_model
from e2far.photo import viewer

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "headless_shell",
    "chrome-headless-shell",
)
PLAYWRIGHT = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH", Path.home() / ".cache/ms-playwright"))
CHROME = next(
    filter(
        None,
        [
            os.environ.get("CHROME"),
            *map(shutil.which, NAMES),
            *(str(path) for path in sorted(PLAYWRIGHT.glob("chromium*/*/*")) if path.name in NAMES),
        ],
    ),
    None,
)
EVIL = """</script><script>alert(1)</script><img src=x onerror="alert(1)">' & {{data}}"""


@pytest.fixture(scope="module")
def face():
    """Fields of a `viewer.Page`: a toy face of 224 vertices in a photo whose left half is red and whose upper half is blue."""
    toy = toy_model()
    generator = torch.Generator().manual_seed(1)
    neutral = toy.neutral(torch.randn(1, toy.n_identity, generator=generator, dtype=torch.float64))[
        0
    ].numpy()
    offset = toy.expression_offset(
        torch.randn(1, toy.n_expression, generator=generator, dtype=torch.float64)
    )[0].numpy()
    units = toy.units.numpy().copy()
    units[neutral[:, 1] > 0] = 0  # units move the lower half only
    photo = np.full((300, 400, 3), 90, np.uint8)
    photo[:, :200, 0] = 220
    photo[:150, :, 2] = 220
    rotation = camera.euler_to_matrix(
        torch.deg2rad(torch.tensor([20.0, -10, 5], dtype=torch.float64))
    ).numpy()
    return dict(
        vertices_neutral=neutral,
        expression_offset=offset,
        triangles=toy.triangles.numpy(),
        units=units,
        unit_names=toy.unit_names,
        unit_strengths=np.array([0.2, 0.9, 0]),
        recess=np.zeros(len(neutral)),
        colours=np.random.default_rng(0).integers(0, 255, (len(neutral), 3), dtype=np.uint8),
        photo=photo,
        camera=dict(rotation=rotation, scale=0.8, translation=np.array([210.0, 140])),
        facts={"Yaw": "+20.0°", "Confidence": ("0.83", "As good as on faces like these.")},
        title="one.jpg",
    )


@pytest.fixture(scope="module")
def page(face, tmp_path_factory):
    path = tmp_path_factory.mktemp("viewer") / "face.html"
    viewer.write_html(path, viewer.Page(**face))
    return path


class Page(HTMLParser):
    """Every tag with its attributes and the text directly in it."""

    def __init__(self, path):
        super().__init__()
        self.text, self.tags, self.open = Path(path).read_text(encoding="utf-8"), [], []
        self.feed(self.text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes), []))
        if tag not in ("meta", "input", "br", "img", "link"):
            self.open.append(self.tags[-1])

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, (
            f"</{tag}> closes <{self.open[-1][0] if self.open else None}>"
        )
        self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.open[-1][2].append(data)

    def of(self, tag):
        return [(attributes, "".join(text)) for name, attributes, text in self.tags if name == tag]


# The file ---------------------------------------------------------------------------------------------------------------------------------------


def test_the_page_is_whole_and_asks_nothing_of_the_network(page):
    read = Page(page)
    assert not read.open  # every tag is closed
    assert not re.search(
        r"https?:|//[a-z0-9-]+\.[a-z]",
        re.sub(r'"data:image/[^"]*"|"base64": "[^"]*"', "", read.text),
        re.IGNORECASE,
    )
    assert not [a for _, a, _ in read.tags if {"src", "href", "srcset"} & set(a)] and not read.of(
        "link"
    )
    assert "default-src 'none'" in next(
        a["content"] for a, _ in read.of("meta") if a.get("http-equiv") == "Content-Security-Policy"
    )
    ids = [a["id"] for _, a, _ in read.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'\$\("(\w+)"\)', read.text)) <= set(ids)
    assert "{{" not in read.text


def test_every_control_has_a_name_and_the_picture_answers_to_keys(page):
    read = Page(page)
    labels = re.findall(r"<label.*?</label>", read.text)
    assert sum("<input" in label for label in labels) == len(read.of("input")) and all(
        re.sub(r"<[^>]*>", "", label).strip() for label in labels
    )
    assert all(text.strip() for _, text in read.of("button"))
    ((canvas, _),) = read.of("canvas")
    assert canvas["tabindex"] == "0" and "keys" in canvas["aria-label"]


def test_the_panel_shows_the_facts(page):
    read = Page(page)
    assert read.of("title")[0][1] == read.of("h1")[0][1] == "one.jpg"
    assert [text for _, text in read.of("dt")] == ["Yaw", "Confidence"] and [
        text for _, text in read.of("dd")
    ] == ["+20.0°", "0.83"]
    assert read.of("small")[0][1] == "As good as on faces like these."


def test_no_text_becomes_code(face, page, tmp_path):
    viewer.write_html(
        tmp_path / "evil.html",
        viewer.Page(
            **face | dict(title=EVIL, facts={EVIL: (EVIL, EVIL)}, unit_names=(EVIL, "b", "c"))
        ),
    )
    read, plain = Page(tmp_path / "evil.html"), Page(page)
    assert (
        len(read.of("script")) == len(plain.of("script"))
        and [tag for tag, _, _ in read.tags if tag == "img"] == []
    )
    assert [text for tag in ("title", "h1", "dt", "dd", "small") for _, text in read.of(tag)] == [
        EVIL
    ] * 5
    assert json.loads(read.of("script")[0][1])["units"]["names"][0] == EVIL


def test_the_shipped_models_page_is_small(face_model, tmp_path):
    n = face_model.n_vertices
    viewer.write_html(
        tmp_path / "face.html",
        viewer.Page(
            vertices_neutral=face_model.mean,
            expression_offset=np.zeros((n, 3)),
            triangles=face_model.triangles,
            units=face_model.units,
            unit_names=face_model.unit_names,
            unit_strengths=np.zeros(len(face_model.unit_names)),
            colours=np.zeros((n, 3), np.uint8),
            recess=face_model.recess,
        ),
    )
    assert (tmp_path / "face.html").stat().st_size < 1e6


def test_numbers_that_are_not_finite_are_refused(face, tmp_path):
    wrong = face | dict(expression_offset=np.full((224, 3), np.nan))
    with pytest.raises(ValueError, match="finite"):
        viewer.write_html(tmp_path / "face.html", viewer.Page(**wrong))
    assert not list(tmp_path.iterdir())


def test_the_photo_is_cut_to_the_head_and_its_camera_follows(face):
    vertices = face["vertices_neutral"]
    photo = np.random.default_rng(0).integers(0, 255, (4000, 3000, 3), dtype=np.uint8)
    taken = dict(rotation=np.eye(3), scale=12.0, translation=np.array([1500.0, 1900]))
    picture, zoom, corner = viewer.around(photo, vertices, taken)
    assert max(picture.size) == viewer.PHOTO_SIDE and zoom < 1
    points = ((12 * vertices[:, :2] * [1, -1] + taken["translation"]) - corner) * zoom
    assert (points > 10).all() and (points < np.array(picture.size) - 10).all()
    picture, zoom, corner = viewer.around(
        photo[:100, :80], vertices, dict(taken, translation=np.array([1e5, -1e5]))
    )  # a head outside its photo
    assert min(picture.size) >= 1 and zoom == 1


# Its mathematics, in node -----------------------------------------------------------------------------------------------------------------------


def in_node(path, expression):
    """The value of a JavaScript expression about the page's `face`, without a browser: the page's second script is pure."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    data, mathematics, _ = (text for _, text in Page(path).of("script"))
    code = f"{mathematics}\nconst face = readFace({data});\nface.extent = extent(face.neutral);\nconsole.log(JSON.stringify({expression}, (key, v) => ArrayBuffer.isView(v) ? [...v] : v));"
    return json.loads(
        subprocess.run(
            ["node", "-"], input=code, capture_output=True, text=True, check=True, timeout=60
        ).stdout
    )


def test_the_page_reads_back_what_was_written(face, page):
    read = in_node(page, "face")
    for key, name in (("vertices_neutral", "neutral"), ("expression_offset", "offset")):
        assert (
            abs(np.reshape(read[name], (-1, 3)) - face[key]).max()
            <= 0.502 * abs(face[key]).max() / 32767
        )
    np.testing.assert_array_equal(np.reshape(read["triangles"], (-1, 3)), face["triangles"])
    np.testing.assert_array_equal(np.reshape(read["colours"], (-1, 3)), face["colours"])
    units = np.zeros_like(face["units"])
    for j, unit in enumerate(read["units"]):
        assert (
            unit["name"] == face["unit_names"][j] and unit["recovered"] == face["unit_strengths"][j]
        )
        units[unit["index"], :, j] = np.reshape(unit["shift"], (-1, 3))
    assert abs(units - face["units"]).max() <= 0.502 * abs(face["units"]).max() / 32767


@pytest.mark.parametrize(
    "strength, weights",
    [(1.0, [0.2, 0.9, 0]), (0.0, [0.0, 0, 0]), (1.5, [0.3, 1.35, 0]), (0.5, [1.0, 0, 0.7])],
)
def test_sliders_move_the_mesh_as_the_equation_says(face, page, strength, weights):
    moved = np.reshape(in_node(page, f"shape(face, {strength}, {weights})"), (-1, 3))
    expected = (
        face["vertices_neutral"]
        + strength * face["expression_offset"]
        + face["units"] @ (np.array(weights) - strength * face["unit_strengths"])
    )
    assert (
        abs(moved - expected).max() < 0.02
    )  # mm; at recovered strengths exactly the reconstruction, at none exactly the neutral face


def test_normals_are_the_rasterizers_and_show_no_seam(face, tmp_path):
    """The last ten triangles have corners of their own, as where a texture is torn."""
    triangles = face["triangles"].copy()
    n, torn = len(face["vertices_neutral"]), triangles[-10:].flatten()
    triangles[-10:] = n + np.arange(30).reshape(-1, 3)
    vertex = np.concatenate((np.arange(n), torn))
    copied = {
        key: face[key][vertex]
        for key in ("vertices_neutral", "expression_offset", "units", "colours", "recess")
    }
    viewer.write_html(
        tmp_path / "face.html", viewer.Page(**face | copied | dict(triangles=triangles))
    )
    normals = np.reshape(
        in_node(tmp_path / "face.html", "vertexNormals(face.neutral, face.triangles, face.same)"),
        (-1, 3),
    )
    expected = raster.vertex_normals(face["vertices_neutral"], face["triangles"])[vertex]
    assert (
        (normals / np.linalg.norm(normals, axis=1, keepdims=True) * expected).sum(1) > 0.999
    ).all()


def test_every_edge_is_drawn_once(face, page):
    edges = np.reshape(in_node(page, "edgesOf(face.triangles, face.neutral.length / 3)"), (-1, 2))
    expected = {
        tuple(sorted(pair))
        for a, b, c in face["triangles"].tolist()
        for pair in ((a, b), (b, c), (c, a))
    }
    assert len(edges) == len(expected) and set(map(tuple, edges.tolist())) == expected


def test_over_the_photo_the_mesh_lies_where_the_photos_camera_puts_it(face, page):
    width, height, pan = 640, 500, np.array([7.0, -3])
    read = in_node(
        page,
        f"{{frame: frame(face, {{rotation: face.camera.rotation, zoom: 2, pan: [7, -3], asPhoto: true}}, {width}, {height}), camera: face.camera, photo: face.photo}}",
    )
    vertices = face["vertices_neutral"] + face["expression_offset"]
    on_screen = (
        read["frame"]["scale"] * (vertices @ np.array(read["camera"]["rotation"]).T)[:, :2]
        + read["frame"]["shift"]
    )  # from the middle, y up
    in_crop = (on_screen - pan) * [1, -1] / read["frame"]["fit"] + np.array(
        [read["photo"]["width"], read["photo"]["height"]]
    ) / 2
    _, zoom, corner = viewer.around(face["photo"], vertices, face["camera"])
    expected = camera.weak_perspective(
        *(
            torch.as_tensor(np.asarray(a, float))
            for a in (vertices, *(face["camera"][k] for k in ("rotation", "scale", "translation")))
        )
    ).numpy()
    assert abs(in_crop / zoom + corner - expected).max() < 0.01


@pytest.mark.parametrize("rotation", ["turnY(0)", "multiply(turnX(.4), turnY(-1.2))"])
def test_a_free_view_holds_the_head(face, page, rotation):
    read = in_node(
        page,
        f"[{rotation}, frame(face, {{rotation: {rotation}, zoom: 1, pan: [0, 0], asPhoto: false}}, 500, 900)]",
    )
    points = (
        read[1]["scale"] * (face["vertices_neutral"] @ np.array(read[0]).T)[:, :2]
        + read[1]["shift"]
    )
    assert (
        np.linalg.det(read[0]) == pytest.approx(1)
        and (abs(points) < [250, 450]).all()
        and np.ptp(points, axis=0).max() > 200
    )


# In a browser -----------------------------------------------------------------------------------------------------------------------------------


class Browser:
    """A headless Chromium, driven through its DevTools pipe: JSON ended by a zero byte, to descriptor 3 and from descriptor 4."""

    def __init__(self, folder, *options):
        theirs_in, self.ours_out = os.pipe()
        self.ours_in, theirs_out = os.pipe()

        def wire():
            ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        command = [
            CHROME,
            "--headless",
            "--no-sandbox",
            "--remote-debugging-pipe",
            f"--user-data-dir={folder}",
            "--window-size=900,640",
            "--hide-scrollbars",
            *options,
            "about:blank",
        ]
        self.process = subprocess.Popen(
            command,
            preexec_fn=wire,
            close_fds=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.number, self.unread, self.session, self.events = 0, b"", {}, []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = dict(
            sessionId=self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        )
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
        os.write(
            self.ours_out,
            json.dumps(
                dict(id=self.number, method=method, params=parameters, **self.session)
            ).encode()
            + b"\0",
        )
        while (message := self.read()).get("id") != self.number:
            self.events.append(message)
        assert "error" not in message, message
        return message["result"]

    def open(self, path):
        self.events.clear()
        self("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self.read())
        return self.picture()

    def js(self, code):
        result = self("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def picture(self):
        """The stage as the screen shows it, without its buttons, help and focus ring, (H, W, 3) int, when it has come to rest."""
        last, end = None, time.time() + 10
        while time.time() < end:
            self.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            box = self.js(
                "(({x, y, width, height}) => ({x: x + 5, y: y + 45, width: width - 10, height: height - 80, scale: 1}))(document.getElementById('stage').getBoundingClientRect())"
            )
            now = np.asarray(
                Image.open(
                    io.BytesIO(base64.b64decode(self("Page.captureScreenshot", clip=box)["data"]))
                ).convert("RGB")
            ).astype(int)
            if last is not None and last.shape == now.shape and (last == now).all():
                return now
            last = now
        raise AssertionError("the picture does not come to rest")

    def mouse(self, kind, x, y, **more):
        self("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def slide(self, name, value):
        self.js(f"""(slider => {{ slider.value = {value}; slider.dispatchEvent(new Event("input", {{bubbles: true}})); }})(
                    [...document.querySelectorAll("label.slider")].find(label => label.textContent.includes("{name}")).querySelector("input"))""")

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.ours_in)
        os.close(self.ours_out)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROME is None or os.name != "posix":
        pytest.skip(
            "no Chromium: install chromium or google-chrome, or name one in the environment variable CHROME"
        )
    started = Browser(
        tmp_path_factory.mktemp("profile"),
        "--use-gl=angle",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--ignore-gpu-blocklist",
    )
    yield started
    started.close()


def apart(one, two):
    """The share of pixels that differ visibly."""
    return float((abs(one - two).max(-1) > 8).mean())


def complaints(browser):
    return [
        event
        for event in browser.events
        if event["method"]
        in ("Runtime.exceptionThrown", "Page.javascriptDialogOpening", "Log.entryAdded")
        or event["method"] == "Runtime.consoleAPICalled"
        and event["params"]["type"] in ("error", "warning", "assert")
    ]


@pytest.mark.slow
def test_the_head_is_drawn_and_every_control_changes_it(browser, page):
    first = browser.open(page)
    head = abs(first - first[0, 0]).max(-1) > 8
    assert (
        0.1 < head.mean() < 0.9 and not head[:, :5].any() and first[head].std() > 10
    )  # a head with colours, in the middle of an empty stage
    seen = {"start": first}
    for name, code in dict(
        wireframe="wireframe.click()",
        plain="wireframe.click(); texture.click()",
        coloured="texture.click()",
        front="front.click()",
        side="side.click()",
    ).items():
        browser.js(code)
        seen[name] = browser.picture()
    assert (
        apart(seen["coloured"], first) < 0.001
        and min(apart(seen[k], first) for k in ("wireframe", "plain", "front", "side")) > 0.02
    )
    plain = seen["plain"][head]
    assert np.ptp(plain, axis=1).mean() < 40  # no colours of the photo
    assert not complaints(browser)
    assert {
        event["params"]["request"]["url"].split(":")[0]
        for event in browser.events
        if event["method"] == "Network.requestWillBeSent"
    } == {"file", "data"}


@pytest.mark.slow
def test_sliders_move_the_mesh_and_buttons_bring_it_back(browser, page):
    first = browser.open(page)
    browser.js("wireframe.click()")
    lines = browser.picture()
    browser.slide("jawOpen", 1)
    opened = browser.picture()
    assert apart(lines, opened) > 0.005
    browser.js(
        "[...document.querySelectorAll('details button')].find(button => button.textContent == 'Reset jaw').click()"
    )
    assert apart(browser.picture(), lines) < 0.001
    browser.slide("Strength", 1.5)
    stronger = browser.picture()
    assert apart(lines, stronger) > 0.02
    assert browser.js(
        "[...document.querySelectorAll('.units output')].map(output => output.value)"
    ) == ["0.30", "1.35", "0.00"]  # recovered .2, .9 and 0
    browser.js("rest.click()")
    assert apart(browser.picture(), lines) > 0.02 and set(
        browser.js("[...document.querySelectorAll('.units output')].map(output => output.value)")
    ) == {"0.00"}
    browser.js("asInPhoto.click(); wireframe.click()")
    assert apart(browser.picture(), first) < 0.001 and not complaints(browser)


@pytest.mark.slow
def test_mouse_keys_and_wheel_turn_and_zoom(browser, page):
    browser.open(page)
    browser.js("front.click()")
    front = browser.picture()
    browser.mouse("mousePressed", 250, 300, button="left", clickCount=1)
    browser.mouse("mouseMoved", 310, 300, button="left", buttons=1)
    browser.mouse("mouseReleased", 310, 300, button="left", clickCount=1)
    assert apart(browser.picture(), front) > 0.02
    assert browser.js("view.rotation[0][2]") > 0  # to the right: x' = cos x + sin z
    browser.js("canvas.focus()")
    browser("Input.dispatchKeyEvent", type="keyDown", key="0")
    assert apart(browser.picture(), front) < 0.001
    browser("Input.dispatchKeyEvent", type="keyDown", key="ArrowLeft")
    assert browser.js("view.rotation[0][2]") < 0
    browser("Input.dispatchKeyEvent", type="keyDown", key="0")
    browser.mouse("mouseWheel", 250, 300, deltaX=0, deltaY=-300)
    closer = browser.picture()
    assert (abs(closer - closer[0, 0]).max(-1) > 8).mean() > 1.2 * (
        abs(front - front[0, 0]).max(-1) > 8
    ).mean()
    assert not complaints(browser)


@pytest.mark.slow
def test_the_mesh_is_laid_over_the_photo_as_opaque_as_asked(browser, face, page):
    browser.open(page)
    browser.js("overlay.click()")
    browser.slide("Opacity", 0)
    photo = browser.picture()
    for channel, axis in (
        (0, 1),
        (2, 0),
    ):  # the photo alone, its red half to the left and its blue half above
        places = [
            np.nonzero(half)[axis].mean()
            for half in (
                photo[..., channel] > 160,
                (photo[..., channel] < 160) & (photo[..., 1] < 160),
            )
        ]
        assert places[0] + 50 < places[1]
    browser.slide("Opacity", 1)
    covered = browser.picture()
    browser.slide("Opacity", 0.5)
    half = browser.picture()
    mixed = (photo + covered) / 2
    changed = abs(photo - covered).max(-1) > 30
    assert changed.mean() > 0.05 and np.median(abs(half - mixed).max(-1)[changed]) < 6
    drawn = browser.js("frame(face, view, canvas.clientWidth, canvas.clientHeight)")
    turned = (face["vertices_neutral"] + face["expression_offset"]) @ face["camera"]["rotation"].T
    middle = np.array(browser.js("[canvas.clientWidth / 2 - 5, canvas.clientHeight / 2 - 45]"))
    points = (middle + (drawn["scale"] * turned[:, :2] + drawn["shift"]) * [1, -1]).astype(
        np.float32
    )
    sides = np.concatenate((face["triangles"], face["triangles"][:, ::-1])).astype(np.int32)
    expected = (raster.zbuffer(points, turned[:, 2].astype(np.float32), sides, 640)[0] >= 0)[
        : photo.shape[0], : photo.shape[1]
    ]
    covers = abs(photo - covered).max(-1) > 8
    assert (covers & expected).sum() > 0.97 * (
        covers | expected
    ).sum()  # as our rasterizer lays it there
    browser.js("turn(.3, 0)")
    browser.picture()
    assert not browser.js("overlay.checked") and not complaints(
        browser
    )  # turned away from the photo, the photo goes


@pytest.mark.slow
def test_text_in_the_page_does_not_run(browser, face, tmp_path):
    viewer.write_html(
        tmp_path / "evil.html",
        viewer.Page(
            **face | dict(title=EVIL, facts={EVIL: (EVIL, EVIL)}, unit_names=(EVIL, "b", "c"))
        ),
    )
    browser.open(tmp_path / "evil.html")
    assert browser.js(
        "document.querySelectorAll('img, body > script:not([type])').length"
    ) == 2 and not complaints(browser)
    assert (
        browser.js("[...document.querySelectorAll('.units span')].map(span => span.textContent)")[0]
        == EVIL
    )


@pytest.mark.slow
def test_a_texture_is_shown_upright(browser, face, tmp_path):
    """Upper half of the texture green: what lies at small v, here the upper half of the head, is green."""
    vertices = face["vertices_neutral"]
    uv = 0.5 + vertices[:, :2] * [1, -1] / 400
    texture = np.full((64, 64, 3), (200, 40, 40), np.uint8)
    texture[:32] = 40, 200, 40
    viewer.write_html(
        tmp_path / "face.html",
        viewer.Page(**face | dict(texture=texture, uv=uv, photo=None, camera=None)),
    )
    browser.open(tmp_path / "face.html")
    browser.js("front.click()")
    seen = browser.picture()
    green, red = seen[..., 1] > seen[..., 0] + 40, seen[..., 0] > seen[..., 1] + 40
    assert (
        green.sum() > 1000
        and red.sum() > 1000
        and np.nonzero(green)[0].mean() + 50 < np.nonzero(red)[0].mean()
    )
    assert browser.js("getComputedStyle(overlayRow).display") == "none" and not complaints(browser)


@pytest.mark.parametrize("recess_mm", [0, 160])
@pytest.mark.slow
def test_the_nearest_surface_is_seen(browser, face, tmp_path, recess_mm):
    """From the side the subject's left half, green, hides the red one, unless it is drawn further back."""
    left = face["vertices_neutral"][:, 0] > 0
    colours = np.where(left[:, None], (40, 220, 40), (220, 40, 40)).astype(np.uint8)
    viewer.write_html(
        tmp_path / "face.html",
        viewer.Page(**face | dict(colours=colours, recess=recess_mm * left)),
    )
    browser.open(tmp_path / "face.html")
    browser.js("side.click()")
    seen = browser.picture()
    green, red = (seen[..., 1] > seen[..., 0] + 20).sum(), (seen[..., 0] > seen[..., 1] + 20).sum()
    assert green + red > 5000 and (green > 4 * red if recess_mm == 0 else red > green)


@pytest.mark.slow
def test_without_webgl_the_page_says_so(browser, page, tmp_path):
    without = Browser(tmp_path, "--disable-3d-apis")
    try:
        without("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in without.events):
            without.events.append(without.read())
        assert "WebGL" in without.js("message.hidden ? '' : message.textContent")
        without.slide("Strength", 0.5)  # and the controls raise nothing
        assert not [
            event for event in complaints(without) if event["method"] == "Runtime.exceptionThrown"
        ]
    finally:
        without.close()
