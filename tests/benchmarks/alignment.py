"""Does it help to turn a tilted face upright before the network sees it?

    python tests/benchmarks/alignment.py        (in the workspace, after `dvc repro parse` on the real FER2013; 4 minutes)

PublicTest faces are enlarged as in framing.py, turned by an angle, found by YuNet, and cut with and without the tilt that its
landmarks tell. Prints, for each angle, how many were found and the champion's accuracy on them in both ways.
"""

import cv2
import numpy as np
from framing import PADDING, SIDE

from tasks import champion
from tasks.errors import explained
from tasks.faces import make_detector
from tasks.images import crop_square, normalise, scale_square
from tasks.parse import load_split

ANGLES = (0, 10, 20, 30, 45)  # degrees


def turned(face, degrees):
    """A face, enlarged and turned, its edge pixels repeated around it, uint8."""
    large = cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    picture = cv2.copyMakeBorder(large, *[2 * PADDING] * 4, cv2.BORDER_REPLICATE)
    middle = (len(picture) - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), degrees, 1.0)
    return cv2.warpAffine(picture, matrix, picture.shape, borderMode=cv2.BORDER_REPLICATE)


@explained
def main():
    """Measure and print."""
    val, labels = load_split("val")
    faces = np.rint(val[..., 0] * 255).astype(np.uint8)
    network, detector = champion.load(), make_detector("yunet")
    for angle in ANGLES:
        signs = np.random.default_rng(0).choice([-1, 1], len(faces))
        shown, upright, aligned = [], [], []
        for face, label, sign in zip(faces, labels, signs, strict=True):
            picture = turned(face, sign * angle)
            for box in detector.detect(picture)[:1]:
                square = detector.framing.square(box)
                shown.append(label)
                upright.append(scale_square(crop_square(picture, *square)))
                aligned.append(scale_square(crop_square(picture, *square, box.tilt)))
        accuracies = [
            (network.predict(normalise(np.stack(crops))).argmax(axis=1) == shown).mean() for crops in (upright, aligned)
        ]
        print(
            f"{angle:2} degrees: {len(shown):,} found; accuracy {accuracies[0]:.1%} as they are, {accuracies[1]:.1%} aligned"
        )


if __name__ == "__main__":
    main()
