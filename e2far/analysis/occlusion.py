"""Where in the picture an answer is read: cover a place and see how the answer moves."""

import torch


@torch.no_grad()
def occlusion_maps(answers, image, patch=30, stride=15, batch_size=64):
    """Lengths of answer(hidden) - answer(image) when a grey patch hides a place: name -> (h, w).

    answers: images (B, 3, S, S) in [0, 1] -> dict name -> (B, T)    image: (3, S, S)
    patch, stride: px; entry (i, j) is of the patch whose corner is at row i stride, column j stride
    """
    rows, columns = (range(0, side - patch + 1, stride) for side in image.shape[1:])
    corners = torch.cartesian_prod(torch.tensor(rows), torch.tensor(columns))
    reference, changes = answers(image[None]), {}
    for part in corners.split(batch_size):
        hidden = image.repeat(len(part), 1, 1, 1)
        for picture, (y, x) in zip(hidden, part):
            picture[:, y : y + patch, x : x + patch] = 0.5
        for name, answer in answers(hidden).items():
            changes.setdefault(name, []).append((answer - reference[name]).norm(dim=1))
    return {name: torch.cat(x).reshape(len(rows), len(columns)) for name, x in changes.items()}


def remembered(subject, decoders, layers, factors):
    """Answers for `occlusion_maps`: what layers of a subject remember, in mm on the face.

    factors: "identity" and "expression" -> R of `losses.gram_factor`. Names: (kind, layer)
    """

    def answers(images):
        pictures, found = (images * 255).round().byte(), {}
        for layer, x in subject.features(dict(pictures=pictures), layers).items():
            for kind, told in zip(("identity", "expression"), decoders(subject.name, layer, x)):
                found[kind, layer] = told @ factors[kind].T
        return found

    return answers
