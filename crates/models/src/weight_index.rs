//! The index of each weight in the flat list that a decoder keeps.

use crate::Config;

/// The index of each weight in [`Config::shapes`].
#[derive(Clone, Debug)]
pub(crate) struct WeightIndex {
    /// Numbers in each weight.
    pub(crate) lengths: Vec<usize>,
    pub(crate) embed: usize,
    pub(crate) pos_embed: Option<usize>,
    pub(crate) blocks: Vec<BlockIndex>,
    pub(crate) ln_final: AffineIndex,
    pub(crate) unembed: Option<usize>,
    pub(crate) unembed_bias: Option<usize>,
}

/// Indices of a weight and of its bias.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AffineIndex {
    pub(crate) w: usize,
    pub(crate) b: Option<usize>,
}

#[derive(Clone, Debug)]
pub(crate) struct BlockIndex {
    pub(crate) ln1: AffineIndex,
    pub(crate) qkv: AffineIndex,
    pub(crate) qk_norm: Option<[usize; 2]>,
    pub(crate) out: AffineIndex,
    pub(crate) ln2: AffineIndex,
    pub(crate) mlp_gate: Option<AffineIndex>,
    pub(crate) mlp_in: AffineIndex,
    pub(crate) mlp_out: AffineIndex,
}

impl WeightIndex {
    pub(crate) fn of(config: &Config) -> Self {
        let shapes = config.shapes();
        let find = |name: &str| shapes.iter().position(|(known, _)| known == name);
        // `Config::shapes` has every name below that is not optional
        let index = |name: &str| find(name).expect("a weight of Config::shapes");
        let norm = |name: &str| AffineIndex { w: index(&format!("{name}.w")), b: find(&format!("{name}.b")) };
        let affine = |layer: usize, part: &str, name: &str| AffineIndex {
            w: index(&format!("blocks.{layer}.{part}.W_{name}")),
            b: find(&format!("blocks.{layer}.{part}.b_{name}")),
        };
        let block = |layer| BlockIndex {
            ln1: norm(&format!("blocks.{layer}.ln1")),
            qkv: affine(layer, "attn", "QKV"),
            qk_norm: find(&format!("blocks.{layer}.attn.q_norm.w"))
                .zip(find(&format!("blocks.{layer}.attn.k_norm.w")))
                .map(|(q, k)| [q, k]),
            out: affine(layer, "attn", "O"),
            ln2: norm(&format!("blocks.{layer}.ln2")),
            mlp_gate: config.architecture.gated.then(|| affine(layer, "mlp", "gate")),
            mlp_in: affine(layer, "mlp", "in"),
            mlp_out: affine(layer, "mlp", "out"),
        };
        Self {
            embed: index("embed.W_E"),
            pos_embed: find("pos_embed.W_pos"),
            blocks: (0..config.n_layers).map(block).collect(),
            ln_final: norm("ln_final"),
            unembed: find("unembed.W_U"),
            unembed_bias: find("unembed.b_U"),
            lengths: shapes.iter().map(|(_, shape)| shape.iter().product()).collect(),
        }
    }
}
