"""The embedded default dataset: procedural pictures of articulated people in the exact layout and json of COCO.

    python -m pipeline.synthetic --out data/demo --train 3000 --val 200

Also a scale test: any number of pictures of any size, or their annotations alone.
"""

from pipeline.synthetic.dataset import generate

__all__ = ["generate"]
