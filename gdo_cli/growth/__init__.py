"""Growth as a PEFT tuner. Importing this package makes PEFT know the method ``grow``."""

from aenum import extend_enum
from peft.utils import PeftType, register_peft_method

# PEFT accepts only members of its enum (`register_peft_method`), so the enum is extended first.
if "GROW" not in PeftType.__members__:
    extend_enum(PeftType, "GROW", "GROW")

from gdo_cli.growth.config import GrowConfig
from gdo_cli.growth.model import GrowModel

register_peft_method(name="grow", config_cls=GrowConfig, model_cls=GrowModel, prefix=GrowModel.prefix)

__all__ = ["GrowConfig", "GrowModel"]
