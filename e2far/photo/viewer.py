"""One HTML page for one reconstructed face: the head to turn and animate in a browser.

It needs no network, plugin or library; `viewer.html` holds the page and its WebGL:

    vertices = neutral + strength * (expression in the photo)
               + sum over units of (weight - strength * recovered strength) * unit

so that the page opens with exactly the reconstruction, whatever the units cannot explain of it.
Lengths travel as 16-bit integers, units only where they move a vertex.
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

from e2far.photo.confidence import GOOD
from e2far.photo.units import unit_strengths
from e2far.photo.unwrapping import as_array, unwrap

PHOTO_SIDE = 1024  # px, longer side of the photo around the head
PHOTO_MARGIN = 0.3  # how much of the photo shows on each side of the head, in heads
JAVASCRIPT = dict(i2="Int16Array", u1="Uint8Array", u2="Uint16Array", u4="Uint32Array")


def write_html(path, face, photo, texture, title):
    """Write the page of a `face.Face` to `path`; about 1 MB with the default face model.

    photo: its, upright, (H, W, 3) uint8    texture: the head's, (S, S, 3) uint8
    Raises ValueError where the face holds numbers that are not finite.
    """
    fields = dict(
        title=html.escape(title),
        facts="".join(fact_row(*fact) for fact in facts(face)),
        data=json.dumps(mesh_data(face, texture) | photo_data(face, photo)).replace("<", "\\u003c"),
    )
    template = files(__package__).joinpath("viewer.html").read_text(encoding="utf-8")
    # In one pass: what is filled in is not searched
    whole = re.sub(r"\{\{(\w+)\}\}", lambda match: fields[match[1]], template)
    Path(path).write_text(whole, encoding="utf-8", errors="replace")  # names may not be UTF-8


def mesh_data(face, texture):
    """The head as the page's script reads it, torn where its texture asks for it."""
    uv, vertex, triangles = unwrap(face.model)
    units = as_array(face.model.units)[vertex]
    moved = units.any(1)  # (N, J)
    unit, at = np.nonzero(moved.T)
    return dict(
        neutral=lengths(face.neutral_vertices[vertex]),
        offset=lengths((face.vertices - face.neutral_vertices)[vertex]),
        recess=lengths(as_array(face.model.recess)[vertex]),
        triangles=packed(triangles),
        texture=jpeg(Image.fromarray(texture)),
        uv=lengths(uv),
        units=dict(
            names=list(face.model.unit_names),
            strengths=unit_strengths(face, face.model)[0].tolist(),
            counts=moved.sum(0).tolist(),
            index=packed(at),
            shift=lengths(units[at, :, unit]),
        ),
    )


def photo_data(face, photo):
    """The photo around the head and its camera as the page's script reads them."""
    picture, zoom, corner = around(photo, face.pose.project(face.vertices))
    camera = dict(
        rotation=face.pose.rotation.tolist(),
        scale=face.pose.scale * zoom,
        translation=((face.pose.translation - corner) * zoom).tolist(),
    )
    photo = dict(width=picture.width, height=picture.height, address=jpeg(picture))
    return dict(photo=photo, camera=camera)


def facts(face):
    """Rows of the page's panel: name, text and what it means, in words."""
    words = (
        ("to its left", "to its right"),
        ("down", "up"),
        ("tilted to its right", "tilted to its left"),
    )
    turns = zip(face.pose.angles_deg, words)
    yield "Head turned", ", ".join(f"{abs(a):.0f}° {way[bool(a < 0)]}" for a, way in turns), ""
    if (sure := face.confidence) is not None:
        usual = (
            "The chance that this is a photo of a face, and that eyes, nose and mouth are off by "
            f"less than {GOOD:.0f} % of its size. It does not say how like the person "
            "the shape is."
        )
        warning = "Doubtful: this may be no photo of a face. Do not trust it."
        yield "How sure, 0 to 1", f"{sure.score:.2f}", warning if sure.doubtful else usual


def fact_row(name, text, meaning):
    small = meaning and f"<small>{html.escape(meaning)}</small>"
    return f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}{small}</dd>"


def lengths(values):
    """Numbers as `packed` int16, and the step that turns them back, off by half a step at most."""
    if not np.isfinite(values).all():
        raise ValueError("the face holds numbers that are not finite, and cannot be shown")
    step = max(float(abs(values).max(initial=0)), 1e-9) / 32767
    return packed(np.round(values / step), np.dtype("i2")) | dict(step=step)


def packed(values, kind=None):
    """Whole numbers as the page reads them: JavaScript's type and base64 of little-endian bytes.

    kind: their dtype; default: the smallest for numbers from zero up
    """
    kind = kind or np.min_scalar_type(values.max(initial=0))
    content = values.astype(kind.newbyteorder("<")).tobytes()
    return dict(type=JAVASCRIPT[kind.str[1:]], base64=base64.b64encode(content).decode())


def jpeg(picture):
    """The address of a PIL picture that a page can hold."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def around(photo, points):
    """The part of a photo (H, W, 3) around `points` (N, 2), at most PHOTO_SIDE px, as a picture.

    Then its px per px of the photo, and its upper left corner (2,) px there.
    """
    low, high = points.min(0), points.max(0)
    margin = PHOTO_MARGIN * (high - low).max()
    size = np.array(photo.shape[1::-1])
    corner = np.floor(low - margin).clip(0, size - 1).astype(int)
    end = np.maximum(np.ceil(high + margin).clip(0, size).astype(int), corner + 1)
    picture = Image.fromarray(photo[corner[1] : end[1], corner[0] : end[0]])
    zoom = min(1.0, PHOTO_SIDE / max(picture.size))
    width, height = (max(1, round(side * zoom)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS), zoom, corner
