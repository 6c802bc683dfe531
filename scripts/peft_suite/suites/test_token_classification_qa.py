"""PEFT's tests on heads that classify tokens and mark answers."""

from peft_suite.cases import named
from peft_suite.models import CLASSIFIERS
from peft_suite.upstream import load, replace_cases

upstream = load("test_token_classification_qa")
replace_cases(upstream, "PEFT_TOKEN_CLS_MODELS_TO_TEST", CLASSIFIERS)
replace_cases(upstream, "TOKEN_CLS_CONFIGS", named("TOKEN_CLS"))
replace_cases(upstream, "QA_CONFIGS", named("QUESTION_ANS"))

TestTokenClassificationModels = upstream.TestTokenClassificationModels
TestQuestionAnsweringModels = upstream.TestQuestionAnsweringModels
