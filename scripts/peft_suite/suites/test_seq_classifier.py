"""PEFT's tests on classifiers of sequences."""

from peft_suite.cases import named
from peft_suite.models import CLASSIFIERS
from peft_suite.upstream import load, replace_cases

upstream = load("test_seq_classifier")
replace_cases(upstream, "PEFT_SEQ_CLS_MODELS_TO_TEST", CLASSIFIERS)
replace_cases(upstream, "ALL_CONFIGS", named("SEQ_CLS"))

TestSequenceClassificationModels = upstream.TestSequenceClassificationModels
