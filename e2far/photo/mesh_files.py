"""A face as a file: OBJ, PLY and GLB."""

import io
from pathlib import Path

import numpy as np
import pygltflib
import trimesh
from PIL import Image
from scipy import optimize

from e2far import raster
from e2far.photo.texture import _array, texture, unwrap, vertex_colours


def nearest_units(model, modes, coefficients):
    """Strengths (T, J) in [0, 1] of a MorphableModel's expression units that come nearest to the offsets `coefficients` (T, L) of `modes` (N, 3, L) mm: least squares over the region.

    Choice: of the shapes in mm, not of the 29 coefficients as in `MorphableModel.units_to_modes`, because the units move in more ways than the modes do: on the astronaut's smile
    .01 mm are left instead of .20.
    """
    units, modes = (
        values[_array(model.region)].reshape(3 * len(model.region), -1).astype(float)
        for values in (_array(model.units), modes)
    )
    if not units.size:
        return np.zeros((len(coefficients), 0))
    q, r = np.linalg.qr(units)  # the same least squares with as many rows as units
    return np.stack(
        [
            optimize.lsq_linear(r, target, bounds=(0, 1)).x
            for target in coefficients @ (q.T @ modes).T
        ]
    ).round(3)


def unit_strengths(face, model):
    """Strengths (J,) of the `nearest_units` to a face's expression, and what they leave, mean mm over the region."""
    offset = (face.vertices - face.neutral_vertices).astype(float)
    strengths = nearest_units(model, offset[..., None], np.ones((1, 1)))[0]
    return strengths, float(
        np.linalg.norm((_array(model.units) @ strengths - offset)[face.region], axis=1).mean()
    )


def _normals(vertices, triangles):
    """Unit normals (N, 3) float32 of the vertices; of a vertex of no triangle +z, because file formats know no other."""
    directions = raster.vertex_normals(vertices, triangles)
    directions[abs(directions).max(1) < 0.1] = 0, 0, 1
    return directions.astype(np.float32)


