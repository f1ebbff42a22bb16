//! GPT-NeoX and Pythia: parallel blocks, rotary positions over part of each head.

use serde_json::{Value, json};

use super::fields::to_rope_scaling;
use super::{Family, Fields, Layout, Rule, not_expressible};
use crate::{Activation, Architecture, Biases, Config, Error, Initialisation, Positions};

pub(super) fn config(fields: &Fields<'_>) -> Result<Config, Error> {
    let (d_model, n_heads) = (fields.size("hidden_size")?, fields.size("num_attention_heads")?);
    let rotary = fields.rotary(d_model / n_heads, "rotary_pct", ("rotary_emb_base", 10_000.))?;
    let bias = fields.flag("attention_bias", true)?;
    Ok(Config {
        n_layers: fields.size("num_hidden_layers")?,
        n_heads,
        d_model,
        d_mlp: fields.size("intermediate_size")?,
        d_vocab: fields.size("vocab_size")?,
        n_positions: fields.size("max_position_embeddings")?,
        activation: fields.activation("hidden_act", "gelu")?,
        biases: true,
        tied: fields.flag("tie_word_embeddings", false)?,
        norm_eps: fields.opt_number("layer_norm_eps")?.unwrap_or(1e-5),
        dropout: 0.,
        initialisation: Initialisation::Gpt2,
        architecture: Architecture {
            positions: Positions::Rotary(rotary),
            parallel: fields.flag("use_parallel_residual", true)?,
            biases: Some(Biases { qkv: bias, attn_out: bias, ..Biases::all(true) }),
            ..Architecture::default()
        },
    })
}

pub(super) fn rules(config: &Config) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut add = |ours: &str, theirs: &str, layout| rules.push(Rule::new(ours.to_owned(), theirs.to_owned(), layout));
    add("embed.W_E", "gpt_neox.embed_in.weight", Layout::Same);
    let biases = config.biases();
    for layer in 0..config.n_layers {
        let pairs = [
            ("ln1.w", "input_layernorm.weight", true),
            ("ln1.b", "input_layernorm.bias", true),
            ("attn.W_QKV", "attention.query_key_value.weight", true),
            ("attn.b_QKV", "attention.query_key_value.bias", biases.qkv),
            ("attn.W_O", "attention.dense.weight", true),
            ("attn.b_O", "attention.dense.bias", biases.attn_out),
            ("ln2.w", "post_attention_layernorm.weight", true),
            ("ln2.b", "post_attention_layernorm.bias", true),
            ("mlp.W_in", "mlp.dense_h_to_4h.weight", true),
            ("mlp.b_in", "mlp.dense_h_to_4h.bias", true),
            ("mlp.W_out", "mlp.dense_4h_to_h.weight", true),
            ("mlp.b_out", "mlp.dense_4h_to_h.bias", true),
        ];
        for (ours, theirs, _) in pairs.iter().filter(|(.., present)| *present) {
            let layout = if ours.ends_with("QKV") { Layout::HeadByHead(config.n_heads) } else { Layout::Transposed };
            add(&format!("blocks.{layer}.{ours}"), &format!("gpt_neox.layers.{layer}.{theirs}"), layout);
        }
    }
    add("ln_final.w", "gpt_neox.final_layer_norm.weight", Layout::Same);
    add("ln_final.b", "gpt_neox.final_layer_norm.bias", Layout::Same);
    if !config.tied {
        add("unembed.W_U", "embed_out.weight", Layout::Transposed);
    }
    rules
}

pub(super) fn to_hub_config(config: &Config) -> Result<Value, Error> {
    let Positions::Rotary(rotary) = &config.architecture.positions else {
        return Err(not_expressible(Family::GptNeox, "learned positions"));
    };
    if config.biases().unembed {
        return Err(not_expressible(Family::GptNeox, "a bias of the unembedding"));
    }
    let activation = match config.activation {
        Activation::GeluTanh => "gelu_new",
        Activation::GeluErf => "gelu",
        Activation::Silu => "silu",
    };
    Ok(json!({
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_mlp,
        "vocab_size": config.d_vocab,
        "max_position_embeddings": config.n_positions,
        "hidden_act": activation,
        "layer_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "use_parallel_residual": config.architecture.parallel,
        "attention_bias": config.biases().qkv,
        "rotary_pct": rotary.rotary_dim as f64 / config.d_head() as f64,
        "rotary_emb_base": rotary.base,
        "rope_scaling": to_rope_scaling(&rotary.scaling),
    }))
}
