"""Base class of all recipe sections."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """An immutable recipe section. Unknown keys, wrong types and invalid values raise pydantic's ValidationError."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
