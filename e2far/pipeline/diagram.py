"""A drawing of the network as SVG: trunk, grids, fusion-CNN, heads and loss."""

from torch import nn

from e2far.trunks import map_sizes

INKS = ("#000000", "#0072B2", "#D55E00")  # of the sizes of each network
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 390" width="960"
 font-family="DejaVu Sans, Verdana, Arial, sans-serif" font-size="13.5" text-anchor="middle">
<defs><marker id="tip" markerWidth="7" markerHeight="6" refX="6" refY="3" orient="auto">
<path d="M0,0 L7,3 L0,6 z" fill="#666666"/></marker></defs>
<rect width="960" height="390" fill="#FFFFFF"/>"""
CENTRES, SIDES = (46, 136, 222, 306, 388, 466), (72, 62, 56, 50, 44, 36)  # px; the image first
FUSED, TRUNK, POSE = 108, 222, 336  # heights of the three rows
LOSS = {FUSED: "λ ‖W(β̂ − β)‖² / N", TRUNK: "‖U(α̂ − α)‖² / N", POSE: "landmarks, %²"}


def network_svg(networks):
    """SVG text of `networks` (caption -> E2FAR, of one plan, with a fusion-CNN): the grids of the
    first, and the sizes of each in its ink; 512×11² is 512 channels of 11 x 11 cells."""
    sizes = [_sizes(net) for net in networks.values()]
    first = next(iter(networks.values()))
    layers = list(sizes[0]["maps"])
    parts = [HEAD, _text(10, 150, "trunk: 13 convolutions 3×3", anchor="start", weight="bold")]
    for row, (caption, ink) in enumerate(zip(networks, INKS)):
        parts.append(_text(10, 32 + 20 * row, caption, ink, anchor="start", weight="bold"))
    for i, (layer, x, side) in enumerate(zip(layers, CENTRES, SIDES)):
        parts.append(_grid(x, TRUNK, side, sizes[0]["maps"][layer][1]))
        parts.append(_labels(x, TRUNK + 56, layer, [_size(one["maps"][layer]) for one in sizes]))
        if i:
            parts.append(
                _arrow(CENTRES[i - 1] + SIDES[i - 1] / 2 + 3, TRUNK, f"H{x - side / 2 - 3}")
            )
    parts += _fusion(layers, first, sizes)
    parts.append(_arrow(487, TRUNK, "H672"))
    parts.append(_arrow(580, TRUNK, f"V{POSE} H672"))
    for y, name in ((FUSED, "expression"), (TRUNK, "identity"), (POSE, "pose")):
        parts.append(_box(676, y - 34, 138, 68))
        parts.append(_labels(745, y - 14, f"{name} head", [one[name] for one in sizes]))
        parts.append(_arrow(815, y, "H828"))
        parts += [_box(830, y - 17, 126, 34), _text(893, y + 5, LOSS[y], size=13)]
    parts += [
        _text(893, y, "+", size=18) for y in ((FUSED + TRUNK) / 2 + 6, (TRUNK + POSE) / 2 + 6)
    ]
    return "\n".join([*parts, _text(893, POSE + 40, "= loss", weight="bold"), "</svg>\n"])


def _sizes(net):
    """What is printed of a network: of its maps, and of its heads by name."""
    maps = dict(image=(3, net.image_size)) | map_sizes(net.trunk, net.image_size)
    found = dict(maps=maps, fused=(net.fusion.branches[0][1][0].out_channels, maps[net.top][1]))
    for name in ("identity", "expression", "pose"):
        linear = [x for x in getattr(net, f"{name}_head") if isinstance(x, nn.Linear)]
        found[name] = ", ".join(str(x.out_features) for x in linear)
    return found


def _fusion(layers, net, sizes):
    """The fusion-CNN, above the trunk, with its arrows from two layers and to its head."""
    early, last = (CENTRES[layers.index(layer)] for layer in net.fused)
    side = sizes[0]["fused"][1]
    conv6, conv7 = FUSED - 34, FUSED + 36
    return [
        _box(492, 26, 168, 176, "#F3F3F3"),
        _text(576, 45, "fusion-CNN", weight="bold"),
        *(_grid(536, y, 34, side) for y in (conv6, conv7)),
        _text(536, conv6 + 32, "conv6, 5×5"),
        _text(536, conv7 + 32, "conv7, 1×1"),
        _grid(618, FUSED, 34, side),
        _labels(618, FUSED + 34, "conv8", [_size(one["fused"]) for one in sizes]),
        _arrow(early, TRUNK - 27, f"V{conv6} H516"),
        _arrow(last, TRUNK - 23, f"V{conv7} H516"),
        _arrow(555, conv6, f"L598,{FUSED - 6}"),
        _arrow(555, conv7, f"L598,{FUSED + 6}"),
        _arrow(637, FUSED, "H672"),
    ]


# ---- shapes --------------------------------------------------------------------------------------


def _size(maps):
    return f"{maps[0]}×{maps[1]}²"


def _text(x, y, text, ink="#000000", size=13.5, anchor="middle", weight="normal"):
    look = f'fill="{ink}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text x="{x}" y="{y}" {look}>{text}</text>'


def _labels(x, y, title, lines):
    """A bold title, and below it a line in the ink of each network."""
    parts = [_text(x, y, title, weight="bold")]
    parts += [_text(x, y + 17 * i, *one) for i, one in enumerate(zip(lines, INKS), 1)]
    return "\n".join(parts)


def _box(x, y, width, height, fill="#FFFFFF"):
    place = f'x="{x}" y="{y}" width="{width}" height="{height}"'
    return f'<rect {place} rx="6" fill="{fill}" stroke="#666666"/>'


def _arrow(x, y, way):
    look = 'fill="none" stroke="#666666" stroke-width="1.6" marker-end="url(#tip)"'
    return f'<path d="M{x},{y} {way}" {look}/>'


def _grid(x, y, side, cells):
    """A square of `cells` x `cells`, which are drawn where they are wider than 2 px."""
    left, top, step = x - side / 2, y - side / 2, side / cells
    square = f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="#CFE3F1"/>'
    lines = [k * step for k in range(cells + 1)] if step > 2 else (0, side)
    ways = (f"M{left + k:.1f},{top}v{side} M{left},{top + k:.1f}h{side}" for k in lines)
    return f'{square}<path d="{" ".join(ways)}" stroke="#3B6E91" stroke-width="0.8"/>'
