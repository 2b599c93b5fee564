"""The labelling flow on a bucket: what the command line writes, with Prefect's shards between."""

import cv2
import numpy as np
from conftest import CHAMPION
from s3_network import BUCKET

from flows.label import label_photos
from tasks.folder import label_folder

PHOTOS, OUT = f"s3://{BUCKET}/photos", f"s3://{BUCKET}/labels"


def test_a_flow_from_bucket_to_bucket(prefect, bucket, tmp_path):
    from prefect.artifacts import Artifact

    for number in range(70):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 48), np.uint8)
        bucket.put(f"photos/{number:02}.png", cv2.imencode(".png", cv2.GaussianBlur(pixels, (0, 0), 4))[1].tobytes())
    label_folder([PHOTOS], tmp_path / "out", champion=CHAMPION)
    bucket.proxy.requests.clear()
    first = label_photos([PHOTOS], OUT, champion=str(CHAMPION))
    assert first["images"]["status"] == {"ok": 70}
    assert bucket.get("labels/faces.csv") == (tmp_path / "out" / "faces.csv").read_bytes()
    assert [key for key in sorted(bucket.proxy.read()) if key.startswith("photos/")] == bucket.keys("photos/")
    assert Artifact.get("label-report").data == f"[{OUT}/report.html]({OUT}/report.html)"
    again = label_photos([PHOTOS], OUT, champion=str(CHAMPION))["images"]
    assert (again["labelled"], again["reused"]) == (0, 70)
    state = label_photos([PHOTOS], "s3://no-such-bucket/labels", champion=str(CHAMPION), return_state=True)
    assert state.is_failed()
    assert "no such bucket" in state.message
