"""One HTML page for one reconstructed face: the head to turn and animate in a browser.

It needs no network, plugin or library; `viewer.html` holds the page and its WebGL:

    vertices = neutral + strength * expression_offset
               + sum over units of (weight - strength * recovered strength) * unit

so that the page opens with exactly the reconstruction, whatever the units cannot explain of it.
Lengths travel as 16-bit integers, units only where they move a vertex.
"""

import base64
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

PHOTO_SIDE = 1024  # px, longer side of the photo around the head
PHOTO_MARGIN = 0.3  # how much of the photo shows on each side of the head, in heads
JAVASCRIPT = dict(i2="Int16Array", u1="Uint8Array", u2="Uint16Array", u4="Uint32Array")


@dataclass(frozen=True, eq=False)
class Page:
    """What a page shows: a head of N vertices, coloured by a texture or by its vertices' colours.

    photo: laid behind the mesh by its `camera`: rotation (3, 3), scale px/mm, translation (2,) px
    facts: rows of the panel, name -> text, or -> (text, what it means in one line)
    """

    vertices_neutral: np.ndarray  # (N, 3) mm
    expression_offset: np.ndarray  # (N, 3) mm
    triangles: np.ndarray  # (F, 3)
    units: np.ndarray  # (N, 3, J) mm
    unit_names: Sequence[str]  # J
    unit_strengths: Sequence[float]  # J, as recovered from the photo
    recess: np.ndarray  # (N,) mm behind its place a vertex is drawn
    colours: np.ndarray | None = None  # (N, 3) uint8
    texture: np.ndarray | None = None  # (S, S, 3) uint8
    uv: np.ndarray | None = None  # (N, 2) in [0, 1], from the texture's upper left
    photo: np.ndarray | None = None  # upright, (H, W, 3) uint8
    camera: Mapping | None = None
    facts: Mapping = field(default_factory=dict)
    title: str = "Reconstructed face"


def write_html(path, page):
    """Write a `Page` to `path`; about 1 MB with the default face model.

    Raises ValueError where the face holds numbers that are not finite.
    """
    data = mesh_data(page)
    if page.texture is None:
        data["colours"] = pack(np.asarray(page.colours, np.uint8))
    else:
        data |= dict(texture=jpeg(Image.fromarray(page.texture)), uv=pack(*quantised(page.uv)))
    if page.photo is not None:
        data |= photo_data(page)
    fields = dict(
        title=html.escape(page.title),
        facts="".join(fact_row(name, text) for name, text in page.facts.items()),
        data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
    )
    template = files(__package__).joinpath("viewer.html").read_text(encoding="utf-8")
    # In one pass: what is filled in is not searched
    whole = re.sub(r"\{\{(\w+)\}\}", lambda match: fields[match[1]], template)
    Path(path).write_text(whole, encoding="utf-8")


def mesh_data(page):
    """Shape, triangles and units of a page as its script reads them."""
    index_type = np.uint16 if len(page.vertices_neutral) <= 1 << 16 else np.uint32
    shift, step = quantised(page.units)
    moved = shift.any(1)  # (N, J)
    unit, vertex = np.nonzero(moved.T)
    units = dict(
        names=list(page.unit_names),
        strengths=[round(float(s), 4) for s in page.unit_strengths],
        counts=moved.sum(0).tolist(),
        index=pack(vertex.astype(index_type)),
        shift=pack(shift[vertex, :, unit], step),
    )
    return dict(
        neutral=pack(*quantised(page.vertices_neutral)),
        offset=pack(*quantised(page.expression_offset)),
        triangles=pack(np.asarray(page.triangles).astype(index_type)),
        units=units,
        recess=pack(*quantised(page.recess)),
    )


def photo_data(page):
    """The photo around the head and its camera as the page's script reads them."""
    vertices = page.vertices_neutral.astype(float) + page.expression_offset.astype(float)
    picture, zoom, corner = around(page.photo, vertices, page.camera)
    camera = dict(
        rotation=np.asarray(page.camera["rotation"], float).tolist(),
        scale=float(page.camera["scale"]) * zoom,
        translation=((np.asarray(page.camera["translation"], float) - corner) * zoom).tolist(),
    )
    photo = dict(width=picture.width, height=picture.height, address=jpeg(picture))
    return dict(photo=photo, camera=camera)


def fact_row(name, text):
    text, meaning = text if isinstance(text, tuple) else (text, "")
    small = meaning and f"<small>{html.escape(meaning)}</small>"
    return f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}{small}</dd>"


def quantised(values):
    """`values` as int16 and the step that turns them back, off by half a step at most."""
    values = np.asarray(values, float)
    if not np.isfinite(values).all():
        raise ValueError("the face holds numbers that are not finite, and cannot be shown")
    step = max(float(abs(values).max(initial=0)), 1e-9) / 32767
    return np.round(values / step).astype(np.int16), step


def pack(values, step=None):
    """Integers as the page reads them: JavaScript's type, step, base64 of little-endian bytes."""
    content = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    kind = JAVASCRIPT[values.dtype.str[1:]]
    return dict(type=kind, step=step, base64=base64.b64encode(content).decode())


def jpeg(picture):
    """The address of a PIL picture that a page can hold."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def around(photo, vertices, camera):
    """The part of a photo (H, W, 3) around the head, at most PHOTO_SIDE px, as a PIL picture.

    Then its px per px of the photo, and its upper left corner (2,) px there.
    """
    turned = (vertices @ np.asarray(camera["rotation"], float).T)[:, :2]
    points = float(camera["scale"]) * turned * [1, -1] + np.asarray(camera["translation"], float)
    low, high = points.min(0), points.max(0)
    margin = PHOTO_MARGIN * (high - low).max()
    size = np.array(photo.shape[1::-1])
    corner = np.floor(low - margin).clip(0, size - 1).astype(int)
    end = np.maximum(np.ceil(high + margin).clip(0, size).astype(int), corner + 1)
    picture = Image.fromarray(photo[corner[1] : end[1], corner[0] : end[0]])
    zoom = min(1.0, PHOTO_SIDE / max(picture.size))
    width, height = (max(1, round(side * zoom)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS), zoom, corner
