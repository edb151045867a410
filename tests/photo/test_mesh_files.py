import ast
import json
import os
import subprocess
import sys

import numpy as np
import pygltflib
import pytest
import torch
import trimesh
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree

from e2far import camera, morphable, raster
from e2far.facemodels import arkit
from e2far.photo import face as faces
from e2far.photo import mesh_files, results, units
from e2far.photo import texture as textures
from e2far.photo.texture import spread
from e2far.photo.unwrapping import unwrap

VALIDATOR = "gltf-validator@2.0.0-dev.3.10"
KINDS = ("obj", "ply", "glb")  # those with colours
assert {*KINDS, "stl"} == set(results.MESHES) == set(mesh_files.WRITERS)


def make_face(model, units=(), yaw_deg=0.0, scale=1.5, centre=(200.0, 190.0)):
    """The mean face with named units at strengths, seen by a known camera."""
    strengths = [dict(units).get(name, 0.0) for name in model.unit_names]
    vertices = model.mean + model.units @ torch.tensor(strengths, dtype=model.mean.dtype)
    rotation = camera.euler_to_matrix(torch.tensor([np.radians(yaw_deg), 0.0, 0.0])).float().numpy()
    pose, still = faces.Pose(rotation, scale, np.array(centre, np.float32)), np.zeros
    box = (50.0, 50.0, 350.0, 350.0)
    neutral = (still(model.n_identity), still(model.n_expression), pose)
    return faces.make_face(model, *neutral, vertices=vertices.numpy().astype(np.float32), box=box)


def without_units(model):
    """A face model without expression units, with vertices that no triangle has."""
    bases, triangles = (model.identity_basis, model.expression_basis), model.triangles[:-30]
    return morphable.MorphableModel(model.mean, *bases, triangles, model.landmarks)


def draw(face, colours, size=400):
    """A photo (size, size, 3) uint8 of a face with vertex colours (N, 3) in 0..255, unlit."""
    depth = (face.vertices @ face.pose.rotation.T).astype(np.float32)[:, 2].copy()
    triangles = face.triangles.astype(np.int32)
    seen, shares = raster.zbuffer(face.pose.project(face.vertices), depth, triangles, size)
    shares = np.dstack((shares, 1 - shares.sum(-1))) * (seen >= 0)[..., None]
    return np.einsum("hwk,hwkc->hwc", shares, colours[triangles[seen]]).round().astype(np.uint8)


def at(texture, uv):
    """Colours (M, 3) of the texels at places (M, 2)."""
    column, row = (uv * len(texture)).astype(int).T
    return texture[row, column].astype(float)


@pytest.fixture(scope="module")
def smiling(face_model):
    return make_face(face_model, {"mouthSmileLeft": 0.8, "mouthSmileRight": 0.7, "jawOpen": 0.3})


