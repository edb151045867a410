"""A reconstructed face for other programs: its texture from the photo, and OBJ, PLY and GLB files; a GLB has the model's expression units as morph targets.

    photo --what the camera sees of the head--> colours on the unwrapped head --mirrored, then spread--> texture --with the mesh--> Blender, three.js, MeshLab

OBJ and PLY hold the face as it is in the photo, in millimetres in the head frame. A GLB is in metres, as glTF asks; its mesh is the face at rest, which the weights of its morph targets
(`unit_strengths`) bring to the photo's expression. Vertices come in the model's order; the few that the texture needs twice follow after them.
"""
import io
from pathlib import Path

import numpy as np
import pygltflib
import trimesh
from PIL import Image
from scipy import ndimage, optimize

from . import rasterize
from .appearance import smoothstep

RADIUS = .492                       # of the disc on which the skin lies, in units of the picture's side
CHARTS = dict(right_eye=(0, 0, .135, .135), left_eye=(.865, 0, .135, .135), teeth=(0, .865, .135, .06), tongue=(0, .93, .135, .07), mouth=(.865, .865, .135, .135))     # left, top, width, height
PAINT = dict(teeth=(1., .95, .87), tongue=(.72, .37, .36), mouth=(.52, .21, .20))      # colours of what no photo shows well, under the photo's light
TEXELS_PER_MM = 4.                  # the texture's in the face: a photo that is finer is averaged
BEHIND_MM = 2.                      # a point so far behind what the camera sees still counts as seen
FADE = 5                            # the photo's colours are spread about 2^FADE texels of 1024 into what it does not show before plain ones take over


# The texture --------------------------------------------------------------------------------------------------------------------------------

def unwrap(model):
    """A place in the texture for every vertex of a MorphableModel: `uv` (M, 2) in [0, 1] from the upper left, `vertex` (M,), of which each is a copy, and `triangles` (F, 3) of these.

    Choice: skin lies on a disc by Lambert's equal-area projection of the mean head from a point inside it, seen from the front. The face gets half of the picture, the two sides of
    the face mirror each other in it, and no seam is needed: only where the back of the head meets the rim, triangles have corners of their own (the copies after the first N).
    Eyes, teeth, tongue and mouth lie in the picture's corners. Where surfaces fall on each other, as behind the ears, the one further out gives the colour.
    """
    mean, triangles = _array(model.mean).astype(float), _array(model.triangles).copy()
    direction = mean - _centre(model)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True).clip(1e-9)
    uv = .5 + RADIUS * direction[:, :2] / np.sqrt(2 * (1 + direction[:, 2:])).clip(1e-6) * [1, -1]
    skin = np.ones(len(mean), bool)
    for name, (left, top, width, height) in CHARTS.items():
        eye = name.endswith("eye")
        here = _attribute(model, "eye" if eye else name) > .5
        if eye:
            here &= (mean[:, 0] > 0) == (name == "left_eye")
        if here.any():
            flat = mean[here][:, [0, 1]] * [1, -1] if eye or name == "teeth" else mean[here][:, [0, 2]]         # from the front; tongue and mouth from above
            uv[here] = (left, top) + np.array([width, height]) * (.06 + .88 * (flat - flat.min(0)) / np.ptp(flat, axis=0).clip(1e-9))
        skin &= ~here
    torn = np.flatnonzero(skin[triangles].all(1) & (np.ptp(uv[triangles], axis=1).max(1) > .3))                 # they would lie across the disc
    vertex = np.concatenate((np.arange(len(mean)), triangles[torn].ravel()))
    uv = np.concatenate((uv, np.repeat(uv[triangles[torn, 0]], 3, axis=0)))                                     # all three corners at one place on the rim
    triangles[torn] = len(mean) + np.arange(3 * len(torn)).reshape(-1, 3)
    return uv.astype(np.float32), vertex, triangles


def _array(tensor):
    return tensor.detach().cpu().numpy()


def _attribute(model, name):
    """One of the model's attributes (N,), zero where it knows none."""
    return _array(model.attributes[name]) if name in model.attributes else np.zeros(model.n_vertices)


