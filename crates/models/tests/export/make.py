"""Logits that PyTorch's transformers computes from exported models without norms.

    python -m venv venv && venv/bin/pip install -r ../parity/requirements.txt
    RETRACE_BLESS=1 cargo nextest run -p models --test export   # writes the folders gpt2/ and llama/
    venv/bin/python make.py                                     # writes logits.json into each
"""

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

TOKENS = [[1, 5, 3, 10, 7], [2, 2, 0, 7, 4]]

for folder in ("gpt2", "llama"):
    path = Path(__file__).parent / folder
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = model(torch.tensor(TOKENS)).logits
    (path / "logits.json").write_text(json.dumps({"tokens": TOKENS, "logits": logits.tolist()}) + "\n")
    print(folder, logits.shape, logits.abs().max().item())