@pytest.fixture(scope="module")
def picture():
    row, column = np.mgrid[:400, :400]
    return np.dstack((60 + column // 3, 60 + row // 3, 180 - column // 8)).astype(np.uint8)


@pytest.fixture(scope="module")
def texture(smiling, picture):
    return smiling.texture(picture)


# The texture


@pytest.mark.parametrize("name", ["makehuman", "toy"])
def test_every_vertex_has_a_place_and_comes_in_the_models_order(name, face_model, toy):
    model = dict(makehuman=face_model, toy=toy)[name]
    uv, vertex, triangles = unwrap(model)
    assert uv.shape == (len(vertex), 2) and uv.min() >= 0 and uv.max() <= 1
    np.testing.assert_array_equal(vertex[: model.n_vertices], np.arange(model.n_vertices))
    np.testing.assert_array_equal(vertex[triangles], model.triangles.numpy())
    assert len(vertex) < 1.05 * model.n_vertices and np.ptp(uv[triangles], axis=1).max() < 0.5


def test_the_face_covers_much_of_the_texture_hardly_lies_over_itself_and_is_symmetric(face_model):
    uv, _, triangles = unwrap(face_model)
    inside = np.isin(triangles, face_model.region).all(1)
    a, b, c = np.moveaxis(uv[triangles[inside]], 1, 0).astype(float)
    area = ((b - a)[:, 1] * (c - a)[:, 0] - (b - a)[:, 0] * (c - a)[:, 1]) / 2  # v points down
    assert area.sum() > 0.15 and -area[area < 0].sum() < 0.02 * area.sum()
    uv, mean = uv[face_model.region.numpy()], face_model.mean[face_model.region].numpy()
    _, partner = cKDTree(mean).query(mean * [-1, 1, 1])
    assert np.quantile(abs(uv * [-1, 1] + [1, 0] - uv[partner]).max(1), 0.95) < 0.01


@pytest.mark.parametrize("scale", [0.8, 6.0])
def test_what_the_camera_sees_has_the_photos_colour(face_model, scale):
    size = int(270 * scale)
    face = make_face(face_model, scale=scale, centre=(size / 2, size / 2))
    row, column = np.mgrid[:size, :size] / size
    photo = (255 * np.dstack((column, row, 0.5 * column + 0.25))).astype(np.uint8)
    normals = raster.vertex_normals(face.vertices, face.triangles)
    front = face.region[normals[face.region, 2] > 0.8]
    wanted = at(photo, face.pose.project(face.vertices[front]) / size)
    found = at(textures.texture(face, photo), unwrap(face_model)[0][front])
    assert (np.quantile(abs(found - wanted).max(1), (0.5, 0.9)) < (3, 6)).all()


def test_the_hidden_side_is_the_other_side_mirrored(face_model):
    face = make_face(face_model, yaw_deg=50.0)
    x, y, _ = face.vertices.T
    colours = np.stack((80 + 1.2 * y, 90 + 1.2 * abs(x), 90 + 0 * x), axis=1).clip(0, 255)
    texture = textures.texture(face, draw(face, colours))
    normals = raster.vertex_normals(face.vertices, face.triangles)
    depth = lambda normals: (normals @ face.pose.rotation.T)[:, 2]
    cheek = (depth(normals) < 0) & (depth(normals * [-1, 1, 1]) > 0.8) & (abs(x) > 30)
    cheek &= face_model.attributes["ear"].numpy() == 0  # ears are plain
    hidden = face.region[cheek[face.region]]
    error = abs(at(texture, unwrap(face_model)[0][hidden]) - colours[hidden]).max(1)
    assert len(hidden) > 100 and np.quantile(error, 0.9) < 10


@pytest.mark.parametrize("colour, kept", (((230, 240, 250), True), ((230, 166, 140), False)))
def test_teeth_of_the_photo_are_on_the_teeth_even_where_the_lips_of_the_mesh_hide_them(
    face_model, colour, kept
):
    """What is pale and as red as skin is a lip that shines."""
    face = make_face(face_model)
    teeth = face_model.attributes["teeth"].numpy() > 0.5
    photo = draw(face, np.full((len(face.vertices), 3), [180.0, 130.0, 110.0]))
    x0, y0 = face.pose.project(face.vertices[teeth]).min(0).astype(int)
    x1, y1 = face.pose.project(face.vertices[teeth]).max(0).astype(int)
    photo[y0:y1, x0:x1] = colour
    normals = raster.vertex_normals(face.vertices, face.triangles)
    front = teeth & (normals[:, 2] > 0.8) & (abs(face.vertices[:, 0]) < 10)
    found = at(textures.texture(face, photo), unwrap(face_model)[0][: len(teeth)][front])
    assert (np.median(abs(found - colour).max(1)) < 20) == kept


def test_the_photos_background_is_not_painted_on_the_head(face_model):
    face, skin = make_face(face_model), [180, 130, 110]
    head = ndimage.binary_fill_holes(draw(face, np.full((len(face.vertices), 3), 255.0)).any(-1))
    photo = np.where(head[..., None], skin, [0, 255, 0]).astype(np.uint8)
    inner = [face_model.attributes[name].numpy() for name in ("eye", "teeth", "tongue", "mouth")]
    uv = unwrap(face_model)[0][: face_model.n_vertices][np.max(inner, axis=0) <= 0.5]
    assert abs(at(textures.texture(face, photo), uv) - skin).max() <= 2


def test_the_texture_is_as_fine_as_its_photo(face_model, smiling, picture):
    near = make_face(face_model, scale=2.5)
    assert [len(face.texture(picture)) for face in (smiling, near)] == [512, 1024]


def test_teeth_tongue_and_mouth_are_painted_in_their_colours(face_model, smiling, picture, texture):
    uv = unwrap(face_model)[0][: face_model.n_vertices]
    places = (face_model.attributes[name].numpy() > 0.5 for name in ("teeth", "tongue", "mouth"))
    teeth, tongue, mouth = (at(texture, uv[place]).mean(0) for place in places)
    assert teeth.mean() > tongue.mean() > mouth.mean()
    assert tongue[0] > 1.5 * tongue[1] and np.ptp(teeth) < 40
    grey = textures.texture(smiling, np.repeat(picture[..., :1], 3, axis=2))
    assert np.ptp(grey.astype(int), axis=2).max() <= 1


@pytest.mark.parametrize("centre", [(0.0, 200.0), (-5000.0, 0.0)])
def test_a_face_partly_or_wholly_outside_the_photo_gets_a_texture(toy, face_model, picture, centre):
    for model in (toy, face_model):
        face = make_face(model, centre=centre)
        assert textures.texture(face, picture, size=256).shape == (256, 256, 3)


def test_spreading_keeps_what_is_known_and_stays_between_it():
    rng = np.random.default_rng(0)
    values, weight = rng.random((64, 64, 3)), (rng.random((64, 64, 1)) < 0.02).astype(float)
    result, known = spread(values, weight), weight[..., 0] > 0
    np.testing.assert_allclose(result[known], values[known])
    assert (result >= values[known].min(0) - 1e-9).all()
    assert (result <= values[known].max(0) + 1e-9).all()
    np.testing.assert_allclose(spread(np.where(weight > 0, 0.3, values), weight), 0.3)


# Expression units


def test_units_are_recovered_from_the_face_they_made_but_none_is_stronger_than_one(
    face_model, smiling, toy
):
    strengths, residual = units.unit_strengths(smiling, face_model)
    found = dict(zip(face_model.unit_names, strengths))
    assert found["mouthSmileLeft"] == pytest.approx(0.8, abs=0.05)
    assert found["jawOpen"] == pytest.approx(0.3, abs=0.05)
    assert strengths.min() >= 0 and strengths.max() <= 1 and residual < 0.02
    assert sum(strengths > 0.02) == 3
    for jaw, strength, left in ((3.0, 1, True), (0.0, 0, False)):
        strengths, residual = units.unit_strengths(make_face(toy, {"jawOpen": jaw}), toy)
        assert strengths.max() == strength and (residual > 1 if left else residual == 0)


def test_as_many_units_are_on_as_moved_the_face(face_model):
    rng, names = np.random.default_rng(0), face_model.unit_names
    drawn = np.array([arkit.draw_units(names, rng) for _ in range(60)])
    moved = (drawn > 0.02)[:, [not name.startswith(units.HIDDEN) for name in names]]
    modes = face_model.expression_basis.numpy()
    coefficients = face_model.from_units(torch.tensor(drawn)).numpy()
    found = np.vstack([units.nearest_units(face_model, modes, one[None]) for one in coefficients])
    left = (face_model.units.numpy() @ found.T - modes @ coefficients.T)[face_model.region]
    assert np.linalg.norm(left, axis=1).mean() < 0.1  # mm
    assert (found > 0).sum() == pytest.approx(moved.sum(), rel=0.1)


def test_gaze_and_tongue_stay_off_since_the_skin_does_not_show_them(face_model):
    face = make_face(face_model, {"eyeLookUpLeft": 0.9, "tongueOut": 0.8, "mouthPucker": 0.5})
    found = dict(zip(face_model.unit_names, units.unit_strengths(face, face_model)[0]))
    assert not any(found[name] for name in found if name.startswith(("eyeLook", "tongue")))
    assert found["mouthPucker"] == pytest.approx(0.5, abs=0.05)


# Files


@pytest.fixture(scope="module")
def files_with_photo(smiling, picture, tmp_path_factory):
    """The folder of a photo in which its face was saved three times, coloured by the photo."""
    folder = tmp_path_factory.mktemp("saved")
    Image.fromarray(picture).save(folder / "face.png")
    for kind in KINDS:
        smiling.save(folder / f"face.{kind}", picture)
    return folder


def load(path):
    mesh = trimesh.load(path, process=False)
    return mesh if isinstance(mesh, trimesh.Trimesh) else next(iter(mesh.geometry.values()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("coloured", [True, False])
def test_files_reopen_with_the_same_vertices_and_triangles(
    face_model, smiling, files_with_photo, tmp_path, kind, coloured
):
    """A GLB is in metres and at rest: its morph targets make the expression."""
    if not coloured:
        smiling.save(tmp_path / f"face.{kind}")
    mesh = load((files_with_photo if coloured else tmp_path) / f"face.{kind}")
    _, vertex, _ = unwrap(face_model)
    wanted = smiling.neutral_vertices / 1000 if kind == "glb" else smiling.vertices
    assert len(mesh.vertices) in (face_model.n_vertices, len(vertex))
    np.testing.assert_allclose(mesh.vertices, wanted[vertex[: len(mesh.vertices)]], atol=1e-6)
    np.testing.assert_array_equal(vertex[mesh.faces], smiling.triangles)
    if coloured or kind == "glb":
        assert mesh.visual.kind == ("vertex" if kind == "ply" else "texture")


def test_an_stl_reopens_with_the_same_triangles(smiling, tmp_path):
    """In a folder that `save` makes."""
    smiling.save(tmp_path / "new" / "folder" / "face.stl")
    mesh = trimesh.load(tmp_path / "new" / "folder" / "face.stl", process=False)
    corners = smiling.vertices[smiling.triangles]
    np.testing.assert_allclose(mesh.triangles, corners, atol=1e-4)


def test_names_of_materials_differ_where_names_differ():
    names = ["a b", "a_b", "a#b", "ä", "a.b-c"]
    assert len({mesh_files.safe_name(name) for name in names}) == len(names)
    assert mesh_files.safe_name("a.b-c") == "a.b-c"


def test_obj_glb_and_ply_have_the_same_colours(files_with_photo):
    obj, ply, glb = (load(files_with_photo / f"face.{kind}") for kind in KINDS)
    wanted = ply.visual.vertex_colors[:, :3].astype(float)
    images = obj.visual.material.image, glb.visual.material.baseColorTexture
    for mesh, image in zip((obj, glb), images):
        uv = (mesh.visual.uv * [1, -1] + [0, 1])[: len(wanted)]  # trimesh counts v upwards
        assert np.quantile(abs(at(np.asarray(image.convert("RGB")), uv) - wanted), 0.95) < 8


def test_a_photo_or_its_texture_gives_the_same_bytes(
    smiling, picture, texture, files_with_photo, tmp_path
):
    """Beside its photo, face.png, which stays as it is."""
    for kind in KINDS:
        smiling.save(tmp_path / f"face.{kind}", texture=texture)
    again = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(again) == {"face.glb", "face.mtl", "face.obj", "face.ply", "face_texture.png"}
    first = {path.name: path.read_bytes() for path in files_with_photo.iterdir()}
    np.testing.assert_array_equal(Image.open(files_with_photo / "face.png"), picture)
    assert {name: first[name] for name in again} == again


def read(document, index):
    """The numbers of one accessor of a GLB, whole or sparse."""
    accessor, blob = document.accessors[index], document.binary_blob()
    width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}[accessor.type]
    kind = {pygltflib.FLOAT: np.float32, pygltflib.UNSIGNED_INT: np.uint32}[accessor.componentType]

    def numbers(view, count, dtype):
        return np.frombuffer(blob, dtype, count, document.bufferViews[view].byteOffset)

    values = np.zeros((accessor.count, width), kind)
    if accessor.bufferView is not None:
        values.flat = numbers(accessor.bufferView, values.size, kind)
    if sparse := accessor.sparse:
        rows = numbers(sparse.indices.bufferView, sparse.count, np.uint32)
        given = numbers(sparse.values.bufferView, sparse.count * width, np.float32)
        values[rows] = given.reshape(-1, width)
    return values


def test_the_morph_targets_of_a_glb_make_the_photos_face(face_model, smiling, texture):
    made = mesh_files.glb(smiling, texture)
    document = pygltflib.GLTF2.load_from_bytes(made.to_bytes())
    (mesh,), n, names = document.meshes, face_model.n_vertices, list(face_model.unit_names)
    assert mesh.extras["targetNames"] == names and mesh.extras["vertices"] == n
    assert mesh.extras["residual_mm"] < 0.02
    (primitive,) = mesh.primitives
    assert len(primitive.targets) == len(mesh.weights) == len(names)
    moves = [read(document, target["POSITION"]) for target in primitive.targets]
    made = read(document, primitive.attributes.POSITION)
    made = 1000 * (made + np.einsum("j,jnd->nd", mesh.weights, moves))[smiling.region]
    assert np.linalg.norm(made - smiling.vertices[smiling.region], axis=1).mean() < 0.02

    jaw = names.index("jawOpen")
    target, unit = primitive.targets[jaw], face_model.units[..., jaw].numpy()
    np.testing.assert_allclose(moves[jaw][:n] * 1000, unit, atol=1e-4)
    normals = read(document, primitive.attributes.NORMAL) + read(document, target["NORMAL"])
    expected = raster.vertex_normals(smiling.neutral_vertices + unit, smiling.triangles)
    np.testing.assert_allclose(normals[:n], expected, atol=2e-3)
    for index in (primitive.attributes.POSITION, target["POSITION"]):
        accessor, values = document.accessors[index], read(document, index)
        bounds = values.min(0), values.max(0)
        np.testing.assert_array_equal((accessor.min, accessor.max), bounds)


@pytest.fixture(scope="session")
def validate(tmp_path_factory):
    """The Khronos validator: its report on a GLB file."""
    folder = tmp_path_factory.mktemp("node")
    command = ["npm", "install", "--prefix", folder, "--no-audit", "--no-fund", VALIDATOR]
    try:
        subprocess.run(command, capture_output=True, timeout=120, check=True)
    except (FileNotFoundError, subprocess.SubprocessError):
        pytest.skip("npm is missing, or cannot install the validator here")
    script = """
        const content = new Uint8Array(require("fs").readFileSync(process.argv[1]));
        require("gltf-validator").validateBytes(content).then(
            report => console.log(JSON.stringify(report)));"""

    def validate(path):
        command = ["node", "-e", script, path]
        done = subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=120)
        return json.loads(done.stdout)

    return validate


@pytest.mark.parametrize("coloured", [True, False])
def test_the_khronos_validator_has_nothing_to_say(validate, coloured, toy, picture, tmp_path):
    """With units and texture, and without either; test_video.py asks it about the shipped model."""
    path, model = tmp_path / "face.glb", toy if coloured else without_units(toy)
    make_face(model, {"jawOpen": 0.5}).save(path, picture if coloured else None)
    report = validate(path)
    assert report["issues"]["messages"] == []
    assert report["info"]["hasMorphTargets"] == report["info"]["hasTextures"] == coloured
    path.write_bytes(path.read_bytes()[:-8])  # the validator does look
    assert validate(path)["issues"]["numErrors"]


BLENDER = """
import sys, bpy
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.import_scene.gltf(filepath=sys.argv[1])
head, = (one for one in bpy.data.objects if one.type == "MESH")
camera, scene = bpy.data.objects.new("camera", bpy.data.cameras.new("camera")), bpy.context.scene
bpy.context.collection.objects.link(camera)
camera.location, camera.rotation_euler, scene.camera = (0, -1, -0.035), (1.5707963, 0, 0), camera
camera.data.type, camera.data.ortho_scale = "ORTHO", 0.06
scene.render.engine, scene.cycles.samples, scene.view_settings.view_transform = "CYCLES", 4, "Raw"
scene.cycles.use_denoising = False
scene.render.resolution_x = scene.render.resolution_y = 120
scene.render.filepath = sys.argv[2]
bpy.ops.render.render(write_still=True)
print("KEYS", {key.name: round(key.value, 3) for key in head.data.shape_keys.key_blocks[1:]})
"""


@pytest.mark.slow
def test_blender_has_the_units_as_shape_keys_and_the_astronaut_smiles_with_teeth(shipped, tmp_path):
    python = os.environ.get("BLENDER_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import bpy"], capture_output=True).returncode:
        pytest.skip("Blender is missing: name a Python that has bpy in BLENDER_PYTHON")
    photo = pytest.importorskip("skimage.data").astronaut()
    face = shipped(photo)
    face.save(tmp_path / "face.glb", photo)
    paths = (str(tmp_path / "face.glb"), str(tmp_path / "mouth.png"))
    command = [python, "-c", BLENDER, *paths]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout
    keys = ast.literal_eval(out.split("KEYS ")[1].splitlines()[0])
    wanted = dict(zip(face.model.unit_names, units.unit_strengths(face, face.model)[0]))
    assert keys == pytest.approx(wanted, abs=2e-3) and keys["mouthSmileLeft"] > 0.5
    middle = np.asarray(Image.open(paths[1]).convert("L"))[:, 40:80]
    assert middle.shape == (120, 40) and middle.mean(1).min() > 60  # no dark gap
