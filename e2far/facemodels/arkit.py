"""Expressions as mixtures of the 52 ARKit units, drawn the way faces move.

Sparse, mostly symmetric, some units together, some never.
"""

import numpy as np

# Choice: how often a unit is active; all others 0.12. tongueOut moves no face vertex and
# mouthClose only corrects jawOpen, so neither is drawn alone.
# fmt: off
OFTEN = {
    "jawOpen": 0.38, "mouthSmile": 0.30, "eyeBlink": 0.18, "eyeSquint": 0.18, "browInnerUp": 0.2,
    "browOuterUp": 0.2, "browDown": 0.2, "mouthPucker": 0.1, "tongueOut": 0.0, "mouthClose": 0.0,
}
EXCLUDE = [
    ("jawLeft", "jawRight"), ("mouthLeft", "mouthRight"), ("mouthFunnel", "mouthPucker"),
    ("mouthSmile", "mouthFrown"), ("mouthSmile", "mouthPucker"), ("mouthSmile", "mouthFunnel"),
    ("eyeBlink", "eyeWide"), ("browDown", "browOuterUp"), ("mouthRollLower", "mouthLowerDown"),
    ("mouthRollUpper", "mouthUpperUp"), ("jawForward", "jawOpen"),
]
TOGETHER = [  # cause, effect, probability
    ("mouthSmile", "cheekSquint", 0.6), ("mouthSmile", "eyeSquint", 0.3),
    ("browDown", "noseSneer", 0.25), ("eyeWide", "browInnerUp", 0.4),
    ("jawOpen", "mouthLowerDown", 0.3), ("jawOpen", "mouthFunnel", 0.2),
    ("mouthFrown", "browDown", 0.3), ("mouthFrown", "mouthShrugLower", 0.4),
    ("mouthUpperUp", "noseSneer", 0.3), ("browInnerUp", "browOuterUp", 0.4),
]
# fmt: on
EXTREME = 0.08  # share of faces whose strengths are pushed towards 1
ONE_SIDED = ("jawLeft", "jawRight", "mouthLeft", "mouthRight")


def action_of(name):
    """The movement a unit belongs to: its name without its side, unless that is the movement."""
    return name if name in ONE_SIDED else name.removesuffix("Left").removesuffix("Right")


def draw_units(names, rng, neutral=0.1):
    """Strengths (J,) in [0, 1] of the units `names` for one random expression.

    neutral: share of faces at rest
    """
    strengths = np.zeros(len(names), np.float32)
    if rng.random() < neutral:
        return strengths
    level = draw_levels(sorted({action_of(n) for n in names if not n.startswith("eyeLook")}), rng)
    if rng.random() < EXTREME:
        level = {action: strength**0.4 for action, strength in level.items()}
    gaze_x, gaze_y = rng.normal(0, 0.3, 2).clip(-1, 1)
    lopsided = rng.random() < 0.25
    for j, name in enumerate(names):
        action = action_of(name)
        if name.startswith("eyeLook"):
            out = gaze_x if name.endswith("Left") else -gaze_x  # looking to the subject's left
            towards = {"Out": out, "In": -out, "Up": gaze_y}  # else down
            strengths[j] = max(0.0, towards.get(action.removeprefix("eyeLook"), -gaze_y))
        else:
            fraction = rng.uniform(0.3, 1) if lopsided and name != action else 1
            strengths[j] = level[action] * fraction
    return strengths


def draw_levels(actions, rng):
    """Action -> strength in [0, 1], the same on both sides of the face."""
    level = {a: rng.beta(1.5, 2.0) if rng.random() < OFTEN.get(a, 0.12) else 0.0 for a in actions}
    for cause, effect, probability in TOGETHER:
        if level.get(cause, 0) and effect in level and rng.random() < probability:
            level[effect] = max(level[effect], level[cause] * rng.uniform(0.3, 1))
    for one, other in EXCLUDE:
        if level.get(one, 0) and level.get(other, 0):
            level[one if rng.random() < 0.5 else other] = 0.0
    return level
