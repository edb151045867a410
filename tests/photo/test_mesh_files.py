import json
import subprocess
from dataclasses import replace

import numpy as np
import pygltflib
import pytest
import torch
import trimesh
from scipy import ndimage
from scipy.spatial import cKDTree

from e2far import camera, morphable, raster
from e2far.photo import mesh_files
from e2far.photo import texture as textures
from e2far.photo.face import Face, Pose
from e2far.photo.texture import spread
from e2far.photo.unwrapping import unwrap

VALIDATOR = "gltf-validator@2.0.0-dev.3.10"


def make_face(model, units=(), yaw_deg=0.0, scale=1.5, centre=(200.0, 190.0)):
    """The mean face with named units at strengths, seen by a known camera."""
    strengths = torch.tensor(
        [dict(units).get(name, 0.0) for name in model.unit_names], dtype=model.mean.dtype
    )
    neutral, vertices = (
        v.numpy().astype(np.float32) for v in (model.mean, model.mean + model.units @ strengths)
    )
    rotation = (
        camera.euler_to_matrix(torch.tensor([np.radians(yaw_deg), 0.0, 0.0], dtype=torch.float64))
        .numpy()
        .astype(np.float32)
    )
    pose, landmarks = (
        Pose(rotation, scale, np.array(centre, np.float32)),
        vertices[model.landmarks.numpy()],
    )
    return Face(
        vertices=vertices,
        neutral_vertices=neutral,
        triangles=model.triangles.numpy(),
        landmarks=landmarks,
        image_landmarks=pose.project(landmarks),
        identity=np.zeros(model.n_identity, np.float32),
        expression=np.zeros(model.n_expression, np.float32),
        pose=pose,
        region=model.region.numpy(),
        box=(50.0, 50.0, 350.0, 350.0),
        model=model,
    )


def draw(face, colours, size):
    """A photo (size, size, 3) uint8 of a face whose vertices have colours (N, 3) in 0..255, without any light."""
    turned = (face.vertices @ face.pose.rotation.T).astype(np.float32)
    triangles = face.triangles.astype(np.int32)
    seen, shares = raster.zbuffer(
        face.pose.project(face.vertices), np.ascontiguousarray(turned[:, 2]), triangles, size
    )
    shares = np.dstack((shares, 1 - shares.sum(-1))) * (seen >= 0)[..., None]
    return np.einsum("hwk,hwkc->hwc", shares, colours[triangles[seen]]).round().astype(np.uint8)


def at(texture, uv):
    """Colours (M, 3) of the texels at places (M, 2)."""
    column, row = (uv * len(texture)).astype(int).T
    return texture[row, column].astype(float)


@pytest.fixture(scope="module")
def toy():
    return morphable.toy_model(dtype=torch.float32)


@pytest.fixture(scope="module")
def smiling(face_model):
    return make_face(face_model, {"mouthSmileLeft": 0.8, "mouthSmileRight": 0.7, "jawOpen": 0.3})


