"""Procedurally generated default dataset: images of articulated people in COCO's folder layout and JSON format.

    python -m pipeline.synthetic --out data/demo --train 3000 --val 200

It also serves for scale tests: it generates any number of images of any size, or only their annotations.
"""

from pipeline.synthetic.dataset import generate

__all__ = ["generate"]
