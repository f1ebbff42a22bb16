"""Make tiny random checkpoints in the hub's format, with reference activations of every site of every layer.

Run it with
    pip install -r requirements.txt
    python make.py [case ...]
It writes one folder per case next to itself. Without arguments it writes all of them. The same versions on the
same kind of machine write the same bytes.

A folder holds what `save_pretrained` writes (`config.json`, f32 weights) and `reference.safetensors`.
The reference is computed from the folder, not from the model in memory. The f32 weights are widened to f64 and
the model of `transformers` runs on them with eager attention. That library narrows to f32 in some places whatever
the weights are: in RMSNorm, in the rotary angles and in the softmax. `Float64` keeps these places in f64.

Values are read with hooks on the modules and with a wrapper around the attention function. Nothing is computed
anew but the two parts of a norm, which no module returns. The script checks that they give the norm's output.

Sites, with axes: b batch, t position, d residual stream, m MLP, h query head, g key and value head, c inside a head.
    tokens                      [b,t]     int64, all other tensors are f64
    hook_embed                  [b,t,d]   token embedding
    hook_pos_embed              [b,t,d]   position embedding, where it is learned
    blocks.L.hook_resid_pre     [b,t,d]   residual stream before block L
    blocks.L.ln1.hook_scale     [b,t,1]   what ln1 divides by: sqrt(var + eps), or sqrt(mean(x^2) + eps) in RMSNorm
    blocks.L.ln1.hook_normalized [b,t,d]  ln1's input after that division, before gain and bias
    blocks.L.attn.hook_q        [b,t,h,c] out of the projection with its bias, before q norm and rotation
    blocks.L.attn.hook_k, hook_v [b,t,g,c] likewise, one per key and value head
    blocks.L.attn.hook_rot_q    [b,t,h,c] after q norm and rotation, where positions are rotary
    blocks.L.attn.hook_rot_k    [b,t,g,c] likewise
    blocks.L.attn.hook_attn_scores [b,h,t,t] scaled, query before key, -inf where masked
    blocks.L.attn.hook_pattern  [b,h,t,t] softmax of the scores
    blocks.L.attn.hook_z        [b,t,h,c] mix of values per query head, before the output projection
    blocks.L.hook_attn_out      [b,t,d]   what attention adds to the residual stream
    blocks.L.hook_resid_mid     [b,t,d]   residual stream between attention and MLP, absent from parallel blocks
    blocks.L.ln2.hook_scale, hook_normalized  as in ln1
    blocks.L.mlp.hook_pre       [b,t,m]   before the activation function; in gated MLPs the gate
    blocks.L.mlp.hook_pre_linear [b,t,m]  what the gate is multiplied with, only in gated MLPs
    blocks.L.mlp.hook_post      [b,t,m]   what goes into the down projection
    blocks.L.hook_mlp_out       [b,t,d]   what the MLP adds to the residual stream
    blocks.L.hook_resid_post    [b,t,d]   residual stream after block L
    ln_final.hook_scale, hook_normalized  as in ln1
    unembed.hook_out            [b,t,v]   logits
In OLMo 2 ln1 and ln2 come after attention and MLP. Their sites are of the raw output of attention and MLP, and
hook_attn_out and hook_mlp_out are what the norms make of it. Norms of queries and keys have no site.
"""

import functools
import math
import shutil
import sys
import zlib
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import save_file
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

HERE = Path(__file__).resolve().parent
VOCAB, BATCH, LENGTH = 61, 2, 7

GPT2 = dict(model_type="gpt2", vocab_size=VOCAB, n_positions=16, n_layer=2, bos_token_id=0, eos_token_id=1)
ROTARY = dict(vocab_size=VOCAB, max_position_embeddings=16, num_hidden_layers=2, bos_token_id=0, eos_token_id=1)
NEOX = ROTARY | dict(model_type="gpt_neox")
LLAMA = ROTARY | dict(model_type="llama")
QWEN2 = ROTARY | dict(model_type="qwen2")
QWEN3 = ROTARY | dict(model_type="qwen3")
MISTRAL = ROTARY | dict(model_type="mistral")
OLMO2 = ROTARY | dict(model_type="olmo2", pad_token_id=2)
PHI3 = ROTARY | dict(model_type="phi3", pad_token_id=2, original_max_position_embeddings=16)


