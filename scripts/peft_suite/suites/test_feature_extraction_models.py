"""PEFT's tests on encoders without a head."""

from peft_suite.cases import named
from peft_suite.models import ENCODERS
from peft_suite.upstream import load, replace_cases

upstream = load("test_feature_extraction_models")
replace_cases(upstream, "PEFT_FEATURE_EXTRACTION_MODELS_TO_TEST", ENCODERS)
replace_cases(upstream, "ALL_CONFIGS", named("FEATURE_EXTRACTION"))

TestPeftFeatureExtractionModel = upstream.TestPeftFeatureExtractionModel
