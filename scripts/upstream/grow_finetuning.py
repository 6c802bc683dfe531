"""Fine-tune a causal language model with growth, and save the adapter: an example for PEFT's ``examples/``.

    python grow_finetuning.py --model google/gemma-3-270m --data train.jsonl --layers 5 11 --output adapter

Rows of the file hold ``prompt`` and ``completion``. The loss is of the completion alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from datasets import load_dataset
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from gdo_cli.growth import GrowConfig  # in PEFT: from peft import GrowConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True, help="hub id or folder")
    parser.add_argument("--data", type=Path, required=True, help="JSON Lines file")
    parser.add_argument("--layers", type=int, nargs="+", help="decoder layers to grow; all by default")
    parser.add_argument("--trainable", choices=["new", "columns"], default="new")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(args.model),
        GrowConfig(task_type="CAUSAL_LM", layers_to_transform=args.layers, trainable=args.trainable),
    )
    model.print_trainable_parameters()
    trainer = SFTTrainer(
        model,
        SFTConfig(
            output_dir=str(args.output),
            bf16=torch.cuda.is_available(),
            learning_rate=args.lr,
            max_steps=args.steps,
            report_to="none",
            save_strategy="no",
        ),
        train_dataset=load_dataset("json", data_files=str(args.data), split="train"),
        processing_class=AutoTokenizer.from_pretrained(args.model),
    )
    trainer.train()
    model.save_pretrained(args.output)


if __name__ == "__main__":
    main()
