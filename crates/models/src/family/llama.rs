//! Llama and the families derived from it: Mistral, Qwen 2 and 3, OLMo 2, Phi-3.

use serde_json::{Value, json};

use super::fields::to_rope_scaling;
use super::{Family, Fields, Layout, Rule, not_expressible};
use crate::{
    Activation, Architecture, Biases, Config, Error, FixedScales, Initialisation, NormKind, NormPlace, Positions,
    QkNorm,
};

/// A family in Llama's format.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Olmo2,
    Phi3,
}

pub(super) fn config(variant: Variant, fields: &Fields<'_>) -> Result<Config, Error> {
    let (d_model, n_heads) = (fields.size("hidden_size")?, fields.size("num_attention_heads")?);
    let n_layers = fields.size("num_hidden_layers")?;
    let d_head = fields.opt_size("head_dim")?.unwrap_or(d_model / n_heads);
    if fields.opt_size("head_dim")?.is_none() && !d_model.is_multiple_of(n_heads) {
        let message = format!("{n_heads} heads do not divide hidden_size = {d_model}");
        return Err(fields.wrong("num_attention_heads", &message));
    }
    let default_kv_heads = match variant {
        Variant::Mistral => 8,
        Variant::Llama | Variant::Qwen2 | Variant::Qwen3 | Variant::Olmo2 | Variant::Phi3 => n_heads,
    };
    let rotary = fields.rotary(d_head, "partial_rotary_factor", ("rope_theta", 10_000.))?;
    Ok(Config {
        n_layers,
        n_heads,
        d_model,
        d_mlp: fields.size("intermediate_size")?,
        d_vocab: fields.size("vocab_size")?,
        n_positions: fields.size("max_position_embeddings")?,
        activation: fields.activation("hidden_act", "silu")?,
        biases: false,
        tied: fields.flag("tie_word_embeddings", false)?,
        norm_eps: fields.opt_number("rms_norm_eps")?.unwrap_or(1e-6),
        dropout: 0.,
        initialisation: Initialisation::Gpt2,
        architecture: Architecture {
            n_key_value_heads: Some(fields.opt_size("num_key_value_heads")?.unwrap_or(default_kv_heads)),
            d_head: Some(d_head),
            norm: NormKind::Rms,
            norm_place: match variant {
                Variant::Olmo2 => NormPlace::After,
                Variant::Llama | Variant::Mistral | Variant::Qwen2 | Variant::Qwen3 | Variant::Phi3 => {
                    NormPlace::Before
                }
            },
            positions: Positions::Rotary(rotary),
            parallel: false,
            gated: true,
            qk_norm: match variant {
                Variant::Qwen3 => QkNorm::Head,
                Variant::Olmo2 => QkNorm::Whole,
                Variant::Llama | Variant::Mistral | Variant::Qwen2 | Variant::Phi3 => QkNorm::None,
            },
            biases: Some(biases(variant, fields)?),
            windows: windows(variant, fields, n_layers)?,
            fixed: FixedScales::default(),
        },
    })
}

fn biases(variant: Variant, fields: &Fields<'_>) -> Result<Biases, Error> {
    let none = Biases::all(false);
    let attention = fields.flag("attention_bias", false)?;
    Ok(match variant {
        Variant::Llama => Biases { qkv: attention, attn_out: attention, mlp: fields.flag("mlp_bias", false)?, ..none },
        Variant::Qwen2 => Biases { qkv: true, ..none },
        Variant::Qwen3 | Variant::Olmo2 => Biases { qkv: attention, attn_out: attention, ..none },
        Variant::Mistral | Variant::Phi3 => none,
    })
}

/// The window of each block; empty for full attention.
fn windows(variant: Variant, fields: &Fields<'_>, n_layers: usize) -> Result<Vec<Option<usize>>, Error> {
    let Some(window) = fields.opt_size("sliding_window")? else { return Ok(Vec::new()) };
    let slides: Vec<bool> = match (variant, fields.list("layer_types")) {
        (Variant::Qwen2 | Variant::Qwen3, _) if !fields.flag("use_sliding_window", false)? => return Ok(Vec::new()),
        (_, Some(kinds)) if kinds.len() == n_layers => kinds.iter().map(|kind| kind == "sliding_attention").collect(),
        (_, Some(kinds)) => {
            return Err(fields.wrong("layer_types", &format!("{} entries for {n_layers} layers", kinds.len())));
        }
        (Variant::Qwen2 | Variant::Qwen3, None) => {
            let full = fields.opt_number("max_window_layers")?.map_or(0, |count| count as usize);
            (0..n_layers).map(|layer| layer >= full).collect()
        }
        (Variant::Mistral | Variant::Phi3, None) => vec![true; n_layers],
        (Variant::Llama | Variant::Olmo2, None) => return Ok(Vec::new()),
    };
    Ok(slides.into_iter().map(|slides| slides.then_some(window)).collect())
}

