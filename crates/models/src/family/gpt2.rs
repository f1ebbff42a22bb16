//! GPT-2, also without LayerNorm: an epsilon so large that the divisor is constant.

use serde_json::{Value, json};

use super::{Family, Fields, Layout, Rule, not_expressible};
use crate::{Activation, Architecture, Biases, Config, Error, Initialisation};

pub(super) fn config(fields: &Fields<'_>) -> Result<Config, Error> {
    fields.only("scale_attn_weights", &json!(true))?;
    fields.only("scale_attn_by_inverse_layer_idx", &json!(false))?;
    fields.only("add_cross_attention", &json!(false))?;
    let d_model = fields.size("n_embd")?;
    Ok(Config {
        n_layers: fields.size("n_layer")?,
        n_heads: fields.size("n_head")?,
        d_model,
        d_mlp: fields.opt_size("n_inner")?.unwrap_or(4 * d_model),
        d_vocab: fields.size("vocab_size")?,
        n_positions: fields.opt_size("n_positions")?.map_or_else(|| fields.size("n_ctx"), Ok)?,
        activation: fields.activation("activation_function", "gelu_new")?,
        biases: true,
        tied: fields.flag("tie_word_embeddings", true)?,
        norm_eps: fields.opt_number("layer_norm_epsilon")?.unwrap_or(1e-5),
        dropout: 0.,
        initialisation: Initialisation::Gpt2,
        architecture: Architecture::default(),
    })
}

pub(super) fn rules(config: &Config) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut same = |ours: &str, theirs: &str| rules.push(Rule::new(ours.to_owned(), theirs.to_owned(), Layout::Same));
    same("embed.W_E", "transformer.wte.weight");
    same("pos_embed.W_pos", "transformer.wpe.weight");
    // GPT-2 stores linear maps as [in, out], as we do
    for layer in 0..config.n_layers {
        let pairs = [
            ("ln1.w", "ln_1.weight"),
            ("ln1.b", "ln_1.bias"),
            ("attn.W_QKV", "attn.c_attn.weight"),
            ("attn.b_QKV", "attn.c_attn.bias"),
            ("attn.W_O", "attn.c_proj.weight"),
            ("attn.b_O", "attn.c_proj.bias"),
            ("ln2.w", "ln_2.weight"),
            ("ln2.b", "ln_2.bias"),
            ("mlp.W_in", "mlp.c_fc.weight"),
            ("mlp.b_in", "mlp.c_fc.bias"),
            ("mlp.W_out", "mlp.c_proj.weight"),
            ("mlp.b_out", "mlp.c_proj.bias"),
        ];
        for (ours, theirs) in pairs {
            same(&format!("blocks.{layer}.{ours}"), &format!("transformer.h.{layer}.{theirs}"));
        }
    }
    same("ln_final.w", "transformer.ln_f.weight");
    same("ln_final.b", "transformer.ln_f.bias");
    if !config.tied {
        rules.push(Rule::new("unembed.W_U".to_owned(), "lm_head.weight".to_owned(), Layout::Transposed));
    }
    rules
}

pub(super) fn to_hub_config(config: &Config) -> Result<Value, Error> {
    let plain = Architecture { biases: None, ..config.architecture.clone() };
    if !plain.is_gpt2() || config.biases() != Biases::all(true) {
        return Err(not_expressible(Family::Gpt2, "an architecture other than GPT-2's, or missing biases"));
    }
    let activation = match config.activation {
        Activation::GeluTanh => "gelu_new",
        Activation::GeluErf => "gelu",
        Activation::Silu => "silu",
    };
    Ok(json!({
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_embd": config.d_model,
        "n_inner": config.d_mlp,
        "vocab_size": config.d_vocab,
        "n_positions": config.n_positions,
        "activation_function": activation,
        "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tied,
    }))
}
