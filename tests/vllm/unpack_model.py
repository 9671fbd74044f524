"""Turns a GGUF chat model into a Hugging Face folder (bfloat16 weights, tokenizer, chat template), as vLLM serves one.

``python unpack_model.py MODEL.gguf FOLDER``: 20 s for SmolLM2-135M. Run by the Python of vLLM's environment, so it
imports nothing of askmesh. The folder appears when it is complete.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def main() -> None:
    gguf, folder = (Path(argument) for argument in sys.argv[1:3])
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(unfinished)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        # By default transformers 5 keeps the packed weights, and then refuses to save them.
        quantization_config=GgufConfig(dequantize=True),
    )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(unfinished)
    unfinished.rename(folder)


if __name__ == "__main__":
    main()
