"""What a confidence is worth: how many faces of val the review flag marks, and how many of the others are right.

    python tests/benchmarks/review.py         (in the workspace, after `dvc repro parse` on the real FER2013; 20 seconds)

For `label.min_confidence` in params.yaml, with mirror images, as labelling asks by default. Also what these gain on val.
"""

import numpy as np

from tasks.champion import load
from tasks.errors import explained
from tasks.parse import load_split

CONFIDENCES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@explained
def main():
    """Measure and print."""
    faces, labels = load_split("val")
    champion = load()
    probabilities = champion.predict(np.asarray(faces))
    mirrored = (probabilities + champion.predict(np.asarray(faces)[:, :, ::-1])) / 2
    right, confidence = mirrored.argmax(axis=1) == labels, mirrored.max(axis=1)
    plain = probabilities.argmax(axis=1) == labels
    print(f"{champion.version}: {right.mean():.1%} right, with --no-mirror {plain.mean():.1%}")
    for least in CONFIDENCES:
        review = confidence < least
        print(
            f"min_confidence {least}: {review.mean():4.0%} to review, of which {right[review].mean():.0%} are right",
            end="",
        )
        print(f"; of the others {right[~review].mean():.0%}")


if __name__ == "__main__":
    main()
