"""PyTorch's side of `cargo xtask bench train`.

Reads a case (sizes, weights, batch) and obeys one command per line on standard input, answering with one line of JSON.
"""

import json
import resource
import sys
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn


def rss_kib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


class Block(nn.Module):
    def __init__(self, d, m, heads, eps):
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(d, eps=eps), nn.LayerNorm(d, eps=eps)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.mlp_in, self.mlp_out = nn.Linear(d, m), nn.Linear(m, d)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(z.transpose(1, 2).reshape(b, t, d))
        return x + self.mlp_out(F.gelu(self.mlp_in(self.ln2(x)), approximate="tanh"))


class Decoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        d = c["d_model"]
        self.embed, self.pos = nn.Embedding(c["d_vocab"], d), nn.Embedding(c["n_positions"], d)
        blocks = [Block(d, c["d_mlp"], c["n_heads"], c["norm_eps"]) for _ in range(c["n_layers"])]
        self.blocks = nn.ModuleList(blocks)
        self.final = nn.LayerNorm(d, eps=c["norm_eps"])

    def forward(self, tokens):
        x = self.embed(tokens) + self.pos.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.final(x), self.embed.weight)

    def load(self, weights):
        def put(module, name, transpose=False):
            for here, there in (("weight", f"{name[0]}"), ("bias", f"{name[1]}")):
                tensor = weights[there]
                getattr(module, here).data.copy_(tensor.T if transpose and here == "weight" else tensor)

        self.embed.weight.data.copy_(weights["embed.W_E"])
        self.pos.weight.data.copy_(weights["pos_embed.W_pos"])
        for i, block in enumerate(self.blocks):
            at = f"blocks.{i}."
            put(block.ln1, (at + "ln1.w", at + "ln1.b"))
            put(block.ln2, (at + "ln2.w", at + "ln2.b"))
            put(block.qkv, (at + "attn.W_QKV", at + "attn.b_QKV"), True)
            put(block.out, (at + "attn.W_O", at + "attn.b_O"), True)
            put(block.mlp_in, (at + "mlp.W_in", at + "mlp.b_in"), True)
            put(block.mlp_out, (at + "mlp.W_out", at + "mlp.b_out"), True)
        put(self.final, ("ln_final.w", "ln_final.b"))


def main():
    case = json.loads(sys.argv[1])
    torch.set_num_threads(case["threads"])
    start = rss_kib()
    model = Decoder(case["config"])
    model.load(load_file(case["weights"]))
    batch = load_file(case["batch"])
    tokens, targets = batch["tokens"].long(), batch["targets"].long().flatten()
    run = torch.compile(model) if case["compile"] else model
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, fused=True)

    def step():
        adam.zero_grad(set_to_none=True)
        loss = F.cross_entropy(run(tokens).flatten(0, 1), targets, ignore_index=2**32 - 1)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        return loss

    def infer():
        with torch.no_grad():
            return run(tokens)

    work = infer if case["inference"] else step
    for line in sys.stdin:
        command, count = line.split()
        count = int(count)
        answer = {}
        if command == "losses":
            answer["losses"] = [step().item() for _ in range(count)]
        elif command == "time":
            started = time.perf_counter()
            for _ in range(count):
                work()
            answer["seconds"] = time.perf_counter() - started
        elif command == "product":
            a, b = torch.randn(count, count), torch.randn(count, count)
            torch.mm(a, b)
            started = time.perf_counter()
            for _ in range(3):
                torch.mm(a, b)
            answer["flops"] = 3 * 2 * count**3 / (time.perf_counter() - started)
        elif command == "memory":
            answer["peak_kib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
        print(json.dumps(answer), flush=True)


main()
