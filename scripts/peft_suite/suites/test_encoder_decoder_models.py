"""PEFT's tests on models with an encoder and a decoder."""

from peft_suite.cases import named
from peft_suite.models import TRANSLATORS
from peft_suite.upstream import load, replace_cases

upstream = load("test_encoder_decoder_models")
replace_cases(upstream, "PEFT_ENCODER_DECODER_MODELS_TO_TEST", TRANSLATORS)
replace_cases(upstream, "ALL_CONFIGS", named("SEQ_2_SEQ_LM"))

TestEncoderDecoderModels = upstream.TestEncoderDecoderModels
