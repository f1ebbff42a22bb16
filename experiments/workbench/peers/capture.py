"""TransformerLens' side of the bench of capturing and patching, versions 3 and 4.

Loads a GPT-2 folder as on the hub, offline and with its weights as they are, reads the tokens of a work file and obeys
one command per line on standard input (`<command> <count>`), answering with one line of JSON:

- `ready`: version, class of the model, threads.
- `all`: a cache of every hook over `batch`; checksum: mean |x| of `blocks.5.hook_resid_post`, in float64.
- `resid`: a cache of the twelve `hook_resid_post` alone; the same checksum.
- `patch`: `resid_pre` of the clean run into the corrupted one, layer by position; checksum: sum over the map of
  |metric|, the metric being logit[right] - logit[wrong] at the last position, averaged over the prompts.
- `heads`: `z` of each head at all positions, layer by head; checksum as of `patch`.
- `attribution`: gradient of the metric on the corrupted run times (clean - corrupted) of `resid_pre`, summed over
  d_model, [layers, positions]; mean over the prompts; checksum: sum of |map|.
- `nodes`: every head's `z` and every MLP's output at the last position of `corrupted` into `clean`, a forward pass per
  node; checksum: sum over nodes of |metric|.
- `reset`, then `memory`: largest resident memory since `reset` less what it was then, in KiB.

The count is of repetitions, each timed by itself. A repetition ends when its cache or map is there; the checksum (of
the last one) and freeing the cache are not timed. Clean runs are inside the timed part.
"""

import os

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1", WANDB_MODE="disabled")
os.environ["TQDM_DISABLE"] = "1"
# only answers go to the real standard output
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import argparse
import ctypes
import gc
import json
import sys
import time
import warnings
from importlib.metadata import version

warnings.filterwarnings("ignore")

import torch
from transformer_lens import patching
from transformer_lens.tools.analysis.attribution_patching import cache_activation_and_gradient
from transformers import GPT2LMHeadModel
from transformers.utils import logging

logging.set_verbosity_error()

VERSION = version("transformer-lens")
HOOKED = VERSION.startswith("3.")


def load(folder):
    """The folder's weights, without folding or centring; version 4's equivalent of `from_pretrained_no_processing`."""
    source = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    return hooked(source) if HOOKED else bridge(source)


def hooked(source):
    """Version 3: `HookedTransformer`, whose `from_pretrained` would ask the hub for a configuration."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    c = source.config
    config = HookedTransformerConfig(
        n_layers=c.n_layer,
        n_heads=c.n_head,
        d_model=c.n_embd,
        d_head=c.n_embd // c.n_head,
        d_mlp=c.n_inner or 4 * c.n_embd,
        d_vocab=c.vocab_size,
        n_ctx=c.n_positions,
        eps=c.layer_norm_epsilon,
        act_fn=c.activation_function,
        use_attn_scale=c.scale_attn_weights,
        scale_attn_by_inverse_layer_idx=c.scale_attn_by_inverse_layer_idx,
        normalization_type="LN",
        original_architecture="GPT2LMHeadModel",
        init_weights=False,
        device="cpu",
        dtype=torch.float32,
    )
    model = HookedTransformer(config)
    model.load_and_process_state_dict(
        convert_gpt2_weights(source, config),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
        refactor_factored_attn_matrices=False,
    )
    return model.eval()


def bridge(source):
    """Version 4: `TransformerBridge` by what `boot_transformers` does with `hf_model`, less its need of a tokenizer."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    model = build_bridge_from_module(source, "GPT2LMHeadModel", hf_config=source.config, model_name="gpt2")
    # HookedTransformer's hook names; the weights stay as they are
    model.enable_compatibility_mode(disable_warnings=True, no_processing=True)
    return model.eval()