def sizes(width, inner, heads, kv=None):
    kv = {} if kv is None else dict(num_key_value_heads=kv)
    return dict(hidden_size=width, intermediate_size=inner, num_attention_heads=heads, **kv)


def rope(theta, kind="default", **rest):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=theta, **rest))


# Small bases of the rotary angles make all frequencies count within seven positions. Large epsilons of norms make
# a wrong epsilon show.
CASES = {
    "gpt2": GPT2 | dict(n_embd=18, n_head=3, n_inner=37),
    "gpt2-untied": GPT2
    | dict(n_embd=16, n_head=2, activation_function="gelu", tie_word_embeddings=False, layer_norm_epsilon=1e-2),
    # Models whose LayerNorms were trained away are published so: the epsilon drowns the variance, the gains undo it.
    "gpt2-ln-free": GPT2 | dict(n_embd=20, n_head=4, n_inner=33, layer_norm_epsilon=1e12),
    "gpt_neox": NEOX | sizes(24, 37, 3) | dict(rotary_pct=0.25),
    "gpt_neox-serial": NEOX
    | sizes(20, 33, 2)
    | dict(rotary_pct=1.0, rotary_emb_base=100.0, use_parallel_residual=False, attention_bias=False)
    | dict(hidden_act="gelu_fast", layer_norm_eps=1e-2),
    # With this base two frequencies are smoothed and three are divided by the factor.
    "llama": LLAMA
    | sizes(20, 37, 4, 2)
    | rope(3.0, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8)
    | dict(head_dim=10, tie_word_embeddings=False, rms_norm_eps=1e-2),
    "llama-plain": LLAMA
    | sizes(24, 37, 4, 4)
    | rope(500.0)
    | dict(attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "llama-linear": LLAMA | sizes(16, 31, 2, 1) | rope(10000.0, "linear", factor=2.0),
    "llama-sharded": LLAMA | sizes(24, 35, 6, 3) | rope(100.0) | dict(num_hidden_layers=3),
    "qwen2": QWEN2 | sizes(24, 37, 4, 1) | rope(1000.0) | dict(tie_word_embeddings=True),
    # With this base the three frequencies lie at the start, in the middle and at the end of the ramp.
    "qwen2-yarn": QWEN2
    | sizes(24, 35, 4, 2)
    | rope(2.0, "yarn", factor=4.0, original_max_position_embeddings=8)
    | dict(max_position_embeddings=32),
    "qwen2-window": QWEN2
    | sizes(16, 31, 2, 1)
    | rope(100.0)
    | dict(use_sliding_window=True, sliding_window=3, max_window_layers=1, rms_norm_eps=1e-3),
    "qwen3": QWEN3
    | sizes(20, 37, 4, 2)
    | rope(100.0)
    | dict(head_dim=10, attention_bias=False, tie_word_embeddings=True, rms_norm_eps=1e-2),
    "mistral": MISTRAL | sizes(24, 37, 4, 2) | rope(100.0) | dict(sliding_window=3),
    "mistral-full": MISTRAL
    | sizes(20, 33, 4, 2)
    | rope(10000.0)
    | dict(sliding_window=None, head_dim=8, rms_norm_eps=1e-3),
    "olmo2": OLMO2 | sizes(24, 37, 4, 2) | rope(100.0) | dict(rms_norm_eps=1e-2),
    "phi3": PHI3 | sizes(32, 29, 4, 2) | rope(50.0) | dict(partial_rotary_factor=0.75, sliding_window=None),
}
NORM_GAIN = {"gpt2-ln-free": 1e6}
# Nothing holds back the residual stream there, so the weights have to be smaller.
WEIGHT_GAIN = {"gpt2-ln-free": 0.9}
SHARD = {"llama-sharded": "16KB"}

# Where each family keeps its modules. Names after `blocks` are inside a block.
LLAMA_LIKE = dict(
    embed="model.embed_tokens",
    blocks="model.layers",
    final="model.norm",
    unembed="lm_head",
    ln1="input_layernorm",
    ln2="post_attention_layernorm",
    attn="self_attn",
    act="mlp.act_fn",
    down="mlp.down_proj",
)
MODULES = {
    "gpt2": dict(
        embed="transformer.wte",
        positions="transformer.wpe",
        blocks="transformer.h",
        final="transformer.ln_f",
        unembed="lm_head",
        ln1="ln_1",
        ln2="ln_2",
        attn="attn",
        act="mlp.act",
        up="mlp.c_fc",
        down="mlp.c_proj",
    ),
    "gpt_neox": dict(
        embed="gpt_neox.embed_in",
        blocks="gpt_neox.layers",
        final="gpt_neox.final_layer_norm",
        unembed="lm_head",
        ln1="input_layernorm",
        ln2="post_attention_layernorm",
        attn="attention",
        act="mlp.act",
        up="mlp.dense_h_to_4h",
        down="mlp.dense_4h_to_h",
    ),
    "llama": LLAMA_LIKE,
    "qwen2": LLAMA_LIKE,
    "qwen3": LLAMA_LIKE,
    "mistral": LLAMA_LIKE,
    "olmo2": LLAMA_LIKE | dict(ln1="post_attention_layernorm", ln2="post_feedforward_layernorm"),
    "phi3": LLAMA_LIKE | dict(act="mlp.activation_fn"),
}


class Float64(TorchFunctionMode):
    """Make f64 of every request for f32, and remember what the last softmax was given."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.nn.functional.softmax:
            self.softmax_input = args[0]
        if function is torch.Tensor.float:
            function = torch.Tensor.double
        args = [torch.float64 if value is torch.float32 else value for value in args]
        kwargs = {name: torch.float64 if value is torch.float32 else value for name, value in (kwargs or {}).items()}
        return function(*args, **kwargs)


def is_norm(module):
    return type(module).__name__.endswith(("LayerNorm", "RMSNorm"))


def randomise(model, generator, norm_gain, weight_gain):
    """Draw all parameters anew so that activations, scores and logits are of order one."""
    for path, module in sorted(model.named_modules()):
        for name, parameter in sorted(module.named_parameters(recurse=False)):
            noise = torch.randn(parameter.shape, generator=generator)
            if name == "bias":
                value = 0.2 * noise
            elif is_norm(module):
                value = norm_gain * (1 + 0.3 * noise)
            elif isinstance(module, torch.nn.Embedding) or path == "lm_head":
                value = 2 / math.sqrt(parameter.shape[1]) * noise
            else:
                transposed = type(module).__name__ == "Conv1D"
                value = weight_gain / math.sqrt(parameter.shape[0 if transposed else 1]) * noise
            parameter.data.copy_(value)
            assert not ((parameter == 0) | (parameter == 1)).any(), f"{path}.{name} holds a zero or a one"


def save(name, folder, generator):
    """Write the checkpoint. Return the f32 model's logits for the check against the reference, and the tokens."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**CASES[name]), attn_implementation="eager").eval()
    randomise(model, generator, NORM_GAIN.get(name, 1.0), WEIGHT_GAIN.get(name, 1.3))
    tokens = torch.randint(VOCAB, (BATCH, LENGTH), generator=generator)
    with torch.no_grad():
        logits = model(tokens, use_cache=False).logits
    model.save_pretrained(folder, max_shard_size=SHARD.get(name, "1GB"))
    (folder / "generation_config.json").unlink(missing_ok=True)
    return logits, tokens


def load(folder):
    """Read the checkpoint back, widened to f64, with rotary frequencies computed in f64."""
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), report
    model = model.double().eval()
    rotary = getattr(model.base_model, "rotary_emb", None)
    if rotary is not None:
        with Float64():
            model.base_model.rotary_emb = type(rotary)(model.config)
        exact = model.base_model.rotary_emb.inv_freq
        assert exact.dtype == torch.float64
        torch.testing.assert_close(rotary.inv_freq, exact, rtol=1e-6, atol=0)
    return model