def _centre(model):
    """The point inside the head (3,) mm from which it is unwrapped: between the ears, at the height of the eyes."""
    points = _array(model.mean)[_array(model.landmarks)]
    return np.array([points[[0, 16], 0].mean(), points[36:48, 1].mean(), points[[0, 16], 2].mean()])


def texture(face, model, image, size=1024):
    """The texture (size, size, 3) uint8, size a power of two, of a `photo.Face` of this `model`, for the places of `unwrap`, from its upright photo (H, W, 3) uint8.

    What the camera sees of the face proper, the hair on the head and the eyes comes from the photo; what it does not see, from the other side of the face. Where neither is known,
    the colours around it are spread and give way to plain ones: those of the skin, the hair and the white of an eye. Teeth, tongue and mouth are painted.
    """
    uv, vertex, triangles = unwrap(model)
    mean, landmarks = _array(model.mean), _array(model.landmarks)
    ear, eye = _attribute(model, "ear") > .1, _attribute(model, "eye") > .5
    inner = np.any([_attribute(model, name) > .5 for name in PAINT], axis=0)
    scalp = (_attribute(model, "hairline") > 0) & ~ear & (mean[:, 1] > mean[landmarks[[4, 12]], 1].mean())      # down to the nape
    wanted = (eye | scalp).astype(np.float32)
    wanted[face.region] = 1
    wanted[ear] = 0                                             # hair, earrings and the background are often there instead

    picture, points, turned, depth = _look(face, model, image)
    normals = rasterize.vertex_normals(turned, face.triangles)
    outwards = np.linalg.norm(mean - _centre(model), axis=1).astype(np.float32)
    triangles = triangles[~inner[vertex[triangles]].any(1)].astype(np.int32)
    seen, shares = rasterize.zbuffer(np.ascontiguousarray(uv * size), outwards[vertex], triangles, size)
    shares, corners = np.dstack((shares, 1 - shares.sum(-1))) * (seen >= 0)[..., None], vertex[triangles[seen]]
    x, y, z, facing, weight, eye, scalp = (sum(shares[..., k] * values[corners[..., k]] for k in range(3)) for values in (*points.T, turned[:, 2], normals[:, 2], wanted, eye, scalp))
    eye, scalp, place = eye > .5, scalp > .5, np.stack((y, x)) - .5

    colour = np.dstack([ndimage.map_coordinates(picture[..., c], place, order=1, mode="nearest") for c in range(3)])
    weight *= smoothstep((facing - np.where(scalp, .15, .3)) / .35)       # at grazing angles the background is near; beside hair there is more hair
    weight *= z > ndimage.map_coordinates(depth, place, order=0, mode="nearest") - BEHIND_MM
    weight *= (x > 0) & (y > 0) & (x < picture.shape[1]) & (y < picture.shape[0])
    for part, softness in ((eye, 2), (~eye, 7)):                # fade out towards the border of what is seen
        weight = np.where(part, np.minimum(weight, smoothstep(2 * ndimage.gaussian_filter(weight * part, softness * size / 1024) - 1)), weight)
    islands, count = ndimage.label((weight > 0) & ~eye)
    if count:                                                   # of skin; only the largest is the face
        weight[(islands > 0) & (islands != 1 + np.bincount(islands.ravel())[1:].argmax())] = 0
    weight = weight[..., None].astype(np.float32)

    mirrored, its_weight = colour[:, ::-1], weight[:, ::-1]
    mirrored = mirrored + spread(colour - mirrored, (weight * its_weight) ** 4)         # in the light of this side
    its_weight = (1 - weight) * its_weight
    colour = (weight * colour + its_weight * mirrored) / np.maximum(weight + its_weight, 1e-9)
    weight = weight + its_weight

    certain = weight[..., 0] > .9
    white = max(np.percentile(colour[certain].mean(1), 98), .6) if certain.any() else .8
    skin = _median(colour[certain & ~scalp & ~eye], [.8 * white, .65 * white, .56 * white])
    plain = np.where(eye[..., None], .85 * white, np.where(scalp[..., None], _median(colour[certain & scalp], skin), skin))
    doubt = (seen >= 0)[..., None] * (1 - weight) * .25 ** FADE * (1024 / size) ** 2
    colour = spread((weight * colour + doubt * plain) / np.maximum(weight + doubt, 1e-9), weight + doubt)
    v, u = (np.mgrid[:size, :size] + .5) / size
    tint = min(1, 5 * np.ptp(skin) / max(skin.max(), 1e-9))                # none in a grey photo
    for name, paint in PAINT.items():
        left, top, width, height = CHARTS[name]
        across, down = (u - left) / width, (v - top) / height
        here = (across >= 0) & (across <= 1) & (down >= 0) & (down <= 1)
        shade = 1 - .5 * (2 * across - 1) ** 2 if name == "teeth" else .3 + .7 * down           # darker to the sides, darker to the back
        colour[here] = white * shade[here, None] * (np.mean(paint) + tint * (np.array(paint) - np.mean(paint)))
    return (colour.clip(0, 1) * 255).round().astype(np.uint8)


