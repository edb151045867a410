"""One HTML page for one reconstructed face: the head to turn and animate in a browser, without network, plugin or library (`viewer.html` holds the page and its WebGL).

    vertices = neutral + strength * expression_offset + sum over units of (weight - strength * recovered strength) * unit

so that the page opens with exactly the reconstruction, whatever the units cannot explain of it. Lengths travel as 16-bit integers, units only where they move a vertex.
"""

import base64
import html
import io
import json
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

PHOTO_SIDE = 1024  # px, longer side of the photo around the head
PHOTO_MARGIN = 0.3  # how much of the photo shows on each side of the head, in heads


def write_html(
    path,
    *,
    vertices_neutral,
    expression_offset,
    triangles,
    units=None,
    unit_names=(),
    unit_strengths=(),
    colours=None,
    photo=None,
    camera=None,
    facts=None,
    title="Reconstructed face",
    texture=None,
    uv=None,
    recess=None,
):
    """Write the page to `path`; about 1 MB with the default face model. Raises ValueError where arrays do not belong together.

    vertices_neutral, expression_offset: (N, 3) mm    triangles: (F, 3)    units: (N, 3, J) mm with J `unit_names` and their recovered `unit_strengths`
    colours: (N, 3) uint8    texture: (S, S, 3) uint8 with `uv` (N, 2) in [0, 1] from its upper left, instead of them    recess: (N,) mm behind its place a vertex is drawn
    photo: upright (H, W, 3) uint8, laid behind the mesh by its `camera`: dict of rotation (3, 3), scale px/mm and translation (2,) px, as in `face.Pose`
    facts: rows of the panel, name -> text, or -> (text, what it means in one line)
    """
    vertices, offset, triangles = (
        np.asarray(vertices_neutral, float),
        np.asarray(expression_offset, float),
        np.asarray(triangles),
    )
    n = len(vertices)
    units = np.zeros((n, 3, 0)) if units is None else np.asarray(units, float)
    j = len(unit_names)
    for name, values, shape in (
        ("vertices_neutral", vertices, (n, 3)),
        ("expression_offset", offset, (n, 3)),
        ("triangles", triangles, (len(triangles), 3)),
        ("units", units, (n, 3, j)),
        ("unit_strengths", unit_strengths, (j,)),
        ("colours", colours, (n, 3)),
        ("uv", uv, (n, 2)),
        ("recess", recess, (n,)),
    ):
        if values is not None and np.shape(values) != shape:
            raise ValueError(
                f"{name} has shape {np.shape(values)}: expected {shape} for {n} vertices and {j} unit names"
            )
    if (photo is None) != (camera is None) or (texture is None) != (uv is None):
        raise ValueError("a photo needs its camera, and a texture its uv: give both or neither")
    if triangles.size and not 0 <= triangles.min() <= triangles.max() < n:
        raise ValueError(f"triangles name vertices that are not among the {n}")
    index_type = np.uint16 if n <= 1 << 16 else np.uint32
    whole, step = quantised(units)
    moved = whole.any(1)  # (N, J)
    unit, vertex = np.nonzero(moved.T)
    data = dict(
        neutral=pack(*quantised(vertices)),
        offset=pack(*quantised(offset)),
        triangles=pack(triangles.astype(index_type)),
        units=dict(
            names=list(unit_names),
            strengths=[round(float(s), 4) for s in unit_strengths],
            counts=moved.sum(0).tolist(),
            index=pack(vertex.astype(index_type)),
            shift=pack(whole[vertex, :, unit], step),
        ),
    )
    if recess is not None:
        data["recess"] = pack(*quantised(recess))
    if texture is not None:
        data.update(texture=jpeg(Image.fromarray(np.asarray(texture))), uv=pack(*quantised(uv)))
    elif colours is not None:
        data["colours"] = pack(np.asarray(colours, np.uint8))
    if photo is not None and camera is not None:
        picture, zoom, corner = around(np.asarray(photo), vertices + offset, camera)
        data["photo"] = dict(width=picture.width, height=picture.height, address=jpeg(picture))
        data["camera"] = dict(
            rotation=np.asarray(camera["rotation"], float).tolist(),
            scale=float(camera["scale"]) * zoom,
            translation=((np.asarray(camera["translation"], float) - corner) * zoom).tolist(),
        )
    rows = []
    for name, text in (facts or {}).items():
        text, meaning = text if isinstance(text, tuple) else (text, "")
        rows.append(
            f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(text))}{meaning and f'<small>{html.escape(meaning)}</small>'}</dd>"
        )
    fields = dict(
        title=html.escape(title),
        facts="".join(rows),
        data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
    )
    page = files(__package__).joinpath("viewer.html").read_text(encoding="utf-8")
    Path(path).write_text(
        re.sub(r"\{\{(\w+)\}\}", lambda match: fields[match[1]], page), encoding="utf-8"
    )  # in one pass: what is filled in is not searched


def quantised(values):
    """`values` as int16 and the step that turns them back; they differ by at most half a step, 1 / 65534 of the largest."""
    values = np.asarray(values, float)
    if not np.isfinite(values).all():
        raise ValueError("the face holds numbers that are not finite, and cannot be shown")
    step = max(float(abs(values).max(initial=0)), 1e-9) / 32767
    return np.round(values / step).astype(np.int16), step


def pack(values, step=None):
    """Integers as the page reads them: type of the JavaScript array, base64 of the little-endian bytes, step."""
    kind = {"i2": "Int16Array", "u1": "Uint8Array", "u2": "Uint16Array", "u4": "Uint32Array"}[
        values.dtype.str[1:]
    ]
    return dict(
        type=kind,
        step=step,
        base64=base64.b64encode(
            np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
        ).decode(),
    )


def jpeg(picture):
    """The address of a PIL picture that a page can hold."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def around(photo, vertices, camera):
    """The part of a photo (H, W, 3) around the head as a PIL picture of at most `PHOTO_SIDE` px, its px per px of the photo, and its upper left corner (2,) px there."""
    points = float(camera["scale"]) * (vertices @ np.asarray(camera["rotation"], float).T)[
        :, :2
    ] * [1, -1] + np.asarray(camera["translation"], float)
    low, high = points.min(0), points.max(0)
    margin = PHOTO_MARGIN * (high - low).max()
    size = np.array(photo.shape[1::-1])
    corner = np.floor(low - margin).clip(0, size - 1).astype(int)
    end = np.maximum(np.ceil(high + margin).clip(0, size).astype(int), corner + 1)
    picture = Image.fromarray(photo[corner[1] : end[1], corner[0] : end[0]])
    width, height = picture.size
    zoom = min(1.0, PHOTO_SIDE / max(width, height))
    return (
        picture.resize(
            (max(1, round(width * zoom)), max(1, round(height * zoom))), Image.Resampling.LANCZOS
        ),
        zoom,
        corner,
    )
