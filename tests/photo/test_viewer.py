import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from e2far import camera, raster
from e2far.morphable import toy_model
from e2far.photo import viewer

EVIL = """</script><script>alert(1)</script><img src=x onerror="alert(1)">' & {{data}}"""


@pytest.fixture(scope="module")
def face():
    """Fields of a `viewer.Page`: a toy face whose photo is red on the left and blue above."""
    toy, generator = toy_model(), torch.Generator().manual_seed(1)
    draw = lambda count: torch.randn(1, count, generator=generator, dtype=torch.float64)
    neutral = toy.neutral(draw(toy.n_identity))[0].numpy()
    offset = toy.expression_offset(draw(toy.n_expression))[0].numpy()
    units = toy.units.numpy().copy()
    units[neutral[:, 1] > 0] = 0  # units move the lower half only
    photo = np.full((300, 400, 3), 90, np.uint8)
    photo[:, :200, 0] = photo[:150, :, 2] = 220
    angles = torch.deg2rad(torch.tensor([20.0, -10, 5], dtype=torch.float64))
    rotation = camera.euler_to_matrix(angles).numpy()
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
def write(face, tmp_path_factory):
    """Writes the page of `face`, some fields changed."""

    def write(**changed):
        path = tmp_path_factory.mktemp("viewer") / "face.html"
        viewer.write_html(path, viewer.Page(**face | changed))
        return path

    return write


@pytest.fixture(scope="module")
def page(write):
    return write()


@pytest.fixture(scope="module")
def evil(write):
    return write(title=EVIL, facts={EVIL: (EVIL, EVIL)}, unit_names=(EVIL, "b", "c"))


class Page(HTMLParser):
    """Every tag with its attributes and the text directly in it."""

    def __init__(self, path):
        super().__init__()
        self.text, self.tags, self.open = path.read_text(encoding="utf-8"), [], []
        self.feed(self.text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes), []))
        if tag not in ("meta", "input", "br", "img", "link"):
            self.open.append(self.tags[-1])

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f"</{tag}> closes another tag"
        self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.open[-1][2].append(data)

    def of(self, tag):
        return [(attributes, "".join(text)) for name, attributes, text in self.tags if name == tag]


# The file


def test_the_page_is_whole_and_asks_nothing_of_the_network(page):
    read = Page(page)
    assert not read.open and "{{" not in read.text  # every tag is closed, every blank filled in
    without_data = re.sub(r'"data:image/[^"]*"|"base64": "[^"]*"', "", read.text)
    assert not re.search(r"https?:|//[a-z0-9-]+\.[a-z]", without_data, re.IGNORECASE)
    assert not [a for _, a, _ in read.tags if {"src", "href", "srcset"} & set(a)]
    assert not read.of("link")
    policies = {a.get("http-equiv"): a["content"] for a, _ in read.of("meta") if "content" in a}
    assert "default-src 'none'" in policies["Content-Security-Policy"]
    ids = [a["id"] for _, a, _ in read.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'\$\("(\w+)"\)', read.text)) <= set(ids)


def test_every_control_has_a_name_and_the_picture_answers_to_keys(page):
    read = Page(page)
    labels = re.findall(r"<label.*?</label>", read.text)
    assert sum("<input" in label for label in labels) == len(read.of("input"))
    assert all(re.sub(r"<[^>]*>", "", label).strip() for label in labels)
    assert all(text.strip() for _, text in read.of("button"))
    ((canvas, _),) = read.of("canvas")
    assert canvas["tabindex"] == "0" and "keys" in canvas["aria-label"]


def test_the_panel_shows_the_facts(page):
    texts = lambda tag: [text for _, text in Page(page).of(tag)]
    assert texts("title") == texts("h1") == ["one.jpg"]
    assert texts("dt") == ["Yaw", "Confidence"] and texts("dd") == ["+20.0°", "0.83"]
    assert texts("small")[0] == "As good as on faces like these."


def test_no_text_becomes_code(evil, page):
    read = Page(evil)
    assert len(read.of("script")) == len(Page(page).of("script")) and not read.of("img")
    shown = [text for tag in ("title", "h1", "dt", "dd", "small") for _, text in read.of(tag)]
    assert shown == [EVIL] * 5
    assert json.loads(read.of("script")[0][1])["units"]["names"][0] == EVIL


def test_the_shipped_models_page_is_small(face_model, write):
    fields = ("triangles", "units", "unit_names", "recess")
    path = write(
        **{name: getattr(face_model, name) for name in fields},
        vertices_neutral=face_model.mean,
        expression_offset=np.zeros((face_model.n_vertices, 3)),
        unit_strengths=np.zeros(len(face_model.unit_names)),
        colours=np.zeros((face_model.n_vertices, 3), np.uint8),
        photo=None,
        camera=None,
    )
    assert path.stat().st_size < 1e6


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
    outside = dict(taken, translation=np.array([1e5, -1e5]))
    picture, zoom, corner = viewer.around(photo[:100, :80], vertices, outside)
    assert min(picture.size) >= 1 and zoom == 1


# Its mathematics, in node


