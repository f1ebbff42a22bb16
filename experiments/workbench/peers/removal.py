"""PyTorch's and transformers' side of `cargo xtask bench removal`.

Reads a GPT-2 folder as on the hub and a batch, and obeys one command per line on standard input (`<command> <count>`),
answering with one line of JSON.

A training step runs a model half of whose norms are gone (arXiv 2507.02559): `FakeLN` in every place of a LayerNorm,
queries and keys beside values, running means of the scales, the auxiliary loss. Evaluation takes the folder as it is: a
model without norms is a GPT-2 with a huge epsilon there, whose norms are one fused operation each.

- `losses`: of a training step: cross-entropy, auxiliary loss, mean of the running means, step after step; of an
  evaluation: the loss of every token.
- `time`: steps, or passes with the loss of every token.
"""

import json
import os
import resource
import sys
import time

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
# only answers go to the real standard output
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from transformers import GPT2LMHeadModel
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()


def rss_kib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


class FakeLN(nn.Module):
    """A LayerNorm that can divide by a fixed number, and knows the running mean of its input's scale."""

    def __init__(self, norm, scale, kept, follows=False):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.kept, self.follows = kept, follows
        for name, value in (("scale", scale), ("ema", scale), ("seen", 0.0)):
            self.register_buffer(name, torch.tensor(value))

    def observe(self, x):
        sigma = (x.var(-1, correction=0) + self.eps).sqrt()
        self.seen.copy_(sigma.detach().mean())
        return sigma

    def fixed(self, x):
        return (x - x.mean(-1, keepdim=True)) * (self.weight / self.scale) + self.bias

    def real(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)

    @torch.no_grad()
    def follow(self):
        """After the backward pass, which reads `scale`."""
        self.ema.mul_(self.kept).add_(self.seen, alpha=1 - self.kept)
        if self.follows:
            self.scale.copy_(self.ema)


class Final(FakeLN):
    """The final norm, which is still real; the auxiliary loss reads its scale."""

    def forward(self, x):
        self.sigma = self.observe(x)
        return self.real(x)


class Block(nn.Module):
    """GPT-2's, with its norms before the MLP and before queries and keys fixed."""

    def __init__(self, block, ln_1, ln_2):
        super().__init__()
        self.ln_1, self.ln_2, self.attn, self.mlp = ln_1, ln_2, block.attn, block.mlp

    def attention(self, qk, v):
        b, t, d = v.shape
        weight, bias = self.attn.c_attn.weight, self.attn.c_attn.bias
        qk = torch.addmm(bias[: 2 * d], qk.view(-1, d), weight[:, : 2 * d])
        v = torch.addmm(bias[2 * d :], v.view(-1, d), weight[:, 2 * d :])
        q, k, v = (x.view(b, t, self.attn.num_heads, -1).transpose(1, 2) for x in (*qk.split(d, 1), v))
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.attn.c_proj(z.transpose(1, 2).reshape(b, t, d))

    def forward(self, x, *_, **__):
        with torch.no_grad():
            self.ln_1.observe(x)
        x = x + self.attention(self.ln_1.fixed(x), self.ln_1.real(x))
        with torch.no_grad():
            self.ln_2.observe(x)
        return x + self.mlp(self.ln_2.fixed(x))


def half_removed(model, order):
    """Puts `FakeLN` in; all of them."""
    scales, kept = order["scales"], order["momentum"]
    norms, body = [], model.transformer
    for i, block in enumerate(body.h):
        ln_1 = FakeLN(block.ln_1, scales["ln1"][i], kept ** order["ln1_updates"], follows=True)
        ln_2 = FakeLN(block.ln_2, scales["ln2"][i], kept)
        body.h[i] = Block(block, ln_1, ln_2)
        norms += [ln_1, ln_2]
    body.ln_f = Final(body.ln_f, scales["ln_final"], kept)
    return [*norms, body.ln_f]


def main():
    order = json.loads(sys.argv[1])
    torch.set_num_threads(order["threads"])
    start = rss_kib()
    # no dropout
    model = GPT2LMHeadModel.from_pretrained(order["model"], dtype=torch.float32).eval()
    batch = load_file(order["batch"])
    tokens, targets = batch["tokens"].long(), batch["targets"].long()
    targets[targets == order["ignored"]] = -100
    targets = targets.flatten()
    maybe_compiled = torch.compile if order["compile"] else lambda work: work

    @maybe_compiled
    def token_losses():
        logits = model(tokens, use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1), targets, reduction="none")

    @maybe_compiled
    def losses():
        logits = model(tokens, use_cache=False).logits
        sigma = model.transformer.ln_f.sigma
        counts = tokens != order["end"]
        counts[:, 0] = False
        target = (sigma.detach() * counts).sum() / counts.sum()
        aux = order["aux"] * (sigma - target).square().mean()
        return F.cross_entropy(logits.flatten(0, 1), targets), aux

    def evaluation():
        with torch.inference_mode():
            return token_losses()[targets >= 0].tolist()

    if not order["inference"]:
        norms = half_removed(model, order)
        decayed = [p for p in model.parameters() if p.dim() > 1]
        plain = [p for p in model.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
        adam = torch.optim.AdamW(groups, lr=order["lr"], betas=(0.9, 0.999), eps=1e-8, fused=True)

    def step():
        adam.zero_grad(set_to_none=True)
        ce, aux = losses()
        (ce + aux).backward()
        for norm in norms:
            norm.follow()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        return [ce.item(), aux.item(), sum(norm.ema.item() for norm in norms) / len(norms)]

    for line in sys.stdin:
        command, count = line.split()
        count = int(count)
        answer = {}
        if command == "losses":
            # passes of an evaluation are all the same
            answer["losses"] = evaluation() if order["inference"] else sum((step() for _ in range(count)), [])
        elif command == "time":
            work = evaluation if order["inference"] else step
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
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


main()
