"""The page of `ferflow live`: one document with its style and its script inside, from the parts live.* in tasks/page/.

It is the report's sister: it shares the report's style, and like it has its texts in English and in Portuguese.
"""

import json
import re

from tasks.expressions import COLOURS, EXPRESSIONS
from tasks.report import LABELS_IN_PORTUGUESE, checksum, page_json, part

STYLES = ("page.css", "live.css")
SCRIPTS = ("common.js", "live.js")


def live_page(camera: str, champion: str) -> tuple[str, str]:
    """The document, and the policy that lets it run its own script and talk to its own server, and nothing else.

    Args:
        camera: its name, to show.
        champion: the version of the model, likewise.
    """
    style = "\n".join(map(part, STYLES))
    script = "\n".join(map(part, SCRIPTS))
    known = {
        "camera": camera,
        "champion": champion,
        "expressions": EXPRESSIONS,
        "colours": [COLOURS[name] for name in EXPRESSIONS],
        "portuguese": json.loads(part("live_portuguese.json")) | LABELS_IN_PORTUGUESE,
    }
    parts = {"style": style, "script": script, "known": page_json(known)}
    document = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], part("live.html"))
    policy = (
        f"default-src 'none'; script-src '{checksum(script)}'; style-src '{checksum(style)}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return document, policy
