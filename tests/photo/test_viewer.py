import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from e2far import camera, raster
from e2far.photo import viewer
from e2far.photo.confidence import Confidence
from e2far.photo.face import Pose, make_face
from e2far.photo.unwrapping import unwrap

EVIL = """</script><script>alert(1)</script><img src=x onerror="alert(1)">' & {{data}}"""


@pytest.fixture(scope="module")
def face(toy):
    """A toy face, turned, that smiles by its second unit, which moves the lower half only."""
    units = toy.units.clone()
    units[toy.mean[:, 1] > 0] = 0
    bases = (toy.mean, toy.identity_basis, toy.expression_basis, toy.triangles, toy.landmarks)
    model = type(toy)(*bases, units=dict(zip(toy.unit_names, units.unbind(2))))
    angles = torch.deg2rad(torch.tensor([20.0, -10, 5]))
    pose = Pose(camera.euler_to_matrix(angles).numpy(), 0.8, np.array([210.0, 140], np.float32))
    draw = np.random.default_rng(1).standard_normal
    sure = Confidence(0.834, 3.2, 2.1, False, 1.0)
    found = dict(box=(100.0, 50.0, 300.0, 250.0), score=0.5, confidence=sure)
    face = make_face(model, draw(6), draw(4), pose, **found)
    vertices = face.neutral_vertices + units.numpy() @ [0.2, 0.9, 0]
    vertices += 0.1 * (face.vertices - face.neutral_vertices)  # what no unit explains
    return replace(face, vertices=vertices.astype(np.float32))


@pytest.fixture(scope="module")
def photo():
    """Red on the left, blue above."""
    photo = np.full((300, 400, 3), 90, np.uint8)
    photo[:, :200, 0] = photo[:150, :, 2] = 220
    return photo


@pytest.fixture(scope="module")
def write(face, photo, tmp_path_factory):
    """Writes the page of `face`, or of another one, and returns its path."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)

    def write(face=face, texture=noise, title="one.jpg"):
        path = tmp_path_factory.mktemp("viewer") / "face.html"
        face.to_html(path, photo, title, texture)
        return path

    return write


@pytest.fixture(scope="module")
def page(write):
    return write()


@pytest.fixture(scope="module")
def evil(face, write):
    bases = ("mean", "identity_basis", "expression_basis", "triangles", "landmarks", "region")
    parts = (getattr(face.model, name) for name in bases)
    units = dict(zip((EVIL, "b", "c"), face.model.units.unbind(2)))
    model = type(face.model)(*parts, units=units)
    return write(replace(face, model=model), title=EVIL)


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

    def texts(self, tag):
        return [text for _, text in self.of(tag)]


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


def test_every_control_has_a_name_and_the_panel_shows_the_facts(page):
    read = Page(page)
    labels = re.findall(r"<label.*?</label>", read.text)
    assert sum("<input" in label for label in labels) == len(read.of("input"))
    assert all(re.sub(r"<[^>]*>", "", label).strip() for label in labels)
    assert all(text.strip() for text in read.texts("button"))
    ((canvas, _),) = read.of("canvas")
    assert canvas["tabindex"] == "0" and "keys" in canvas["aria-label"]
    assert read.texts("title") == read.texts("h1") == ["one.jpg"]
    assert read.texts("dt") == ["Head turned", "How sure, 0 to 1"]
    assert read.texts("dd") == ["20° to its left, 10° up, 5° tilted to its right", "0.83"]
    assert "less than 5 %" in read.texts("small")[0]


def test_no_text_becomes_code(evil, page):
    read = Page(evil)
    assert len(read.of("script")) == len(Page(page).of("script")) and not read.of("img")
    assert read.texts("title") + read.texts("h1") == [EVIL] * 2
    assert json.loads(read.of("script")[0][1])["units"]["names"][0] == EVIL


def test_numbers_that_are_not_finite_and_names_of_other_files_are_refused(face, photo, tmp_path):
    wrong = replace(face, neutral_vertices=face.neutral_vertices * np.nan)
    with pytest.raises(ValueError, match="finite"):
        wrong.to_html(tmp_path / "face.html", photo, texture=photo[:256, :256])
    with pytest.raises(ValueError, match="ends in .html"):
        wrong.to_html(tmp_path / "photo.jpg", photo)
    assert not list(tmp_path.iterdir())


def test_the_photo_is_cut_to_the_head(face):
    points = 1500 + 12 * face.vertices[:, :2]
    photo = np.random.default_rng(0).integers(0, 255, (4000, 3000, 3), dtype=np.uint8)
    picture, zoom, corner = viewer.around(photo, points)
    assert max(picture.size) == viewer.PHOTO_SIDE and zoom < 1
    inside = (points - corner) * zoom
    assert (inside > 10).all() and (inside < np.array(picture.size) - 10).all()
    picture, zoom, corner = viewer.around(photo[:100, :80], points + [1e5, -1e5])
    assert min(picture.size) >= 1 and zoom == 1


# Its mathematics, in node


def in_node(path, expression):
    """The value of a JavaScript expression about the page's `face`: its second script is pure."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    data, mathematics, _ = Page(path).texts("script")
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


