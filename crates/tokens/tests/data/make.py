"""Makes small.json and golden.json: two tiny tokenizers, and how reference programs encode texts with them.

    pip install tokenizers==0.23.3 sentencepiece==0.2.3 regex && python make.py

Byte-level: a vocabulary is trained on the text below; for each way of splitting text into words (those that GGUF
files name in `tokenizer.ggml.pre`), the ids come from the thirty lines of Python in `encode`, which share no code
with the library that Retrace uses, and are held against that library's Python side.
Sentencepiece: pieces and ids come from sentencepiece itself.
"""

import json
import random
from pathlib import Path

import regex
import sentencepiece
import tokenizers
from tokenizers import models, trainers

TEXT = """
To multiply two numbers by hand, write one below the other and multiply digit by digit, from right to left.
Each product is written down, shifted by one place, and in the end all of them are added; what does not fit in
one place is carried to the next. The network that learns to do this must find the carried digits somewhere in
its hidden states, and we'd like to know where they're kept. It isn't told: it's only shown examples, such as
12 * 34 = 408 or 99 * 99 = 9801. Where is the information? We've looked at attention, at the residual stream and
at the unembedding; you'll see what we found. Some models don't need the intermediate steps, others can't do
without them. THE RESULTS ARE IN THE TABLES, and each number of a table can be traced to the run that made it.
    for i in range(10):
        print(i, i * i)
"""

SAMPLES = [
    "Hello world, it's 2024!",
    "  two spaces,\ttab\n\n  new line  ",
    "12 * 345 = 4140; x=1234567",
    "Grüße aus Köln: naïve café — 数字を掛ける 🙂👩‍🔬",
    "WE'VE seen THAT; they'Ll don't",
    "<|start|>a network<|end|>\r\n  the  end",
    "",
    " ",
]

CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + REST
QWEN2 = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + REST
SPLITS = {"gpt-2": [GPT2], "smollm": [r"\p{N}", GPT2], "llama-bpe": [LLAMA3], "dbrx": [LLAMA3], "qwen2": [QWEN2]}
SPECIAL = ["<|start|>", "<|end|>"]


def byte_characters():
    """GPT-2's printable stand-in for each byte."""
    printable = [*range(33, 127), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + n) for n, b in enumerate(others)}


def pieces(pattern, text):
    """The matches of a pattern and what lies between them."""
    at = 0
    for match in regex.finditer(pattern, text):
        if match.start() > at:
            yield text[at : match.start()]
        yield match.group()
        at = match.end()
    if at < len(text):
        yield text[at:]


def encode(vocabulary, ranks, patterns, text):
    """Byte-level BPE, straight from its definition."""
    ids, stand_in = [], byte_characters()
    for part in pieces("|".join(map(regex.escape, SPECIAL)), text):
        if part in SPECIAL:
            ids.append(vocabulary[part])
            continue
        words = [part]
        for pattern in patterns:
            words = [piece for word in words for piece in pieces(pattern, word)]
        for word in words:
            symbols = [stand_in[byte] for byte in word.encode()]
            while pairs := [(ranks[p], i) for i, p in enumerate(zip(symbols, symbols[1:])) if p in ranks]:
                _, i = min(pairs)
                symbols[i : i + 2] = ["".join(symbols[i : i + 2])]
            ids += [vocabulary[symbol] for symbol in symbols]
    return ids


def pre_tokenizer(patterns):
    """The same words by the library."""
    split = tokenizers.pre_tokenizers.Split
    splits = [split(tokenizers.Regex(p), "isolated") for p in patterns]
    return tokenizers.pre_tokenizers.Sequence([*splits, tokenizers.pre_tokenizers.ByteLevel(False, use_regex=False)])


def byte_level():
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer(SPLITS["smollm"])
    alphabet = sorted(byte_characters().values())
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    ranks = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}
    golden = {}
    for name, patterns in SPLITS.items():
        tokenizer.pre_tokenizer = pre_tokenizer(patterns)
        golden[name] = [[text, encode(model["vocab"], ranks, patterns, text)] for text in SAMPLES]
        for text, ids in golden[name]:
            assert tokenizer.encode(text).ids == ids, (name, text, tokenizer.encode(text).ids, ids)
    # what a repository of a model would hold, in SmolLM's way
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.Digits(True), tokenizers.pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    assert [[text, tokenizer.encode(text).ids] for text in SAMPLES] == golden["smollm"]
    return json.loads(tokenizer.to_str()), golden


def sentence_pieces(folder):
    (folder / "text.tmp").write_text(TEXT)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.tmp"), model_prefix=str(folder / "model.tmp"), model_type="bpe", vocab_size=420,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True, split_digits=True, minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "model.tmp.model"))
    for name in ["text.tmp", "model.tmp.model", "model.tmp.vocab"]:
        (folder / name).unlink()

    def kind(i):
        return 2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1

    size = range(model.get_piece_size())
    rng = random.Random(1)
    noise = ["".join(rng.choice("aaetthin  s12é\n.") for _ in range(60)) for _ in range(20)]
    texts = [text for text in SAMPLES if "<|" not in text] + ["a" * 13, " " * 9 + "x" + " " * 5] + noise
    return {
        "tokens": [model.id_to_piece(i) for i in size],
        "scores": [model.get_score(i) for i in size],
        "types": [kind(i) for i in size],
        "golden": [[text, model.encode(text)] for text in texts],
    }


if __name__ == "__main__":
    folder = Path(__file__).parent
    small, golden = byte_level()
    dump = lambda data: json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    (folder / "small.json").write_text(dump(small) + "\n")
    parts = {**golden, "sentencepiece": sentence_pieces(folder)}
    lines = ",\n".join(f"{json.dumps(name)}:{dump(part)}" for name, part in parts.items())
    (folder / "golden.json").write_text("{\n" + lines + "\n}\n")
