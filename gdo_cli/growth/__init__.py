"""Growth as a PEFT tuner. Importing this package makes PEFT know the method ``grow``."""

from aenum import extend_enum
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType, register_peft_method

# PEFT accepts only members of its enum (`register_peft_method`), so the enum is extended first.
if "GROW" not in PeftType.__members__:
    extend_enum(PeftType, "GROW", "GROW")

from gdo_cli.growth.config import TYPE_IN_FILES, GrowConfig
from gdo_cli.growth.model import GrowModel

register_peft_method(name="grow", config_cls=GrowConfig, model_cls=GrowModel, prefix=GrowModel.prefix)
PEFT_TYPE_TO_CONFIG_MAPPING[TYPE_IN_FILES] = GrowConfig

__all__ = ["GrowConfig", "GrowModel"]