def run(model, tokens):
    """Run the model. Return inputs and outputs of all modules by name, and what went through each attention."""
    inputs, outputs, attention = {}, {}, []
    precise = Float64()

    def keep(name, module, args, output):
        inputs[name] = args[0] if args else None
        outputs[name] = output[0] if isinstance(output, tuple) else output

    hooks = [module.register_forward_hook(functools.partial(keep, name)) for name, module in model.named_modules()]
    code = sys.modules[type(model).__module__]
    original = code.eager_attention_forward

    def observed(module, query, key, value, attention_mask, **rest):
        z, pattern = original(module, query, key, value, attention_mask, **rest)
        hidden = attention_mask == torch.finfo(attention_mask.dtype).min
        scores = precise.softmax_input.masked_fill(hidden, -math.inf)
        # Queries, keys and values come as [b,h,t,c].
        query, key, value = (heads.transpose(1, 2) for heads in (query, key, value))
        attention.append(dict(query=query, key=key, value=value, scores=scores, pattern=pattern, z=z))
        return z, pattern

    with torch.no_grad(), precise, mock.patch.object(code, "eager_attention_forward", observed):
        model(tokens, use_cache=False)
    for hook in hooks:
        hook.remove()
    return inputs, outputs, attention


def equal(left, right, what):
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12, msg=lambda text: f"{what}: {text}")


