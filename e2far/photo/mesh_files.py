"""A face as a file for other programs: OBJ, PLY, STL and GLB.

OBJ, PLY and STL hold the face as it is in the photo, in millimetres in the head frame. A GLB is in
metres, as glTF asks; its mesh is the face at rest, and its morph targets are the model's expression
units: their weights (`unit_strengths`) bring it to the photo's expression. Vertices come in the
model's order; the few that the texture needs twice follow after them.
"""

import io
import os
import re

import numpy as np
import pygltflib as gltf
import trimesh
from PIL import Image

from e2far import files, raster
from e2far.photo import results
from e2far.photo.units import unit_strengths
from e2far.photo.unwrapping import as_array, unwrap, vertex_colours

SKIN = [0.74, 0.70, 0.68, 1.0]  # colour of a head without a texture
WIDTHS = {1: gltf.SCALAR, 2: gltf.VEC2, 3: gltf.VEC3, 4: gltf.VEC4}


def vertex_normals(vertices, triangles):
    """Unit normals (N, 3) float32; of a vertex of no triangle +z, since formats know no other."""
    directions = raster.vertex_normals(vertices, triangles)
    directions[abs(directions).max(1) < 0.1] = 0, 0, 1
    return directions.astype(np.float32)


def write_obj(face, path, texture):
    """x.obj, and with a texture x.mtl and x_texture.png beside it, by names that OBJ can hold."""
    mesh = trimesh.Trimesh(face.vertices, face.triangles, process=False)
    name = safe_name(path.stem)
    if texture is not None:
        mesh = textured(face, f"{name}_texture")
    how = dict(include_normals=texture is not None, header="e2far, millimetres")
    how |= dict(return_texture=True, mtl_name=f"{name}.mtl")
    text, beside = trimesh.exchange.obj.export_obj(mesh, **how)
    for other, content in beside.items():
        if other.endswith(".png"):
            results.save_png(texture, path.with_name(other))
        else:
            path.with_name(other).write_bytes(content)
    path.write_bytes(text.encode())


def safe_name(stem):
    """A name that every reader of OBJ and MTL takes: theirs end at a space, a # begins a comment.

    Names that differ stay different.
    """
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", stem)
    return safe if safe == stem else f"{safe}_{files.digest(os.fsencode(stem), digits=6)}"


def write_ply(face, path, texture):
    colours = None if texture is None else vertex_colours(face.model, texture)
    mesh = trimesh.Trimesh(face.vertices, face.triangles, vertex_colors=colours, process=False)
    data = mesh.export(file_type="ply", vertex_normal=False)
    path.write_bytes(data.replace(b" 1.0\n", b" 1.0\ncomment e2far, millimetres\n", 1))  # ty: ignore[missing-union-attribute, no-matching-overload]


def write_stl(face, path, texture):
    """Without colours, which STL does not know."""
    mesh = trimesh.Trimesh(face.vertices, face.triangles, process=False)
    data = trimesh.exchange.stl.export_stl(mesh)
    path.write_bytes(b"e2far, millimetres".ljust(80) + data[80:])


def write_glb(face, path, texture):
    path.write_bytes(glb(face, texture).to_bytes())


# What writes a `face.Face` to a path, coloured by a texture (S, S, 3) or None; see `results.MESHES`
WRITERS = dict(obj=write_obj, ply=write_ply, stl=write_stl, glb=write_glb)


def textured(face, name):
    """A trimesh.Trimesh with places in a texture called `name`, torn where that asks for it."""
    uv, vertex, torn = unwrap(face.model)
    material = trimesh.visual.material.SimpleMaterial(
        Image.new("RGB", (1, 1)), diffuse=[255] * 4, specular=[0, 0, 0, 255], name=name
    )
    return trimesh.Trimesh(
        face.vertices[vertex],
        torn,
        vertex_normals=vertex_normals(face.vertices, face.triangles)[vertex],
        visual=trimesh.visual.TextureVisuals(uv * [1, -1] + [0, 1], material),
        process=False,
    )


