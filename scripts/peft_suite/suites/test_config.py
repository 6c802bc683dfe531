"""PEFT's tests on configurations."""

from gdo_cli.growth import GrowConfig
from peft_suite.upstream import load, replace_cases

upstream = load("test_config")
replace_cases(upstream, "ALL_CONFIG_CLASSES", [(GrowConfig, {})])
replace_cases(upstream, "LAYER_INDEXING_CONFIG_CLASSES", [(GrowConfig, {})])

TestPeftConfig = upstream.TestPeftConfig