def projections(config, module, path, outputs):
    """Queries, keys and values straight out of the projections, as [b,t,h,c]."""
    fused = {"gpt2": "c_attn", "gpt_neox": "query_key_value", "phi3": "qkv_proj"}.get(config.model_type)
    if fused is None:
        split = [outputs[f"{path}.{name}_proj"] for name in "qkv"]
        return [part.unflatten(-1, (-1, module.head_dim)) for part in split]
    fused = outputs[f"{path}.{fused}"]
    if config.model_type == "gpt_neox":  # Each head has its query, key and value side by side.
        return fused.unflatten(-1, (-1, 3 * module.head_size)).chunk(3, -1)
    heads = config.num_attention_heads
    kv = getattr(config, "num_key_value_heads", heads)
    return fused.unflatten(-1, (-1, module.head_dim)).split([heads, kv, kv], 2)


def reference(model, tokens):
    """All sites, checked against one another."""
    config = model.config
    where = MODULES[config.model_type]
    modules = dict(model.named_modules())
    inputs, outputs, attention = run(model, tokens)
    sites = {"tokens": tokens}

    def norm(site, path):
        module, x = modules[path], inputs[path]
        if isinstance(module, torch.nn.LayerNorm):
            x = x - x.mean(-1, keepdim=True)
            scale = (x.square().mean(-1, keepdim=True) + module.eps).sqrt()
            whole = x / scale * module.weight + module.bias
        else:
            scale = (x.square().mean(-1, keepdim=True) + module.variance_epsilon).sqrt()
            whole = x / scale * module.weight
        sites[f"{site}.hook_scale"], sites[f"{site}.hook_normalized"] = scale, x / scale
        equal(whole, outputs[path], f"{site} is scale, gain and bias")

    stream = sites["hook_embed"] = outputs[where["embed"]]
    if "positions" in where:
        sites["hook_pos_embed"] = outputs[where["positions"]].expand_as(stream)
        stream = stream + sites["hook_pos_embed"]
    for layer, heads in enumerate(attention):
        path, site = f"{where['blocks']}.{layer}", f"blocks.{layer}"
        attn, ln2 = f"{path}.{where['attn']}", f"{path}.{where['ln2']}"
        parallel = getattr(config, "use_parallel_residual", False)
        after = config.model_type == "olmo2"

        pre, end = inputs[path], outputs[path]
        equal(pre, stream, f"{site} starts where the one before it ended")
        stream = end
        attn_out = outputs[f"{path}.{where['ln1']}" if after else attn]
        mlp_out = outputs[ln2 if after else f"{path}.mlp"]
        sites[f"{site}.hook_resid_pre"], sites[f"{site}.hook_resid_post"] = pre, end
        sites[f"{site}.hook_attn_out"], sites[f"{site}.hook_mlp_out"] = attn_out, mlp_out
        equal(pre + attn_out + mlp_out, end, f"{site} adds up")
        if not parallel:
            mid = sites[f"{site}.hook_resid_mid"] = inputs[f"{path}.mlp" if after else ln2]
            equal(pre + attn_out, mid, f"{site} adds up to its middle")
        norm(f"{site}.ln1", f"{path}.{where['ln1']}")
        norm(f"{site}.ln2", ln2)

        q, k, v = projections(config, modules[attn], attn, outputs)
        sites |= {f"{site}.attn.hook_q": q, f"{site}.attn.hook_k": k, f"{site}.attn.hook_v": v}
        equal(v, heads["value"], f"{site} mixes the values of its projection")
        if "positions" in where:
            equal(q, heads["query"], f"{site} asks with the queries of its projection")
            equal(k, heads["key"], f"{site} is asked with the keys of its projection")
        else:
            sites |= {f"{site}.attn.hook_rot_q": heads["query"], f"{site}.attn.hook_rot_k": heads["key"]}
            # Position 0 is not rotated.
            factor = model.base_model.rotary_emb.attention_scaling
            for name, raw, rotated in (("q", q, heads["query"]), ("k", k, heads["key"])):
                plain = outputs.get(f"{attn}.{name}_norm", raw).reshape(raw.shape)
                equal(factor * plain[:, 0], rotated[:, 0], f"{site} leaves {name} at position 0 as it was")
        scores, pattern, z = heads["scores"], heads["pattern"], heads["z"]
        sites |= {f"{site}.attn.hook_attn_scores": scores, f"{site}.attn.hook_pattern": pattern}
        sites[f"{site}.attn.hook_z"] = z
        group = q.shape[2] // k.shape[2]
        equal(scores.softmax(-1), pattern, f"{site} has the softmax of its scores as pattern")
        spread = v.repeat_interleave(group, 2)
        equal(torch.einsum("bhqk,bkhc->bqhc", pattern, spread), z, f"{site} mixes values with its pattern")
        keys = heads["key"].repeat_interleave(group, 2)
        raw = torch.einsum("bqhc,bkhc->bhqk", heads["query"], keys) / math.sqrt(q.shape[3])
        equal(raw.masked_fill(scores == -math.inf, -math.inf), scores, f"{site} has scaled products as scores")
        window = visible(config, layer)
        distance = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)[None]
        seen = (distance >= 0) & (distance < window)
        assert ((scores > -math.inf) == seen).all(), f"{site} masks otherwise"

        act = modules[f"{path}.{where['act']}"]
        post = sites[f"{site}.mlp.hook_post"] = inputs[f"{path}.{where['down']}"]
        if "up" in where:
            gate = outputs[f"{path}.{where['up']}"]
            equal(act(gate), post, f"{site} passes on what its MLP activates")
        else:
            if config.model_type == "phi3":
                gate, linear = outputs[f"{path}.mlp.gate_up_proj"].chunk(2, -1)
            else:
                gate, linear = outputs[f"{path}.mlp.gate_proj"], outputs[f"{path}.mlp.up_proj"]
            sites[f"{site}.mlp.hook_pre_linear"] = linear
            equal(act(gate) * linear, post, f"{site} gates its MLP")
        sites[f"{site}.mlp.hook_pre"] = gate
    equal(inputs[where["final"]], stream, "the last norm reads the end of the stream")
    norm("ln_final", where["final"])
    sites["unembed.hook_out"] = outputs[where["unembed"]]
    for name, value in sites.items():
        assert value.dtype == (torch.int64 if name == "tokens" else torch.float64), name
    return {name: value.detach().contiguous().clone() for name, value in sites.items()}


def visible(config, layer):
    """How many positions a query sees, itself among them."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and kinds[layer] == "full_attention":
        return LENGTH
    return getattr(config, "sliding_window", None) or LENGTH


def main():
    torch.set_num_threads(1)
    disable_progress_bar()
    for name in sys.argv[1:] or CASES:
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        logits, tokens = save(name, folder, generator)
        model = load(folder)
        sites = reference(model, tokens)
        exact = sites["unembed.hook_out"]
        torch.testing.assert_close(logits.double(), exact, rtol=1e-4, atol=1e-4)
        save_file(sites, folder / "reference.safetensors")

        spread = {site: value.std() for site, value in sites.items() if site.endswith("hook_resid_post")}
        peak = max(value[..., 2:, :].amax(-1).mean() for site, value in sites.items() if site.endswith("hook_pattern"))
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(
            f"{name}: {len(sites)} tensors, {size} bytes, residual stream {max(spread.values()):.2f},"
            f" logits {exact.std():.2f}, strongest attention {peak:.2f},"
            f" f32 off by {(logits - exact).abs().max():.1e}"
        )


if __name__ == "__main__":
    main()