@pytest.fixture(scope="module")
def picture():
    row, column = np.mgrid[:400, :400]
    return np.dstack((60 + column // 3, 60 + row // 3, 180 - column // 8)).astype(np.uint8)


# The texture


@pytest.mark.parametrize("name", ["makehuman", "toy"])
def test_every_vertex_has_a_place_and_comes_in_the_models_order(name, face_model, toy):
    model = dict(makehuman=face_model, toy=toy)[name]
    uv, vertex, triangles = unwrap(model)
    assert uv.shape == (len(vertex), 2) and uv.min() >= 0 and uv.max() <= 1
    np.testing.assert_array_equal(vertex[: model.n_vertices], np.arange(model.n_vertices))
    np.testing.assert_array_equal(vertex[triangles], model.triangles.numpy())
    assert len(vertex) < 1.05 * model.n_vertices
    assert np.ptp(uv[triangles], axis=1).max() < 0.5


def test_the_face_covers_much_of_the_texture_and_hardly_lies_over_itself(face_model):
    uv, _, triangles = unwrap(face_model)
    inside = np.isin(triangles, face_model.region).all(1)
    a, b, c = np.moveaxis(uv[triangles[inside]], 1, 0).astype(float)
    area = ((b - a)[:, 1] * (c - a)[:, 0] - (b - a)[:, 0] * (c - a)[:, 1]) / 2  # v points down
    assert area.sum() > 0.15
    assert -area[area < 0].sum() < 0.02 * area.sum()


def test_left_and_right_mirror_each_other_in_the_texture(face_model):
    uv, mean = unwrap(face_model)[0][: face_model.n_vertices], face_model.mean.numpy()
    sides = face_model.region.numpy()
    _, partner = cKDTree(mean[sides]).query(mean[sides] * [-1, 1, 1])
    assert np.quantile(abs(uv[sides] * [-1, 1] + [1, 0] - uv[sides[partner]]).max(1), 0.95) < 0.01


@pytest.mark.parametrize("scale", [0.8, 1.5, 9.0])
def test_what_the_camera_sees_has_the_photos_colour(face_model, scale):
    size = int(270 * scale)
    face = make_face(face_model, scale=scale, centre=(size / 2, size / 2))
    row, column = np.mgrid[:size, :size] / size
    photo = (255 * np.dstack((column, row, 0.5 * column + 0.25))).astype(np.uint8)
    normals = raster.vertex_normals(face.vertices, face.triangles)
    front = face.region[(normals[face.region, 2] > 0.8)]
    wanted = at(photo, face.pose.project(face.vertices[front]) / size)
    error = abs(
        at(textures.texture(face, face_model, photo), unwrap(face_model)[0][front]) - wanted
    ).max(1)
    assert np.median(error) < 3 and np.quantile(error, 0.9) < 6


def test_the_hidden_side_is_the_other_side_mirrored(face_model):
    face = make_face(face_model, yaw_deg=50.0)
    colours = np.stack(
        (
            80 + 1.2 * face.vertices[:, 1],
            90 + 1.2 * abs(face.vertices[:, 0]),
            90 + 0 * face.vertices[:, 0],
        ),
        axis=1,
    ).clip(0, 255)
    texture = textures.texture(face, face_model, draw(face, colours, 400))
    normals = raster.vertex_normals(face.vertices @ face.pose.rotation.T, face.triangles)
    mirrored = (
        raster.vertex_normals(face.vertices, face.triangles) * [-1, 1, 1] @ face.pose.rotation.T
    )
    cheek = (
        (normals[:, 2] < 0)
        & (mirrored[:, 2] > 0.8)
        & (abs(face.vertices[:, 0]) > 30)
        & (face_model.attributes["ear"].numpy() == 0)
    )  # ears are plain
    hidden = face.region[cheek[face.region]]
    error = abs(at(texture, unwrap(face_model)[0][hidden]) - colours[hidden]).max(1)
    assert len(hidden) > 100 and np.quantile(error, 0.9) < 10


def test_the_photos_background_is_not_painted_on_the_head(face_model):
    face = make_face(face_model)
    head = ndimage.binary_fill_holes(
        draw(face, np.full((len(face.vertices), 3), 255.0), 400).any(-1)
    )
    photo = np.where(head[..., None], [180, 130, 110], [0, 255, 0]).astype(np.uint8)
    skin = unwrap(face_model)[0][: face_model.n_vertices][
        ~np.any(
            [
                face_model.attributes[name].numpy() > 0.5
                for name in ("eye", "teeth", "tongue", "mouth")
            ],
            axis=0,
        )
    ]
    assert abs(at(textures.texture(face, face_model, photo), skin) - [180, 130, 110]).max() <= 2


def test_teeth_tongue_and_mouth_are_painted_in_their_colours(face_model, smiling, picture):
    texture, uv = (
        textures.texture(smiling, face_model, picture),
        unwrap(face_model)[0][: face_model.n_vertices],
    )
    teeth, tongue, mouth = (
        at(texture, uv[face_model.attributes[name].numpy() > 0.5]).mean(0)
        for name in ("teeth", "tongue", "mouth")
    )
    assert teeth.mean() > tongue.mean() > mouth.mean()
    assert tongue[0] > 1.5 * tongue[1] and np.ptp(teeth) < 40
    grey = textures.texture(smiling, face_model, np.repeat(picture[..., :1], 3, axis=2))
    assert np.ptp(grey.astype(int), axis=2).max() <= 1


@pytest.mark.parametrize("centre", [(0.0, 200.0), (399.0, 399.0), (-5000.0, 0.0)])
def test_a_face_that_is_partly_or_wholly_outside_the_photo_gets_a_texture(
    toy, face_model, picture, centre
):
    for model in (toy, face_model):
        assert textures.texture(
            make_face(model, centre=centre), model, picture, size=256
        ).shape == (256, 256, 3)


def test_spreading_keeps_what_is_known_and_stays_between_it():
    rng = np.random.default_rng(0)
    values, weight = rng.random((64, 64, 3)), (rng.random((64, 64, 1)) < 0.02).astype(float)
    result, known = spread(values, weight), weight[..., 0] > 0
    np.testing.assert_allclose(result[known], values[known])
    assert (result >= values[known].min(0) - 1e-9).all() and (
        result <= values[known].max(0) + 1e-9
    ).all()
    np.testing.assert_allclose(spread(np.where(weight > 0, 0.3, values), weight), 0.3)


# Expression units


def test_units_are_recovered_from_the_face_they_made(face_model, smiling):
    strengths, residual = mesh_files.unit_strengths(smiling, face_model)
    found = dict(zip(face_model.unit_names, strengths))
    assert found["mouthSmileLeft"] == pytest.approx(0.8, abs=0.05) and found[
        "jawOpen"
    ] == pytest.approx(0.3, abs=0.05)
    assert strengths.min() >= 0 and strengths.max() <= 1 and residual < 0.02


def test_no_unit_is_stronger_than_one_and_what_is_left_is_told(toy):
    strengths, residual = mesh_files.unit_strengths(make_face(toy, {"jawOpen": 3.0}), toy)
    assert strengths.max() == 1 and residual > 1
    strengths, residual = mesh_files.unit_strengths(make_face(toy), toy)
    assert strengths.max() == 0 and residual == 0


# Files


def load(path):
    mesh = trimesh.load(path, process=False)
    return mesh if isinstance(mesh, trimesh.Trimesh) else next(iter(mesh.geometry.values()))


@pytest.mark.parametrize("kind", ["obj", "ply", "glb"])
@pytest.mark.parametrize("coloured", [True, False])
def test_files_reopen_with_the_same_vertices_and_triangles(
    face_model, smiling, picture, tmp_path, kind, coloured
):
    path = tmp_path / f"face.{kind}"
    smiling.save(path, picture if coloured else None)
    mesh, n = load(path), face_model.n_vertices
    _, vertex, _ = unwrap(face_model)
    wanted = smiling.neutral_vertices / 1000 if kind == "glb" else smiling.vertices
    np.testing.assert_allclose(mesh.vertices, wanted[vertex[: len(mesh.vertices)]], atol=1e-6)
    np.testing.assert_array_equal(vertex[mesh.faces], smiling.triangles)
    assert len(mesh.vertices) in (n, len(vertex))
    assert mesh.visual.kind == (
        {"obj": "texture", "ply": "vertex", "glb": "texture"}[kind]
        if coloured or kind == "glb"
        else mesh.visual.kind
    )


def test_obj_glb_and_ply_have_the_same_colours(face_model, smiling, picture, tmp_path):
    for kind in ("obj", "glb", "ply"):
        smiling.save(tmp_path / f"face.{kind}", picture)
    wanted = load(tmp_path / "face.ply").visual.vertex_colors[:, :3].astype(float)
    for kind in ("obj", "glb"):
        mesh = load(tmp_path / f"face.{kind}")
        image = (
            mesh.visual.material.image if kind == "obj" else mesh.visual.material.baseColorTexture
        )
        found = at(
            np.asarray(image.convert("RGB")), (mesh.visual.uv * [1, -1] + [0, 1])[: len(wanted)]
        )  # trimesh counts v upwards
        assert np.quantile(abs(found - wanted), 0.95) < 8


def test_writing_twice_gives_the_same_bytes(face_model, smiling, picture, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for kind in ("obj", "ply", "glb"):
            smiling.save(tmp_path / folder / f"face.{kind}", picture)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["face.glb", "face.mtl", "face.obj", "face.ply", "face_texture.png"]
    assert all(
        (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        for name in names
    )


def test_a_mesh_at_rest(face_model, smiling, tmp_path):
    smiling.save(tmp_path / "face.ply", neutral=True)
    np.testing.assert_allclose(load(tmp_path / "face.ply").vertices, smiling.neutral_vertices)


def read(document, index):
    """The numbers of one accessor of a GLB, whole or sparse."""
    accessor, blob = document.accessors[index], document.binary_blob()
    width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}[accessor.type]

    def numbers(view, count, dtype):
        return np.frombuffer(blob, dtype, count, document.bufferViews[view].byteOffset)

    kind = {pygltflib.FLOAT: np.float32, pygltflib.UNSIGNED_INT: np.uint32}[accessor.componentType]
    values = (
        np.zeros((accessor.count, width), kind)
        if accessor.bufferView is None
        else numbers(accessor.bufferView, accessor.count * width, kind).reshape(-1, width).copy()
    )
    if accessor.sparse:
        count = accessor.sparse.count
        values[numbers(accessor.sparse.indices.bufferView, count, np.uint32)] = numbers(
            accessor.sparse.values.bufferView, count * width, np.float32
        ).reshape(-1, width)
    return values


def test_the_morph_targets_of_a_glb_make_the_photos_face(face_model, smiling, picture):
    document = pygltflib.GLTF2.load_from_bytes(
        mesh_files.glb(smiling, face_model, picture).to_bytes()
    )
    mesh, n = document.meshes[0], face_model.n_vertices
    primitive = mesh.primitives[0]
    assert (
        mesh.extras["targetNames"] == list(face_model.unit_names)
        and mesh.extras["vertices"] == n
        and mesh.extras["residual_mm"] < 0.02
    )
    assert len(primitive.targets) == len(mesh.weights) == len(face_model.unit_names)
    rest, moves = (
        read(document, primitive.attributes.POSITION),
        [read(document, target["POSITION"]) for target in primitive.targets],
    )
    made = rest + np.einsum("j,jnd->nd", mesh.weights, moves)
    assert (
        np.linalg.norm(
            made[smiling.region] * 1000 - smiling.vertices[smiling.region], axis=1
        ).mean()
        < 0.02
    )
    jaw = face_model.unit_names.index("jawOpen")
    np.testing.assert_allclose(moves[jaw][:n] * 1000, face_model.units[..., jaw], atol=1e-4)
    moved = smiling.neutral_vertices + face_model.units[..., jaw].numpy()
    normals = read(document, primitive.attributes.NORMAL) + read(
        document, primitive.targets[jaw]["NORMAL"]
    )
    np.testing.assert_allclose(
        normals[:n], raster.vertex_normals(moved, smiling.triangles), atol=2e-3
    )
    for index in (primitive.attributes.POSITION, primitive.targets[jaw]["POSITION"]):
        values = read(document, index)
        np.testing.assert_array_equal(
            (document.accessors[index].min, document.accessors[index].max),
            (values.min(0), values.max(0)),
        )


def test_a_glb_at_rest_has_weights_of_zero(face_model, smiling):
    assert not any(mesh_files.glb(smiling, face_model, neutral=True).document.meshes[0].weights)


@pytest.fixture(scope="session")
def validate(tmp_path_factory):
    """The Khronos validator: its report on a GLB file."""
    folder = tmp_path_factory.mktemp("node")
    try:
        done = subprocess.run(
            ["npm", "install", "--prefix", folder, "--no-audit", "--no-fund", VALIDATOR],
            capture_output=True,
            timeout=120,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        pytest.skip("npm is missing, or has no network")
    if done.returncode:
        pytest.skip("npm cannot install the validator here")
    script = 'require("gltf-validator").validateBytes(new Uint8Array(require("fs").readFileSync(process.argv[1]))).then(report => console.log(JSON.stringify(report)))'
    return lambda path: json.loads(
        subprocess.run(
            ["node", "-e", script, path], cwd=folder, capture_output=True, check=True, timeout=120
        ).stdout
    )


@pytest.mark.parametrize(
    "name, coloured", [("makehuman", True), ("toy", False), ("no units", True)]
)
def test_the_khronos_validator_has_nothing_to_say(
    validate, name, coloured, face_model, toy, picture, tmp_path
):
    model = dict(makehuman=face_model, toy=toy).get(name) or morphable.MorphableModel(
        toy.mean, toy.identity_basis, toy.expression_basis, toy.triangles[:-30], toy.landmarks
    )
    path = tmp_path / "face.glb"
    face = replace(make_face(model, [("jawOpen", 0.5)]), triangles=model.triangles.numpy())
    face.save(path, picture if coloured else None)
    report = validate(path)
    assert report["issues"]["messages"] == []
    assert (
        report["info"]["hasMorphTargets"] == (name != "no units")
        and report["info"]["hasTextures"] == coloured
    )
    path.write_bytes(path.read_bytes()[:-8])  # the validator does look
    assert validate(path)["issues"]["numErrors"]
