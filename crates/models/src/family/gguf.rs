//! GGUF's metadata keys and tensor names, for the families that llama.cpp's converter writes.

use candle_core::{Result as CandleResult, Tensor};
use weights::Gguf;

use super::Family;
use crate::{
    Activation, Architecture, Biases, Config, Error, Initialisation, NormKind, Positions, QkNorm, Rotary, Scaling,
};

/// Family and configuration of a GGUF file. `has` tells whether the file has a tensor; `vocabulary` is the number of
/// rows of its embedding.
///
/// # Errors
/// When the architecture is not supported (the message lists those that are), or a key is missing or invalid.
pub(crate) fn config(gguf: &Gguf, vocabulary: usize, has: &dyn Fn(&str) -> bool) -> Result<(Family, Config), Error> {
    let architecture = gguf.architecture()?;
    let (family, qk_norm, qkv_bias) = match architecture {
        "llama" => (Family::Llama, QkNorm::None, false),
        "qwen2" => (Family::Qwen2, QkNorm::None, true),
        "qwen3" => (Family::Qwen3, QkNorm::Head, false),
        other => {
            let message = format!("`{other}` is not supported, only llama, qwen2 and qwen3");
            return Err(Error::Checkpoint(format!("{}: `general.architecture`: {message}", gguf.path().display())));
        }
    };
    let key = |name: &str| format!("{architecture}.{name}");
    let size = |name: &str| gguf.u64(&key(name)).map(|size| size as usize);
    let optional = |name: &str| if gguf.has(&key(name)) { size(name).map(Some) } else { Ok(None) };
    let (d_model, n_heads) = (size("embedding_length")?, size("attention.head_count")?);
    let d_head = optional("attention.key_length")?.unwrap_or(d_model / n_heads.max(1));
    let base = if gguf.has(&key("rope.freq_base")) { gguf.f64(&key("rope.freq_base"))? } else { 10_000. };
    let scaling = match gguf.str(&key("rope.scaling.type")).ok() {
        None | Some("none") if has("rope_freqs.weight") => {
            let message = "`rope_freqs.weight` is not supported; use the safetensors checkpoint";
            return Err(Error::Checkpoint(format!("{}: {message}", gguf.path().display())));
        }
        None | Some("none") => Scaling::None,
        Some("linear") => Scaling::Linear { factor: gguf.f64(&key("rope.scaling.factor"))? },
        Some(other) => {
            let message = format!("rope scaling `{other}` is not supported in GGUF; use the safetensors checkpoint");
            return Err(Error::Checkpoint(format!("{}: {message}", gguf.path().display())));
        }
    };
    let rotary_dim = optional("rope.dimension_count")?.unwrap_or(d_head);
    let mut config = Config {
        n_layers: size("block_count")?,
        n_heads,
        d_model,
        d_mlp: size("feed_forward_length")?,
        d_vocab: vocabulary,
        n_positions: size("context_length")?,
        activation: Activation::Silu,
        biases: false,
        tied: !has("output.weight"),
        norm_eps: gguf.f64(&key("attention.layer_norm_rms_epsilon"))?,
        dropout: 0.,
        initialisation: Initialisation::Gpt2,
        architecture: Architecture {
            n_key_value_heads: Some(optional("attention.head_count_kv")?.unwrap_or(n_heads)),
            d_head: Some(d_head),
            norm: NormKind::Rms,
            positions: Positions::Rotary(Rotary { rotary_dim, base, scaling, interleaved: false }),
            gated: true,
            qk_norm,
            biases: Some(Biases { qkv: qkv_bias, ..Biases::all(false) }),
            ..Architecture::default()
        },
    };
    config.check().map_err(|error| Error::Checkpoint(format!("{}: {error}", gguf.path().display())))?;
    config.fix_large_epsilon();
    Ok((family, config))
}

/// The GGUF name of a tensor that the hub's safetensors call `hub`.
pub(crate) fn name(hub: &str) -> String {
    let rest = match hub.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) {
        Some((layer, rest)) => (format!("blk.{layer}."), rest),
        None => (String::new(), hub),
    };
    let (stem, kind) = rest.1.rsplit_once('.').unwrap_or((rest.1, ""));
    let stem = match stem {
        "model.embed_tokens" => "token_embd",
        "model.norm" => "output_norm",
        "lm_head" => "output",
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        other => other,
    };
    format!("{}{stem}.{kind}", rest.0)
}

/// Rows of a query or key map in the hub's order. For Llama, llama.cpp's converter reorders them to adjacent pairs.
pub(crate) fn unpermuted(family: Family, hub: &str, x: &Tensor, d_head: usize) -> CandleResult<Tensor> {
    let is_rotated = hub.contains("self_attn.q_proj") || hub.contains("self_attn.k_proj");
    let is_permuted = match family {
        Family::Llama => is_rotated,
        Family::Gpt2
        | Family::GptNeox
        | Family::Mistral
        | Family::Qwen2
        | Family::Qwen3
        | Family::Olmo2
        | Family::Phi3 => false,
    };
    if !is_permuted {
        return Ok(x.clone());
    }
    let shape = x.dims().to_vec();
    let rest: usize = shape[1..].iter().product();
    x.reshape((shape[0] / d_head, d_head / 2, 2, rest))?.transpose(1, 2)?.contiguous()?.reshape(shape)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn names_are_translated() {
        assert_eq!(name("model.layers.12.self_attn.q_proj.weight"), "blk.12.attn_q.weight");
        assert_eq!(name("model.layers.0.mlp.down_proj.bias"), "blk.0.ffn_down.bias");
        assert_eq!(name("model.embed_tokens.weight"), "token_embd.weight");
        assert_eq!(name("lm_head.weight"), "output.weight");
    }

    #[test]
    fn adjacent_pairs_become_halves() {
        // one head of width 4: the converter stores rows 0 2 1 3
        let stored = Tensor::new(&[[0f32], [2.], [1.], [3.]], &Device::Cpu).unwrap();
        let name = "model.layers.0.self_attn.k_proj.weight";
        let rows = unpermuted(Family::Llama, name, &stored, 4).unwrap().flatten_all().unwrap();
        assert_eq!(rows.to_vec1::<f32>().unwrap(), [0., 1., 2., 3.]);
        let other = unpermuted(Family::Qwen2, name, &stored, 4).unwrap().flatten_all().unwrap();
        assert_eq!(other.to_vec1::<f32>().unwrap(), [0., 2., 1., 3.]);
    }
}
