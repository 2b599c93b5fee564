"""What exact copies in Training are worth: published results keep them there, ferflow's trainings do not.

    python tests/benchmarks/twins.py         (in the workspace, after `dvc repro parse` on the real FER2013; 20 seconds)

How many faces of val and test Training shows, too, and how often with their label. And for val, how many the champion, which
has seen no copy, has right, and how many it would have if it answered copies as a network does that remembers them: by the
label that they have in Training.
"""

from collections import Counter

import numpy as np

from tasks.champion import load
from tasks.errors import explained
from tasks.parse import load_split, open_table, parse_rows
from tasks.paths import INGESTED


def remembered():
    """For val and test, the label that Training has most often for each of the split's faces, (N,); -1 where it has none."""
    table = open_table(INGESTED / "faces.parquet")
    faces, _ = parse_rows(table.iter_batches(), table.metadata.num_rows)
    keys = np.array([face.tobytes() for face in faces.pixels], object)
    known = {}
    for key, label in zip(*(part[faces.splits == "train"] for part in (keys, faces.labels)), strict=True):
        known.setdefault(key, Counter())[label] += 1
    return {
        split: np.array(
            [known[key].most_common(1)[0][0] if key in known else -1 for key in keys[faces.splits == split]]
        )
        for split in ("val", "test")
    }


@explained
def main():
    """Count, measure on val, and print."""
    answers = remembered()
    for split, answer in answers.items():
        labels = load_split(split)[1]
        copies = answer >= 0
        print(
            f"{split}: {copies.sum()} of {len(labels):,} faces ({copies.mean():.1%}) have copies in Training, "
            f"{(answer == labels)[copies].mean():.0%} with the same label"
        )
    champion = load()
    faces, labels = load_split("val")
    plain, mirrored = champion.predict(np.asarray(faces)), champion.predict(np.asarray(faces)[:, :, ::-1])
    copies = answers["val"] >= 0
    for name, probabilities in (("", plain), (", with mirror images", plain + mirrored)):
        right = probabilities.argmax(axis=1) == labels
        leaking = np.where(copies, answers["val"] == labels, right)
        print(
            f"{champion.version} on val{name}: {right.mean():.1%} right, {right[copies].mean():.1%} of the copied and "
            f"{right[~copies].mean():.1%} of the others; if it remembered the copies, {leaking.mean():.1%}"
        )


if __name__ == "__main__":
    main()