def status(key):
    """A line of the process's status, in KiB."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


class Side:
    def __init__(self, model, work):
        self.model = model
        ids = {key: torch.tensor(work[key]) for key in ("batch", "clean", "corrupted", "right", "wrong")}
        self.batch, self.clean, self.corrupted = ids["batch"], ids["clean"], ids["corrupted"]
        self.right, self.wrong = ids["right"], ids["wrong"]
        self.rows = torch.arange(len(self.right))
        self.start = 0

    def sites(self, name):
        return [f"blocks.{layer}.{name}" for layer in range(self.model.cfg.n_layers)]

    def metric(self, logits):
        last = logits[:, -1]
        return (last[self.rows, self.right] - last[self.rows, self.wrong]).mean()

    def some(self, tokens, names):
        """A cache of named hooks, without the unembedding that none of them needs.

        Version 3 stops after the last block. Version 4's `stop_at_layer` knows no place after the last block, so its
        forward pass hands transformers `logits_to_keep`: logits of one position.
        """
        less = {"stop_at_layer": self.model.cfg.n_layers} if HOOKED else {"logits_to_keep": 1}
        return self.model.run_with_cache(tokens, names_filter=names, **less)

    def all(self):
        return self.model.run_with_cache(self.batch)

    def resid(self):
        return self.some(self.batch, self.sites("hook_resid_post"))

    def patch(self):
        cache = self.some(self.clean, self.sites("hook_resid_pre"))[1]
        return patching.get_act_patch_resid_pre(self.model, self.corrupted, cache, self.metric)

    def heads(self):
        cache = self.some(self.clean, self.sites("attn.hook_z"))[1]
        return patching.get_act_patch_attn_head_out_all_pos(self.model, self.corrupted, cache, self.metric)

    def attribution(self):
        """By the library's own forward and backward hooks; no gradients of weights.

        The metric is a mean over prompts, so summing gradient times difference over them gives the mean of each one's.
        """
        names = self.sites("hook_resid_pre")
        clean = self.some(self.clean, names)[1]
        with torch.enable_grad():
            run = cache_activation_and_gradient(self.model, self.corrupted, self.metric, names_filter=names)
        rows = [(run.gradients[at] * (clean[at] - run.activations[at])).sum((0, 2)) for at in names]
        return torch.stack(rows)

    def nodes(self):
        """One forward pass per head and MLP, with a hook at the last position."""
        layers = range(self.model.cfg.n_layers)
        cache = self.some(self.corrupted, self.sites("attn.hook_z") + self.sites("hook_mlp_out"))[1]
        less = {} if HOOKED else {"logits_to_keep": 1}

        def patched(name, index):
            def hook(x, hook):
                x[(slice(None), -1, *index)] = cache[name][(slice(None), -1, *index)]
                return x

            return self.metric(self.model.run_with_hooks(self.clean, fwd_hooks=[(name, hook)], **less))

        found = []
        for layer in layers:
            found += [patched(f"blocks.{layer}.attn.hook_z", (head,)) for head in range(self.model.cfg.n_heads)]
            found.append(patched(f"blocks.{layer}.hook_mlp_out", ()))
        return torch.stack(found)

    def timed(self, work, count, checksum):
        """Seconds of each repetition, and the checksum of the last one's result."""
        seconds, result = [], None
        for _ in range(count):
            # freed before the next one, as a caller's would be
            result = None
            started = time.perf_counter()
            result = work()
            seconds.append(time.perf_counter() - started)
        return {"seconds": seconds, "checksum": checksum(result)}

    def reset(self):
        """Starts the measurement of the peak: gives back what earlier commands freed, forgets their peak."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as refs:
            refs.write("5")
        self.start = status("VmRSS")
        return {}

    def obey(self, command, count):
        caches, maps = (self.all, self.resid), (self.patch, self.heads, self.attribution, self.nodes)
        for work in caches:
            if command == work.__name__:
                return self.timed(work, count, lambda result: mean_size(result[1]["blocks.5.hook_resid_post"]))
        for work in maps:
            if command == work.__name__:
                return self.timed(work, count, lambda result: result.abs().sum(dtype=torch.float64).item())
        if command == "ready":
            return {"version": VERSION, "model": type(self.model).__name__, "threads": torch.get_num_threads()}
        if command == "reset":
            return self.reset()
        if command == "memory":
            return {"kib": status("VmHWM") - self.start}
        raise ValueError(f"no command `{command}`")


def mean_size(x):
    return x.abs().mean(dtype=torch.float64).item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="folder with config.json and model.safetensors")
    parser.add_argument("--work", required=True, help="JSON with batch, clean, corrupted, right and wrong")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    with open(arguments.work) as work:
        side = Side(load(arguments.model), json.load(work))
    # weights mapped from the file count as loaded, and so do the threads' stacks
    side.model(side.clean[:1])
    for line in sys.stdin:
        command, count = line.split()
        print(json.dumps(side.obey(command, int(count))), file=answers, flush=True)


main()