def in_node(path, expression):
    """The value of a JavaScript expression about the page's `face`: its second script is pure."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    data, mathematics, _ = (text for _, text in Page(path).of("script"))
    code = f"""{mathematics}
        const face = readFace({data});
        face.extent = extent(face.neutral);
        const plain = (key, value) => ArrayBuffer.isView(value) ? [...value] : value;
        console.log(JSON.stringify({expression}, plain));"""
    done = subprocess.run(
        ["node", "-"], input=code, capture_output=True, text=True, check=True, timeout=60
    )
    return json.loads(done.stdout)


def rows(numbers, width=3):
    return np.reshape(numbers, (-1, width))


def test_the_page_reads_back_what_was_written(face, page):
    read = in_node(page, "face")
    rounding = lambda written: 0.502 * abs(written).max() / 32767
    for key, name in (("vertices_neutral", "neutral"), ("expression_offset", "offset")):
        assert abs(rows(read[name]) - face[key]).max() <= rounding(face[key])
    for name in ("triangles", "colours"):
        np.testing.assert_array_equal(rows(read[name]), face[name])
    assert [unit["name"] for unit in read["units"]] == list(face["unit_names"])
    assert [unit["recovered"] for unit in read["units"]] == list(face["unit_strengths"])
    units = np.zeros_like(face["units"])
    for j, unit in enumerate(read["units"]):
        units[unit["index"], :, j] = rows(unit["shift"])
    assert abs(units - face["units"]).max() <= rounding(face["units"])


def test_sliders_move_the_mesh_as_the_equation_says(face, page):
    """At the recovered strengths it is the reconstruction, at none the neutral face."""
    recovered = face["unit_strengths"]
    given = [(s, (s * recovered).tolist()) for s in (1.0, 0.0, 1.5)] + [(0.5, [1.0, 0, 0.7])]
    calls = ", ".join(f"shape(face, {strength}, {weights})" for strength, weights in given)
    for moved, (strength, weights) in zip(in_node(page, f"[{calls}]"), given, strict=True):
        expected = face["vertices_neutral"] + strength * face["expression_offset"]
        expected += face["units"] @ (np.array(weights) - strength * recovered)
        assert abs(rows(moved) - expected).max() < 0.02  # mm


def test_normals_are_the_rasterizers_and_show_no_seam(face, write):
    """The last ten triangles have corners of their own, as where a texture is torn."""
    triangles = face["triangles"].copy()
    n, torn = len(face["vertices_neutral"]), triangles[-10:].flatten()
    triangles[-10:] = n + np.arange(30).reshape(-1, 3)
    vertex = np.concatenate((np.arange(n), torn))
    fields = ("vertices_neutral", "expression_offset", "units", "colours", "recess")
    path = write(**{key: face[key][vertex] for key in fields}, triangles=triangles)
    normals = rows(in_node(path, "vertexNormals(face.neutral, face.triangles, face.same)"))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    expected = raster.vertex_normals(face["vertices_neutral"], face["triangles"])[vertex]
    assert ((normals * expected).sum(1) > 0.999).all()


def test_every_edge_is_drawn_once(face, page):
    edges = rows(in_node(page, "edgesOf(face.triangles, face.neutral.length / 3)"), 2).tolist()
    sides = face["triangles"][:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    assert sorted(edges) == np.unique(np.sort(sides, 1), axis=0).tolist()


def test_over_the_photo_the_mesh_lies_where_the_photos_camera_puts_it(face, page):
    view = "{rotation: face.camera.rotation, zoom: 2, pan: [7, -3], asPhoto: true}"
    frame, taken, photo = in_node(page, f"[frame(face, {view}, 640, 500), face.camera, face.photo]")
    vertices = face["vertices_neutral"] + face["expression_offset"]
    turned = vertices @ np.array(taken["rotation"]).T
    on_screen = frame["scale"] * turned[:, :2] + frame["shift"]  # from the middle, y up
    in_crop = (on_screen - [7, -3]) * [1, -1] / frame["fit"]
    in_crop += np.array([photo["width"], photo["height"]]) / 2
    _, zoom, corner = viewer.around(face["photo"], vertices, face["camera"])
    own = (face["camera"][key] for key in ("rotation", "scale", "translation"))
    expected = camera.weak_perspective(*map(torch.as_tensor, (vertices, *own))).numpy()
    assert abs(in_crop / zoom + corner - expected).max() < 0.01


def test_a_free_view_holds_the_head(face, page):
    rotations = ("turnY(0)", "multiply(turnX(.4), turnY(-1.2))")
    view = "{{rotation: {0}, zoom: 1, pan: [0, 0], asPhoto: false}}"
    calls = (f"[{r}, frame(face, {view.format(r)}, 500, 900)]" for r in rotations)
    for rotation, frame in in_node(page, f"[{', '.join(calls)}]"):
        assert np.linalg.det(rotation) == pytest.approx(1)
        turned = face["vertices_neutral"] @ np.array(rotation).T
        points = frame["scale"] * turned[:, :2] + frame["shift"]
        assert (abs(points) < [250, 450]).all() and np.ptp(points, axis=0).max() > 200
