"""How FER2013 frames its faces, as a detector's box sees them: where the constants in tasks/faces.py come from.

    python tests/benchmarks/framing.py        (in the workspace, after `dvc repro parse` on the real FER2013; 2 minutes)

Every PublicTest face is enlarged to 192 px, its edge pixels are repeated outwards by a quarter of its side so that the
detector sees a face in a picture, and the best box is compared with the original frame, which is the wanted crop. Prints,
for each detector: faces found, the median box, the scale and shift that turn boxes into frames, how well the frames
predicted with each possible yardstick overlap with the true one (intersection over union), and that with the constants
in use.
"""

import cv2
import numpy as np

from tasks.errors import explained
from tasks.faces import DETECTORS, Framing, make_detector
from tasks.parse import load_split

SIDE = 192  # px, of an enlarged face
PADDING = SIDE // 4


def boxes_of(name, faces):
    """Best boxes, (M, 4), in sides of the true frame: x, y, width, height; faces uint8 (N, 48, 48)."""
    detector = make_detector(name)
    found = []
    for face in faces:
        large = cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        picture = cv2.copyMakeBorder(large, *[PADDING] * 4, cv2.BORDER_REPLICATE)
        boxes = detector.detect(picture)
        if boxes:
            best = max(boxes, key=lambda box: box.score)
            found.append([(best.x - PADDING) / SIDE, (best.y - PADDING) / SIDE, best.width / SIDE, best.height / SIDE])
    return np.array(found)


def overlap(boxes, yardstick, framing):
    """Intersection over union of predicted and true frames, (M,)."""
    x, y, width, height = boxes.T
    side = framing.scale * yardstick
    left, top = x + width / 2 - side / 2, y + height * (0.5 + framing.shift) - side / 2
    shared = [np.clip(np.minimum(start + side, 1) - np.maximum(start, 0), 0, None) for start in (left, top)]
    shared = shared[0] * shared[1]
    return shared / (1 + side**2 - shared)


@explained
def main():
    """Measure and print."""
    val, _ = load_split("val")
    faces = np.rint(val[..., 0] * 255).astype(np.uint8)
    for name in DETECTORS:
        boxes = boxes_of(name, faces)
        _, y, width, height = boxes.T
        print(f"{name}: {len(boxes) / len(faces):.1%} found; median box {np.round(np.median(boxes, axis=0), 3)}")
        shift = float(np.median((0.5 - y - height / 2) / height))
        yardsticks = {"width": width, "height": height, "root of area": np.sqrt(width * height)}
        for label, yardstick in yardsticks.items():
            framing = Framing(float(np.median(1 / yardstick)), shift)
            share = overlap(boxes, yardstick, framing)
            print(f"  by {label:12}  scale {framing.scale:.3f}  shift {shift:+.3f}  overlap {share.mean():.3f}", end="")
            print(f" (worst tenth under {np.percentile(share, 10):.3f})")
        in_use = make_detector(name).framing
        print(f"  in use: {in_use}, overlap {overlap(boxes, yardsticks['root of area'], in_use).mean():.3f}")


if __name__ == "__main__":
    main()
