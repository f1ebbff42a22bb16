"""PyTorch's and transformers' side of `cargo xtask bench hyperprobe`.

Reads an encoder, a batch for it, a model and documents from a folder and obeys one command per line on standard input
(`<command> <count>`), answering with one line of JSON.

- `losses`: training steps without dropout, and their losses.
- `steps`: training steps with dropout.
- `states`: last-token states of the second half of the layers, `count` documents at a time; checksum: the sum of their
  sizes.
"""

import json
import os
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

folder = Path(sys.argv[1])
torch.set_num_threads(int(sys.argv[2]))


def rss_kib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.map, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.skip = nn.Parameter(torch.tensor([0.1]))

    def forward(self, x, p):
        h = self.norm(F.gelu(self.map(x)))
        return F.dropout(h + self.skip * x, p, training=p > 0)


class Encoder(nn.Module):
    def __init__(self, weights):
        super().__init__()
        d_in, width = weights["input.weight"].shape
        dimension = weights["output.weight"].shape[1]
        self.input, self.input_norm = nn.Linear(d_in, width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.output_norm, self.output = nn.LayerNorm(width), nn.Linear(width, dimension)
        for name, parameter in self.named_parameters():
            ours = name
            if "norm" in name:
                ours = name.replace("weight", "gain").replace("bias", "shift")
            tensor = weights[ours]
            parameter.data.copy_(tensor.T if tensor.dim() == 2 else tensor)

    def forward(self, x, p=0.0):
        x = F.gelu(self.input_norm(self.input(x)))
        for block in self.blocks:
            x = block(x, p)
        return torch.tanh(self.output(self.output_norm(x)))


start = rss_kib()
encoder = Encoder(load_file(folder / "encoder.safetensors"))
batch = load_file(folder / "batch.safetensors")
states, targets = batch["states"], batch["targets"]
decayed = [p for p in encoder.parameters() if p.dim() > 1]
plain = [p for p in encoder.parameters() if p.dim() <= 1]
groups = [{"params": decayed, "weight_decay": 1e-4}, {"params": plain, "weight_decay": 0.0}]
adam = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, fused=True)
documents = load_file(folder / "documents.safetensors")["documents"].long()
model = None


def step(p):
    adam.zero_grad(set_to_none=True)
    o = encoder(states, p)
    loss = F.binary_cross_entropy_with_logits(o, (targets + 1) / 2) + 0.1 * F.mse_loss(o, targets)
    loss.backward()
    adam.step()
    return loss


def read(count):
    global model
    if model is None:
        from transformers import AutoModel

        model = AutoModel.from_pretrained(folder / "model", dtype=torch.float32).eval()
    layers = model.config.num_hidden_layers
    total, started = 0.0, time.perf_counter()
    with torch.inference_mode():
        for ids in documents.split(count):
            hidden = model(ids, output_hidden_states=True, use_cache=False).hidden_states
            last = torch.stack([state[:, -1] for state in hidden[layers // 2 :]])
            total += float(last.abs().sum())
    return {"seconds": time.perf_counter() - started, "checksum": total}


def answer(command, count):
    if command == "ready":
        return {"torch": version("torch"), "transformers": version("transformers")}
    if command == "losses":
        return {"losses": [step(0.0).item() for _ in range(count)]}
    if command == "steps":
        started = time.perf_counter()
        for _ in range(count):
            step(0.2)
        return {"seconds": time.perf_counter() - started}
    if command == "states":
        return read(count)
    if command == "memory":
        return {"peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start}
    raise ValueError(command)


for line in sys.stdin:
    command, count = line.split()
    answers.write(json.dumps(answer(command, int(count))) + "\n")
    answers.flush()
