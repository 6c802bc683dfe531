"""PEFT's tests on loading and naming, in which LoRA stands for any method."""

from peft_suite.cases import like_lora
from peft_suite.upstream import load

ALSO = (
    "TestNoInfiniteRecursionDeepspeed",
    "TestCustomModelConfigWarning",
    "TestLowCpuMemUsage",
    "test_from_pretrained_missing_keys_warning",
)

upstream = load("test_initialization")
upstream.LoraConfig = like_lora

TestNoInfiniteRecursionDeepspeed = upstream.TestNoInfiniteRecursionDeepspeed
TestCustomModelConfigWarning = upstream.TestCustomModelConfigWarning
TestLowCpuMemUsage = upstream.TestLowCpuMemUsage
test_from_pretrained_missing_keys_warning = upstream.test_from_pretrained_missing_keys_warning
