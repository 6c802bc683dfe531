"""PEFT's tests on small modules that are no language models."""

from typing import Any

import torch
from torch import Tensor, nn

from peft_suite.cases import LoneColumn, custom, several
from peft_suite.upstream import load, replace_cases

upstream = load("test_custom_models")


class Block(nn.Module):
    """PEFT's block of DeepMLP, with a layer that reads ``lin0`` and nothing else."""

    def __init__(self, bias: bool = True, size: int = 10) -> None:
        super().__init__()
        self.lin0 = nn.Linear(size, size, bias=bias)
        self.row = nn.Linear(size, size, bias=bias)
        self.lin1 = nn.Linear(size, size, bias=bias)

    def forward(self, X: Tensor) -> Tensor:
        out: Tensor = self.lin1(self.row(torch.relu(self.lin0(X.float()))))
        return out


class SavedHead(nn.Module):
    """An MLP as PEFT's, and a head behind it that ``modules_to_save`` may name."""

    def __init__(self) -> None:
        super().__init__()
        self.dtype = torch.float
        self.lin0 = nn.Linear(10, 20)
        self.lin1 = nn.Linear(20, 10)
        self.head = nn.Linear(10, 2)

    def forward(self, X: Tensor) -> Tensor:
        hidden = self.lin1(torch.relu(self.lin0(X.to(self.dtype))))
        return torch.log_softmax(self.head(hidden), dim=-1)


class OwnModels(upstream.MockTransformerWrapper):  # type: ignore[misc, name-defined]
    """PEFT's models by name, and ours."""

    @classmethod
    def from_pretrained(cls, model_id: str, dtype: Any = None) -> Any:
        if model_id == "SavedHead":
            torch.manual_seed(0)
            return SavedHead().to(dtype or torch.float32)
        return super().from_pretrained(model_id, dtype)


upstream.Block = Block
replace_cases(upstream, "TEST_CASES", custom())
replace_cases(upstream, "ALL_PEFT_CONFIG_CLASSES", [LoneColumn])
replace_cases(upstream, "MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES", several())

TestPeftCustomModel = upstream.TestPeftCustomModel
TestMultipleActiveAdapters = upstream.TestMultipleActiveAdapters
TestRequiresGrad = upstream.TestRequiresGrad
TestPeftFsdpStateDict = upstream.TestPeftFsdpStateDict
TestPeftCustomModel.transformers_class = TestPeftFsdpStateDict.transformers_class = OwnModels