pub(super) fn rules(variant: Variant, config: &Config) -> Vec<Rule> {
    let mut rules = vec![Rule::new("embed.W_E".to_owned(), "model.embed_tokens.weight".to_owned(), Layout::Same)];
    let (q, kv) = (config.n_heads * config.d_head(), config.n_key_value_heads() * config.d_head());
    let biases = config.biases();
    let [ln1, ln2] = match variant {
        Variant::Olmo2 => ["post_attention_layernorm", "post_feedforward_layernorm"],
        Variant::Llama | Variant::Mistral | Variant::Qwen2 | Variant::Qwen3 | Variant::Phi3 => {
            ["input_layernorm", "post_attention_layernorm"]
        }
    };
    // Phi-3 stores queries, keys and values, and both input maps of the MLP, as one tensor each
    let is_fused = match variant {
        Variant::Phi3 => true,
        Variant::Llama | Variant::Mistral | Variant::Qwen2 | Variant::Qwen3 | Variant::Olmo2 => false,
    };
    for layer in 0..config.n_layers {
        let mut add = |ours: &[&str], theirs: &[(&str, usize)]| {
            rules.push(Rule {
                ours: ours.iter().map(|name| format!("blocks.{layer}.{name}")).collect(),
                theirs: theirs.iter().map(|(name, rows)| (format!("model.layers.{layer}.{name}"), *rows)).collect(),
                layout: Layout::Transposed,
            });
        };
        add(&["ln1.w"], &[(&format!("{ln1}.weight"), 1)]);
        add(&["ln2.w"], &[(&format!("{ln2}.weight"), 1)]);
        for (ours, theirs, present) in [("W", "weight", true), ("b", "bias", biases.qkv)] {
            if !present {
                continue;
            }
            let ours = format!("attn.{ours}_QKV");
            let name = |part: &str| format!("self_attn.{part}_proj.{theirs}");
            if is_fused {
                add(&[&ours], &[(&name("qkv"), 1)]);
            } else {
                add(&[&ours], &[(&name("q"), q), (&name("k"), kv), (&name("v"), kv)]);
            }
        }
        if config.architecture.qk_norm != QkNorm::None {
            add(&["attn.q_norm.w"], &[("self_attn.q_norm.weight", 1)]);
            add(&["attn.k_norm.w"], &[("self_attn.k_norm.weight", 1)]);
        }
        add(&["attn.W_O"], &[("self_attn.o_proj.weight", 1)]);
        if biases.attn_out {
            add(&["attn.b_O"], &[("self_attn.o_proj.bias", 1)]);
        }
        for (ours, theirs) in [("W", "weight"), ("b", "bias")] {
            if ours == "b" && !biases.mlp {
                continue;
            }
            let [gate, up, down] = ["gate", "in", "out"].map(|part| format!("mlp.{ours}_{part}"));
            if is_fused {
                add(&[&gate, &up], &[(&format!("mlp.gate_up_proj.{theirs}"), 1)]);
            } else {
                add(&[&gate], &[(&format!("mlp.gate_proj.{theirs}"), 1)]);
                add(&[&up], &[(&format!("mlp.up_proj.{theirs}"), 1)]);
            }
            add(&[&down], &[(&format!("mlp.down_proj.{theirs}"), 1)]);
        }
    }
    rules.push(Rule::new("ln_final.w".to_owned(), "model.norm.weight".to_owned(), Layout::Same));
    if !config.tied {
        rules.push(Rule::new("unembed.W_U".to_owned(), "lm_head.weight".to_owned(), Layout::Transposed));
    }
    rules
}

pub(super) fn to_hub_config(family: Family, config: &Config) -> Result<Value, Error> {
    let Positions::Rotary(rotary) = &config.architecture.positions else {
        return Err(not_expressible(family, "learned positions"));
    };
    if config.biases().unembed {
        return Err(not_expressible(family, "a bias of the unembedding"));
    }
    if !config.architecture.gated || config.architecture.norm != NormKind::Rms || config.activation != Activation::Silu
    {
        return Err(not_expressible(family, "an MLP that is not gated with SiLU, or a norm other than RMSNorm"));
    }
    let (biases, window) = (config.biases(), config.architecture.windows.iter().flatten().next());
    let class = Family::ALL.iter().find(|(known, ..)| *known == family).map_or("", |(.., class)| class);
    let kinds = config.architecture.windows.iter().map(|window| match window {
        Some(_) => "sliding_attention",
        None => "full_attention",
    });
    let mut hub_config = json!({
        "architectures": [class],
        "model_type": family.model_type(),
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_key_value_heads(),
        "head_dim": config.d_head(),
        "hidden_size": config.d_model,
        "intermediate_size": config.d_mlp,
        "vocab_size": config.d_vocab,
        "max_position_embeddings": config.n_positions,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "attention_bias": biases.attn_out,
        "mlp_bias": biases.mlp,
        "partial_rotary_factor": rotary.rotary_dim as f64 / config.d_head() as f64,
        "rope_theta": rotary.base,
        "rope_scaling": to_rope_scaling(&rotary.scaling),
        "sliding_window": window,
        "use_sliding_window": window.is_some(),
        // the default is outside a small vocabulary
        "pad_token_id": null,
    });
    if window.is_some()
        && let Some(object) = hub_config.as_object_mut()
    {
        object.insert("layer_types".to_owned(), kinds.collect());
    }
    Ok(hub_config)
}
