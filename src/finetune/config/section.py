"""Base of the sections of hyperparameters, which one stage of a job each receives."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from finetune.config.values import infer_format, parse_value


class Section(BaseModel):
    """Hyperparameters of one stage of the job; values may be given as text."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)

    @field_validator("*", mode="before")
    @classmethod
    def parse_text(cls, value: object, info: ValidationInfo) -> object:
        """Convert text to the field's type, so that only ranges remain to be checked."""
        if not isinstance(value, str):
            return value
        return parse_value(value, infer_format(cls.model_fields[str(info.field_name)].annotation))