def test_the_page_reads_back_what_was_written_and_draws_every_edge_once(face, page):
    read, edges = in_node(page, "[face, edgesOf(face.triangles, face.neutral.length / 3)]")
    units, offset = face.model.units.numpy(), face.vertices - face.neutral_vertices
    rounding = lambda written: 0.502 * abs(written).max() / 32767 + 1e-6
    for key, written in (("neutral", face.neutral_vertices), ("offset", offset)):
        assert abs(rows(read[key]) - written).max() <= rounding(written)
    np.testing.assert_array_equal(rows(read["triangles"]), face.triangles)
    assert [unit["name"] for unit in read["units"]] == list(face.model.unit_names)
    found = np.zeros_like(units)
    for j, unit in enumerate(read["units"]):
        found[unit["index"], :, j] = rows(unit["shift"])
    assert abs(found - units).max() <= rounding(units)
    sides = face.triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    assert sorted(rows(edges, 2).tolist()) == np.unique(np.sort(sides, 1), axis=0).tolist()


def test_sliders_move_the_mesh_as_the_equation_says(face, page):
    """At the recovered strengths it is the reconstruction, at none the neutral face."""
    recovered = np.array([unit["recovered"] for unit in in_node(page, "face.units")])
    assert recovered == pytest.approx([0.2, 0.9, 0], abs=0.1)
    given = [(s, (s * recovered).tolist()) for s in (1.0, 0.0, 1.5)] + [(0.5, [1.0, 0, 0.7])]
    calls = ", ".join(f"shape(face, {strength}, {weights})" for strength, weights in given)
    for moved, (strength, weights) in zip(in_node(page, f"[{calls}]"), given, strict=True):
        expected = (1 - strength) * face.neutral_vertices + strength * face.vertices
        expected += face.model.units.numpy() @ (np.array(weights) - strength * recovered)
        assert abs(rows(moved) - expected).max() < 0.02  # mm


def test_the_shipped_models_page_is_small_and_its_normals_show_no_seam(face_model, face, write):
    """Some triangles have corners of their own, where the texture is torn."""
    head = make_face(face_model, np.zeros(face_model.n_identity), np.zeros(29), face.pose, box=())
    path, (_, vertex, _) = write(head), unwrap(face_model)
    assert path.stat().st_size < 1e6 and len(vertex) > face_model.n_vertices
    normals = rows(in_node(path, "vertexNormals(face.neutral, face.triangles, face.same)"))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    expected = raster.vertex_normals(head.neutral_vertices, head.triangles)[vertex]
    torn = np.r_[:100, face_model.n_vertices : len(vertex)]
    assert ((normals * expected).sum(1)[torn] > 0.99).all()


def test_views_hold_the_head_and_over_the_photo_it_lies_where_the_camera_puts_it(face, photo, page):
    over = "{rotation: face.camera.rotation, zoom: 2, pan: [7, -3], asPhoto: true}"
    free = "{rotation: multiply(turnX(.4), turnY(-1.2)), zoom: 1, pan: [0, 0], asPhoto: false}"
    over, free, turn, taken, picture = in_node(
        page,
        f"[frame(face, {over}, 640, 500), frame(face, {free}, 500, 900), "
        f"({free}).rotation, face.camera, face.photo]",
    )
    turned = face.vertices @ np.array(taken["rotation"]).T
    on_screen = over["scale"] * turned[:, :2] + over["shift"]  # from the middle, y up
    in_crop = (on_screen - [7, -3]) * [1, -1] / over["fit"]
    in_crop += np.array([picture["width"], picture["height"]]) / 2
    expected = face.pose.project(face.vertices)
    _, zoom, corner = viewer.around(photo, expected)
    assert abs(in_crop / zoom + corner - expected).max() < 0.01

    points = free["scale"] * (face.neutral_vertices @ np.array(turn).T)[:, :2] + free["shift"]
    assert np.linalg.det(turn) == pytest.approx(1)
    assert (abs(points) < [250, 450]).all() and np.ptp(points, axis=0).max() > 200
