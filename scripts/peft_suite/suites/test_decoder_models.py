"""PEFT's tests on causal language models."""

from peft_suite.cases import decoders
from peft_suite.models import DECODERS
from peft_suite.upstream import load, replace_cases

upstream = load("test_decoder_models")
replace_cases(upstream, "PEFT_DECODER_MODELS_TO_TEST", DECODERS)
replace_cases(upstream, "ALL_CONFIGS", decoders())
# It means to leave out models without biases where BEFT is tested, but asks a class whether it is an
# instance: so Llama and Gemma 3 would be left out, and GPT-J's targets changed, for every method.
upstream.check_beft_config = lambda config_cls, model_id, config_kwargs: None

TestDecoderModels = upstream.TestDecoderModels