def _look(face, model, image):
    """The part of the photo around the face, (S, S, 3) float32 in [0, 1]; where the vertices (N, 2) px fall in it, how they are turned (N, 3) mm, and the nearest z (S, S) mm at every pixel."""
    points = face.pose.project(face.vertices)
    reach = points[np.concatenate((face.region, _array(model.landmarks)))]
    side = 1.1 * np.ptp(reach, axis=0).max()
    low = (reach.min(0) + reach.max(0) - side) / 2
    first, last = np.floor(low).astype(int), np.ceil(low + side).astype(int)
    rows, columns = np.arange(first[1], last[1]).clip(0, len(image) - 1), np.arange(first[0], last[0]).clip(0, image.shape[1] - 1)
    size = int(np.clip(side * min(1, TEXELS_PER_MM / face.pose.scale), 64, 2048))
    box = tuple(np.concatenate((low - first, low + side - first)).tolist())
    picture = Image.fromarray(image[rows[:, None], columns]).resize((size, size), Image.Resampling.BILINEAR, box=box)
    points = ((points - low) * (size / side)).astype(np.float32)
    turned = np.ascontiguousarray(face.vertices @ face.pose.rotation.T, dtype=np.float32)
    near, triangles = turned[:, 2] - _array(model.recess).astype(np.float32), face.triangles.astype(np.int32)
    seen, shares = rasterize.zbuffer(points, near, triangles, size)
    depth = np.where(seen >= 0, (np.dstack((shares, 1 - shares.sum(-1))) * near[triangles[seen]]).sum(-1), -np.inf)
    return np.asarray(picture, dtype=np.float32) / 255, points, turned, depth


def _median(colours, otherwise):
    return np.median(colours, axis=0) if len(colours) else np.asarray(otherwise)


