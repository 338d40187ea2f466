"""A page with three orthogonal slices of every scan, for the eye."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from datamodules.checks.cohort_check import CohortCheck
from datamodules.checks.likeness import Picture
from datamodules.reading.nifti_bytes import printable

STYLE = """
body { font: 12px sans-serif; background: #111; color: #ccc }
figure { display: inline-block; margin: 4px; vertical-align: top; width: 300px }
figure.error { outline: 2px solid #e44 } figure.warning { outline: 2px solid #ca3 }
figcaption { overflow-wrap: anywhere }
img { width: 300px }
"""


def contact_sheet(cohorts: Sequence[CohortCheck]) -> str:
    """Write the page as HTML without scripts; text of the table is escaped."""
    figures = []
    for cohort in cohorts:
        severities: dict[tuple[str, str], str] = {}
        for problem in reversed(cohort.problems):  # errors come first in the list
            severities[problem.patient_id, problem.image] = problem.severity
        for scan, check in zip(cohort.images, cohort.checks, strict=True):
            severity = severities.get((scan.patient_id, scan.image), "")
            words = [scan.patient_id, scan.session, scan.label, scan.image]
            caption = html.escape(" · ".join(printable(word) for word in words if word))
            picture = f'<img src="{_picture(check.slices)}" alt="">' if check.slices else ""
            figures.append(
                f'<figure class="{severity}">{picture}<figcaption>{caption}</figcaption></figure>'
            )
    return (
        f'<!doctype html><meta charset="utf-8"><title>Contact sheet</title><style>{STYLE}</style>\n'
        + "\n".join(figures)
        + "\n"
    )


def _picture(slices: Sequence[Picture]) -> str:
    """The slices side by side, as a data address."""
    planes = [np.asarray(plane) for plane in slices]
    size = max(max(plane.shape) for plane in planes)
    tiles = []
    for plane in planes:
        room = [size - extent for extent in plane.shape]
        tiles.append(np.pad(plane, [(free // 2, free - free // 2) for free in room]))
    stream = io.BytesIO()
    Image.fromarray(np.hstack(tiles)).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