class Glb:
    """A glTF document of one mesh in one node, to which arrays are added one after the other."""

    def __init__(self):
        self.document = gltf.GLTF2(asset=gltf.Asset(generator="e2far"), scene=0)
        self.blob = bytearray()

    def view(self, array, target=None):
        """Add the bytes of an array; returns the number of their view."""
        self.blob.extend(bytes(-len(self.blob) % 4))
        place = dict(byteOffset=len(self.blob), byteLength=array.nbytes)
        self.document.bufferViews.append(gltf.BufferView(buffer=0, target=target, **place))
        self.blob.extend(array.tobytes())
        return len(self.document.bufferViews) - 1

    def add(self, array, target=None, sparse=False, **content):
        """Add float32 or uint32 numbers (n, 1 to 4); returns the number of their accessor.

        sparse: only the rows that are not zero    content: min and max of any but points
        """
        kind = gltf.FLOAT if array.dtype == np.float32 else gltf.UNSIGNED_INT
        width, rows = array.shape[1], np.flatnonzero(array.any(1)).astype(np.uint32)
        if width == 3:
            content = dict(min=array.min(0).tolist(), max=array.max(0).tolist())
        if not sparse:
            content["bufferView"] = self.view(array, target)
        elif len(rows):
            at = dict(bufferView=self.view(rows), componentType=gltf.UNSIGNED_INT)
            indices = gltf.AccessorSparseIndices(**at)
            values = gltf.AccessorSparseValues(bufferView=self.view(array[rows]))
            content["sparse"] = gltf.Sparse(count=len(rows), indices=indices, values=values)
        read = dict(componentType=kind, type=WIDTHS[width], count=len(array), byteOffset=None)
        self.document.accessors.append(gltf.Accessor(**read, **content))
        return len(self.document.accessors) - 1

    def to_bytes(self):
        self.document.buffers = [gltf.Buffer(byteLength=len(self.blob))]
        self.document.set_binary_blob(bytes(self.blob))
        return b"".join(self.document.save_to_bytes())


def glb(face, texture=None):
    """The `Glb` of a face at rest, in metres, with a texture (S, S, 3) uint8.

    The expression units are its morph targets, at their `unit_strengths`.
    extras of the mesh: targetNames, the names of the targets, as Blender and three.js read them;
    vertices, how many come before the copies that the texture needs; residual_mm.
    """
    made, model = Glb(), face.model
    strengths, residual = unit_strengths(face, model)
    extras = dict(targetNames=list(model.unit_names), vertices=model.n_vertices)
    mesh = gltf.Mesh(
        name="head",
        primitives=[primitive(made, face, torn=texture is not None)],
        weights=strengths.tolist(),
        extras=extras | dict(residual_mm=round(residual, 3)),
    )
    surface = gltf.PbrMetallicRoughness(metallicFactor=0.0, roughnessFactor=0.9)
    material = gltf.Material(name="head", doubleSided=True, pbrMetallicRoughness=surface)
    document = made.document
    document.scenes, document.nodes = [gltf.Scene(nodes=[0])], [gltf.Node(name="head", mesh=0)]
    document.materials, document.meshes = [material], [mesh]
    if texture is None:
        surface.baseColorFactor = SKIN
        return made
    surface.baseColorTexture = gltf.TextureInfo(index=0)
    # The photo's light is in the texture: lit again, the teeth would lie in the lips' shadow
    material.extensions = {"KHR_materials_unlit": {}}
    document.extensionsUsed = list(material.extensions)
    png = io.BytesIO()
    results.save_png(texture, png)
    view = made.view(np.frombuffer(png.getvalue(), np.uint8))
    document.images = [gltf.Image(name="texture", mimeType="image/png", bufferView=view)]
    wrap = dict(wrapS=gltf.CLAMP_TO_EDGE, wrapT=gltf.CLAMP_TO_EDGE)
    sampler = gltf.Sampler(magFilter=gltf.LINEAR, minFilter=gltf.LINEAR_MIPMAP_LINEAR, **wrap)
    document.samplers, document.textures = [sampler], [gltf.Texture(sampler=0, source=0)]
    return made


def primitive(made, face, torn):
    """The head at rest with the units as targets, its arrays added to a `Glb`."""
    uv, vertex, triangles = unwrap(face.model)
    if not torn:
        vertex, triangles = np.arange(len(face.vertices)), face.triangles
    rest, units = face.neutral_vertices / 1000, as_array(face.model.units) / 1000
    normals = vertex_normals(rest, face.triangles)[vertex]
    attributes = gltf.Attributes(
        POSITION=made.add(rest[vertex].astype(np.float32), gltf.ARRAY_BUFFER),
        NORMAL=made.add(normals, gltf.ARRAY_BUFFER),
        TEXCOORD_0=made.add(uv, gltf.ARRAY_BUFFER) if torn else None,
    )
    indices = made.add(triangles.astype(np.uint32).reshape(-1, 1), gltf.ELEMENT_ARRAY_BUFFER)
    targets = []
    for unit in np.moveaxis(units, 2, 0):
        turn = vertex_normals(rest + unit, face.triangles)[vertex] - normals
        turn[abs(turn).max(1) < 1e-3] = 0  # less than a tenth of a degree is not worth its bytes
        place = made.add(unit[vertex].astype(np.float32), sparse=True)
        targets.append(gltf.Attributes(POSITION=place, NORMAL=made.add(turn, sparse=True)))
    return gltf.Primitive(attributes=attributes, indices=indices, material=0, targets=targets)
