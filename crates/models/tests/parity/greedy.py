"""Continue the reference tokens of every case greedily with PyTorch transformers, in f64: `greedy.json` beside it.

Run it with
    pip install -r requirements.txt
    python greedy.py
after `make.py`. Cases whose eight new tokens hang on two logits closer than 1e-3 are refused, not written.
"""

import json
from pathlib import Path

import torch
from make import CASES, HERE, load
from safetensors.torch import load_file

NEW = 8


def continued(folder):
    model, tokens = load(folder), load_file(folder / "reference.safetensors")["tokens"]
    with torch.no_grad():
        out = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            eos_token_id=None,
            pad_token_id=0,
            use_cache=True,
            output_logits=True,
            return_dict_in_generate=True,
        )
    best = torch.stack(out.logits).topk(2).values
    assert (best[..., 0] - best[..., 1]).min() > 1e-3, f"{folder.name}: too close to call"
    return out.sequences[:, tokens.shape[1] :].tolist()


def main():
    found = {name: continued(Path(HERE) / name) for name in sorted(CASES)}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(tokens)}" for name, tokens in found.items())
    (HERE / "greedy.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
