"""Expressions as mixtures of the 52 ARKit units, drawn the way faces move: sparse, mostly symmetric, some units together, some never."""

import numpy as np

# Choice: how often a unit is active; all others 0.12. tongueOut moves no face vertex and mouthClose only corrects jawOpen, so neither is drawn alone.
OFTEN = {
    "jawOpen": 0.38,
    "mouthSmile": 0.30,
    "eyeBlink": 0.18,
    "eyeSquint": 0.18,
    "browInnerUp": 0.2,
    "browOuterUp": 0.2,
    "browDown": 0.2,
    "mouthPucker": 0.1,
    "tongueOut": 0.0,
    "mouthClose": 0.0,
}
EXCLUDE = [
    ("jawLeft", "jawRight"),
    ("mouthLeft", "mouthRight"),
    ("mouthFunnel", "mouthPucker"),
    ("mouthSmile", "mouthFrown"),
    ("mouthSmile", "mouthPucker"),
    ("mouthSmile", "mouthFunnel"),
    ("eyeBlink", "eyeWide"),
    ("browDown", "browOuterUp"),
    ("mouthRollLower", "mouthLowerDown"),
    ("mouthRollUpper", "mouthUpperUp"),
    ("jawForward", "jawOpen"),
]
TOGETHER = [
    ("mouthSmile", "cheekSquint", 0.6),
    ("mouthSmile", "eyeSquint", 0.3),
    ("browDown", "noseSneer", 0.25),
    ("eyeWide", "browInnerUp", 0.4),
    ("jawOpen", "mouthLowerDown", 0.3),
    ("jawOpen", "mouthFunnel", 0.2),
    ("mouthFrown", "browDown", 0.3),
    ("mouthFrown", "mouthShrugLower", 0.4),
    ("mouthUpperUp", "noseSneer", 0.3),
    ("browInnerUp", "browOuterUp", 0.4),
]
ONE_SIDED = ("jawLeft", "jawRight", "mouthLeft", "mouthRight")


def action_of(name):
    """The movement a unit belongs to: its name without Left or Right, unless the side is the movement."""
    if name in ONE_SIDED:
        return name
    return name.removesuffix("Left").removesuffix("Right")


def draw_units(names, rng, neutral=0.1, extreme=0.08):
    """Strengths (J,) in [0, 1] of the units `names` for one random expression.

    neutral: share of faces at rest    extreme: share whose strengths are pushed towards 1
    """
    strengths = np.zeros(len(names), np.float32)
    if rng.random() < neutral:
        return strengths
    actions = sorted({action_of(n) for n in names if not n.startswith("eyeLook")})
    level = {a: rng.beta(1.5, 2.0) if rng.random() < OFTEN.get(a, 0.12) else 0.0 for a in actions}
    for cause, effect, probability in TOGETHER:
        if level.get(cause, 0) and effect in level and rng.random() < probability:
            level[effect] = max(level[effect], level[cause] * rng.uniform(0.3, 1))
    for one, other in EXCLUDE:
        if level.get(one, 0) and level.get(other, 0):
            level[one if rng.random() < 0.5 else other] = 0.0
    if rng.random() < extreme:
        level = {a: v**0.4 for a, v in level.items()}
    gaze_x, gaze_y = rng.normal(0, 0.3, 2).clip(-1, 1)
    lopsided = rng.random() < 0.25
    for j, name in enumerate(names):
        if name.startswith("eyeLook"):
            out = gaze_x if name.endswith("Left") else -gaze_x  # looking to the subject's left
            strengths[j] = max(
                0.0,
                {"Out": out, "In": -out, "Up": gaze_y}.get(
                    name[7:].removesuffix("Left").removesuffix("Right"), -gaze_y
                ),
            )
        else:
            strengths[j] = level[action_of(name)] * (
                rng.uniform(0.3, 1) if lopsided and name != action_of(name) else 1
            )
    return strengths