def save(face, model, path, image=None, neutral=False, picture=None):
    """Write a `face.Face` of this `model` to .obj (with .mtl and _texture.png beside it), .ply or .glb, coloured from its upright photo (H, W, 3) uint8 where one is given.

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
    vertices, uv, vertex, triangles = (
        face.neutral_vertices if neutral else face.vertices,
        *unwrap(model),
    )
    if picture is None:
        mesh = trimesh.Trimesh(vertices, face.triangles, process=False)
    elif kind == ".ply":
        mesh = trimesh.Trimesh(
            vertices, face.triangles, vertex_colors=vertex_colours(model, picture), process=False
        )
    else:
        material = trimesh.visual.material.SimpleMaterial(
            Image.fromarray(picture),
            diffuse=[255] * 4,
            specular=[0, 0, 0, 255],
            name=f"{path.stem}_texture",
        )
        mesh = trimesh.Trimesh(
            vertices[vertex],
            triangles,
            vertex_normals=_normals(vertices, face.triangles)[vertex],
            visual=trimesh.visual.TextureVisuals(uv * [1, -1] + [0, 1], material),
            process=False,
        )
    if kind == ".ply":
        data = mesh.export(file_type="ply", vertex_normal=False).replace(
            b" 1.0\n", b" 1.0\ncomment millimetres\n", 1
        )  # ty: ignore[missing-union-attribute, no-matching-overload]
    else:
        text, beside = trimesh.exchange.obj.export_obj(
            mesh,
            include_normals=picture is not None,
            return_texture=True,
            mtl_name=path.stem + ".mtl",
            header="e2far, millimetres",
        )
        for name, content in beside.items():
            path.with_name(name).write_bytes(content)
        data = text.encode()
    path.write_bytes(data)


def glb(face, model, picture=None, neutral=False):
    """A GLB file (bytes) of a face at rest, in metres, with the expression units as morph targets at their `unit_strengths` (at 0 if `neutral`) and a texture (S, S, 3) uint8.

    extras of the mesh: targetNames, the names of the targets, as Blender and three.js read them; vertices, how many come before the copies that the texture needs; residual_mm.
    """
    uv, vertex, triangles = (
        (None, np.arange(model.n_vertices), face.triangles) if picture is None else unwrap(model)
    )
    strengths, residual = unit_strengths(face, model)
    rest, units = face.neutral_vertices / 1000, _array(model.units) / 1000
    blob, views, accessors = bytearray(), [], []

    def view(array, target=None):
        blob.extend(bytes(-len(blob) % 4))
        views.append(
            pygltflib.BufferView(
                buffer=0, byteOffset=len(blob), byteLength=array.nbytes, target=target
            )
        )
        blob.extend(array.tobytes())
        return len(views) - 1

    def accessor(array, **more):
        limits = (
            dict(min=array.min(0).tolist(), max=array.max(0).tolist())
            if array.shape[1] == 3
            else {}
        )
        kind = {1: pygltflib.SCALAR, 2: pygltflib.VEC2, 3: pygltflib.VEC3}[array.shape[1]]
        accessors.append(
            pygltflib.Accessor(
                componentType=pygltflib.FLOAT
                if array.dtype == np.float32
                else pygltflib.UNSIGNED_INT,
                count=len(array),
                type=kind,
                byteOffset=None,
                **limits,
                **more,
            )
        )
        return len(accessors) - 1

    def whole(array, target=pygltflib.ARRAY_BUFFER):
        return accessor(array, bufferView=view(array, target))

    def sparse(array):
        rows = np.flatnonzero(array.any(1)).astype(np.uint32)
        if not len(rows):
            return accessor(array)
        indices = pygltflib.AccessorSparseIndices(
            bufferView=view(rows), componentType=pygltflib.UNSIGNED_INT
        )
        return accessor(
            array,
            sparse=pygltflib.Sparse(
                count=len(rows),
                indices=indices,
                values=pygltflib.AccessorSparseValues(bufferView=view(array[rows])),
            ),
        )

    at_rest = _normals(rest, face.triangles)[vertex]
    attributes = pygltflib.Attributes(
        POSITION=whole(rest[vertex].astype(np.float32)),
        NORMAL=whole(at_rest),
        TEXCOORD_0=None if picture is None else whole(uv),
    )
    indices = whole(triangles.astype(np.uint32).reshape(-1, 1), pygltflib.ELEMENT_ARRAY_BUFFER)
    targets = []
    for unit in np.moveaxis(units, 2, 0):
        turn = _normals(rest + unit, face.triangles)[vertex] - at_rest
        turn[abs(turn).max(1) < 1e-3] = 0  # less than a tenth of a degree is not worth its bytes
        targets.append(
            pygltflib.Attributes(
                POSITION=sparse(unit[vertex].astype(np.float32)), NORMAL=sparse(turn)
            )
        )
    material = pygltflib.PbrMetallicRoughness(metallicFactor=0.0, roughnessFactor=0.9)
    document = pygltflib.GLTF2(
        asset=pygltflib.Asset(generator="e2far"),
        scene=0,
        scenes=[pygltflib.Scene(nodes=[0])],
        nodes=[pygltflib.Node(name="head", mesh=0)],
        materials=[
            pygltflib.Material(name="head", doubleSided=True, pbrMetallicRoughness=material)
        ],
        meshes=[
            pygltflib.Mesh(
                name="head",
                primitives=[
                    pygltflib.Primitive(
                        attributes=attributes, indices=indices, material=0, targets=targets
                    )
                ],
                weights=(0 * strengths if neutral else strengths).tolist(),
                extras=dict(
                    targetNames=list(model.unit_names),
                    vertices=len(rest),
                    residual_mm=round(residual, 3),
                ),
            )
        ],
    )
    if picture is None:
        material.baseColorFactor = [0.74, 0.70, 0.68, 1.0]
    else:
        png = io.BytesIO()
        Image.fromarray(picture).save(png, "PNG")
        material.baseColorTexture = pygltflib.TextureInfo(index=0)
        document.images = [
            pygltflib.Image(
                name="texture",
                mimeType="image/png",
                bufferView=view(np.frombuffer(png.getvalue(), np.uint8)),
            )
        ]
        document.samplers = [
            pygltflib.Sampler(
                magFilter=pygltflib.LINEAR,
                minFilter=pygltflib.LINEAR_MIPMAP_LINEAR,
                wrapS=pygltflib.CLAMP_TO_EDGE,
                wrapT=pygltflib.CLAMP_TO_EDGE,
            )
        ]
        document.textures = [pygltflib.Texture(sampler=0, source=0)]
    document.bufferViews, document.accessors = views, accessors
    document.buffers = [pygltflib.Buffer(byteLength=len(blob))]
    document.set_binary_blob(bytes(blob))
    return b"".join(document.save_to_bytes())