def spread(values, weight):
    """`values` (S, S, C) where `weight` (S, S, 1) in [0, 1] is one, and where it is less what lies around, by ever coarser averages (pull and push, Gortler et al. 1996)."""
    size = len(values)
    if size % 2 or size < 4:
        mean = (values * weight).sum((0, 1)) / max(weight.sum(), 1e-9)
        return weight * values + (1 - weight) * mean
    halves = weight.reshape(size // 2, 2, size // 2, 2, 1)
    total = halves.sum((1, 3))
    coarse = spread((values.reshape(size // 2, 2, size // 2, 2, -1) * halves).sum((1, 3)) / np.maximum(total, 1e-9), np.minimum(total, 1))
    fine = coarse
    for axis in (0, 1):                                         # twice as fine, linear between the centres
        before, after = (np.take(fine, np.arange(size // 2) + step, axis, mode="clip") for step in (-1, 1))
        fine = np.stack((.75 * fine + .25 * before, .75 * fine + .25 * after), axis + 1).reshape(*fine.shape[:axis], size, *fine.shape[axis + 1:])
    return weight * values + (1 - weight) * fine


# Files --------------------------------------------------------------------------------------------------------------------------------------

def vertex_colours(model, picture):
    """Colours (N, 3) uint8 of the model's vertices in a `texture`."""
    place = unwrap(model)[0][:model.n_vertices, ::-1].T * len(picture) - .5
    return np.stack([ndimage.map_coordinates(picture[..., c], place, order=1, mode="nearest") for c in range(3)], axis=1)


def nearest_units(model, modes, coefficients):
    """Strengths (T, J) in [0, 1] of a MorphableModel's expression units that come nearest to the offsets `coefficients` (T, L) of `modes` (N, 3, L) mm: least squares over the region.

    Choice: of the shapes in mm, not of the 29 coefficients as in `MorphableModel.units_to_modes`, because the units move in more ways than the modes do: on the astronaut's smile
    .01 mm are left instead of .20.
    """
    units, modes = (values[_array(model.region)].reshape(3 * len(model.region), -1).astype(float) for values in (_array(model.units), modes))
    if not units.size:
        return np.zeros((len(coefficients), 0))
    q, r = np.linalg.qr(units)                                  # the same least squares with as many rows as units
    return np.stack([optimize.lsq_linear(r, target, bounds=(0, 1)).x for target in coefficients @ (q.T @ modes).T]).round(3)


def unit_strengths(face, model):
    """Strengths (J,) of the `nearest_units` to a face's expression, and what they leave, mean mm over the region."""
    offset = (face.vertices - face.neutral_vertices).astype(float)
    strengths = nearest_units(model, offset[..., None], np.ones((1, 1)))[0]
    return strengths, float(np.linalg.norm((_array(model.units) @ strengths - offset)[face.region], axis=1).mean())


def _normals(vertices, triangles):
    """Unit normals (N, 3) float32 of the vertices; of a vertex of no triangle +z, because file formats know no other."""
    directions = rasterize.vertex_normals(vertices, triangles)
    directions[abs(directions).max(1) < .1] = 0, 0, 1
    return directions.astype(np.float32)


def save(face, model, path, image=None, neutral=False, picture=None):
    """Write a `photo.Face` of this `model` to .obj (with .mtl and _texture.png beside it), .ply or .glb, coloured from its upright photo (H, W, 3) uint8 where one is given.

    neutral: at rest, without the photo's expression    picture: its `texture`, where that is at hand already. Raises ValueError for another ending.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".obj", ".ply", ".glb"):
        raise ValueError(f"cannot save a mesh as {path.name}: choose .obj, .ply or .glb")
    picture = texture(face, model, image) if picture is None and image is not None else picture
    if kind == ".glb":
        path.write_bytes(glb(face, model, picture, neutral))
        return
    vertices, uv, vertex, triangles = face.neutral_vertices if neutral else face.vertices, *unwrap(model)
    if picture is None:
        mesh = trimesh.Trimesh(vertices, face.triangles, process=False)
    elif kind == ".ply":
        mesh = trimesh.Trimesh(vertices, face.triangles, vertex_colors=vertex_colours(model, picture), process=False)
    else:
        material = trimesh.visual.material.SimpleMaterial(Image.fromarray(picture), diffuse=[255] * 4, specular=[0, 0, 0, 255], name=f"{path.stem}_texture")
        mesh = trimesh.Trimesh(vertices[vertex], triangles, vertex_normals=_normals(vertices, face.triangles)[vertex], visual=trimesh.visual.TextureVisuals(uv * [1, -1] + [0, 1], material), process=False)
    if kind == ".ply":
        data = mesh.export(file_type="ply", vertex_normal=False).replace(b" 1.0\n", b" 1.0\ncomment millimetres\n", 1)  # ty: ignore[missing-union-attribute, no-matching-overload]
    else:
        text, beside = trimesh.exchange.obj.export_obj(mesh, include_normals=picture is not None, return_texture=True, mtl_name=path.stem + ".mtl", header="e2far, millimetres")
        for name, content in beside.items():
            path.with_name(name).write_bytes(content)
        data = text.encode()
    path.write_bytes(data)


def glb(face, model, picture=None, neutral=False):
    """A GLB file (bytes) of a face at rest, in metres, with the expression units as morph targets at their `unit_strengths` (at 0 if `neutral`) and a texture (S, S, 3) uint8.

    extras of the mesh: targetNames, the names of the targets, as Blender and three.js read them; vertices, how many come before the copies that the texture needs; residual_mm.
    """
    uv, vertex, triangles = (None, np.arange(model.n_vertices), face.triangles) if picture is None else unwrap(model)
    strengths, residual = unit_strengths(face, model)
    rest, units = face.neutral_vertices / 1000, _array(model.units) / 1000
    blob, views, accessors = bytearray(), [], []

    def view(array, target=None):
        blob.extend(bytes(-len(blob) % 4))
        views.append(pygltflib.BufferView(buffer=0, byteOffset=len(blob), byteLength=array.nbytes, target=target))
        blob.extend(array.tobytes())
        return len(views) - 1

    def accessor(array, **more):
        limits = dict(min=array.min(0).tolist(), max=array.max(0).tolist()) if array.shape[1] == 3 else {}
        kind = {1: pygltflib.SCALAR, 2: pygltflib.VEC2, 3: pygltflib.VEC3}[array.shape[1]]
        accessors.append(pygltflib.Accessor(componentType=pygltflib.FLOAT if array.dtype == np.float32 else pygltflib.UNSIGNED_INT, count=len(array), type=kind, byteOffset=None, **limits, **more))
        return len(accessors) - 1

    def whole(array, target=pygltflib.ARRAY_BUFFER):
        return accessor(array, bufferView=view(array, target))

    def sparse(array):
        rows = np.flatnonzero(array.any(1)).astype(np.uint32)
        if not len(rows):
            return accessor(array)
        indices = pygltflib.AccessorSparseIndices(bufferView=view(rows), componentType=pygltflib.UNSIGNED_INT)
        return accessor(array, sparse=pygltflib.Sparse(count=len(rows), indices=indices, values=pygltflib.AccessorSparseValues(bufferView=view(array[rows]))))

    at_rest = _normals(rest, face.triangles)[vertex]
    attributes = pygltflib.Attributes(POSITION=whole(rest[vertex].astype(np.float32)), NORMAL=whole(at_rest), TEXCOORD_0=None if picture is None else whole(uv))
    indices = whole(triangles.astype(np.uint32).reshape(-1, 1), pygltflib.ELEMENT_ARRAY_BUFFER)
    targets = []
    for unit in np.moveaxis(units, 2, 0):
        turn = _normals(rest + unit, face.triangles)[vertex] - at_rest
        turn[abs(turn).max(1) < 1e-3] = 0                       # less than a tenth of a degree is not worth its bytes
        targets.append(pygltflib.Attributes(POSITION=sparse(unit[vertex].astype(np.float32)), NORMAL=sparse(turn)))
    material = pygltflib.PbrMetallicRoughness(metallicFactor=0., roughnessFactor=.9)
    document = pygltflib.GLTF2(
        asset=pygltflib.Asset(generator="e2far"), scene=0, scenes=[pygltflib.Scene(nodes=[0])], nodes=[pygltflib.Node(name="head", mesh=0)],
        materials=[pygltflib.Material(name="head", doubleSided=True, pbrMetallicRoughness=material)],
        meshes=[pygltflib.Mesh(name="head", primitives=[pygltflib.Primitive(attributes=attributes, indices=indices, material=0, targets=targets)],
                               weights=(0 * strengths if neutral else strengths).tolist(), extras=dict(targetNames=list(model.unit_names), vertices=len(rest), residual_mm=round(residual, 3)))])
    if picture is None:
        material.baseColorFactor = [.74, .70, .68, 1.]
    else:
        png = io.BytesIO()
        Image.fromarray(picture).save(png, "PNG")
        material.baseColorTexture = pygltflib.TextureInfo(index=0)
        document.images = [pygltflib.Image(name="texture", mimeType="image/png", bufferView=view(np.frombuffer(png.getvalue(), np.uint8)))]
        document.samplers = [pygltflib.Sampler(magFilter=pygltflib.LINEAR, minFilter=pygltflib.LINEAR_MIPMAP_LINEAR, wrapS=pygltflib.CLAMP_TO_EDGE, wrapT=pygltflib.CLAMP_TO_EDGE)]
        document.textures = [pygltflib.Texture(sampler=0, source=0)]
    document.bufferViews, document.accessors = views, accessors
    document.buffers = [pygltflib.Buffer(byteLength=len(blob))]
    document.set_binary_blob(bytes(blob))
    return b"".join(document.save_to_bytes())
