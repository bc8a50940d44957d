"""The base of every recipe section: immutable, and closed to keys it does not know."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """A recipe section. Unknown keys, wrong types and values out of range raise pydantic's ValidationError."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
