//! Addresses of activations in a transformer, as types that print and parse as in TransformerLens.

use std::fmt;
use std::str::FromStr;

/// The index of a block, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Layer(pub usize);

/// The address of an activation in a forward pass.
///
/// # Examples
/// ```
/// use hooks::{Layer, Point, Site};
///
/// let site = Site::Block(Layer(3), Point::Z);
/// assert_eq!(site.to_string(), "blocks.3.attn.hook_z");
/// assert_eq!("blocks.3.attn.hook_z".parse(), Ok(site));
/// assert_eq!((site.position_axis(), site.head_axis()), (1, Some(2))); // [batch, seq, n_heads, d_head]
///
/// let error = "blocks.3.attn.hook_zz".parse::<Site>().unwrap_err();
/// assert_eq!(error.nearest.as_deref(), Some("blocks.3.attn.hook_z"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Site {
    /// Token embedding, `[batch, seq, d_model]`: `hook_embed`.
    Embed,
    /// Position embedding, `[batch, seq, d_model]`: `hook_pos_embed`.
    PosEmbed,
    /// A site inside a block: `blocks.L...`.
    Block(Layer, Point),
    /// Scale (divisor) of the final norm, `[batch, seq, 1]`: `ln_final.hook_scale`.
    FinalScale,
    /// Output of the final norm before gain and bias, `[batch, seq, d_model]`: `ln_final.hook_normalized`.
    FinalNormalized,
    /// Logits, `[batch, seq, d_vocab]`: `unembed.hook_out`.
    Logits,
}

/// A site inside a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Point {
    /// Residual stream before the block, `[batch, seq, d_model]`: `hook_resid_pre`.
    ResidPre,
    /// Scale (divisor) of the attention's norm, `[batch, seq, 1]`: `ln1.hook_scale`.
    Ln1Scale,
    /// Output of that norm before gain and bias, `[batch, seq, d_model]`: `ln1.hook_normalized`.
    Ln1Normalized,
    /// Queries as projected, `[batch, seq, n_heads, d_head]`: `attn.hook_q`.
    Q,
    /// Keys as projected, `[batch, seq, n_key_value_heads, d_head]`: `attn.hook_k`.
    K,
    /// Values, `[batch, seq, n_key_value_heads, d_head]`: `attn.hook_v`.
    V,
    /// Queries after their norm and rotation, in rotary models, `[batch, seq, n_heads, d_head]`: `attn.hook_rot_q`.
    RotQ,
    /// Keys after their norm and rotation, in rotary models, `[batch, seq, n_key_value_heads, d_head]`:
    /// `attn.hook_rot_k`.
    RotK,
    /// Scaled scores before the softmax, minus infinity where masked, `[batch, n_heads, q_seq, k_seq]`:
    /// `attn.hook_attn_scores`.
    AttnScores,
    /// Attention probabilities, `[batch, n_heads, q_seq, k_seq]`: `attn.hook_pattern`.
    Pattern,
    /// Output of each head, its mix of values, `[batch, seq, n_heads, d_head]`: `attn.hook_z`.
    Z,
    /// Each head's write to the residual stream, without the bias, `[batch, seq, n_heads, d_model]`:
    /// `attn.hook_result`.
    Result,
    /// Write of attention to the residual stream, `[batch, seq, d_model]`: `hook_attn_out`.
    AttnOut,
    /// Residual stream between attention and MLP, `[batch, seq, d_model]`; not in parallel blocks: `hook_resid_mid`.
    ResidMid,
    /// Scale (divisor) of the MLP's norm, `[batch, seq, 1]`: `ln2.hook_scale`.
    Ln2Scale,
    /// Output of that norm before gain and bias, `[batch, seq, d_model]`: `ln2.hook_normalized`.
    Ln2Normalized,
    /// MLP before its activation, `[batch, seq, d_mlp]`: `mlp.hook_pre`.
    MlpPre,
    /// The factor of the activation in gated MLPs, `[batch, seq, d_mlp]`: `mlp.hook_pre_linear`.
    MlpPreLinear,
    /// Input of the MLP's output map, `[batch, seq, d_mlp]`: `mlp.hook_post`.
    MlpPost,
    /// Write of the MLP to the residual stream, `[batch, seq, d_model]`: `hook_mlp_out`.
    MlpOut,
    /// Residual stream after the block, `[batch, seq, d_model]`: `hook_resid_post`.
    ResidPost,
}

impl Point {
    /// All points in reading order, with their addresses after `blocks.L.`.
    pub const ALL: [(Self, &'static str); 21] = [
        (Self::ResidPre, "hook_resid_pre"),
        (Self::Ln1Scale, "ln1.hook_scale"),
        (Self::Ln1Normalized, "ln1.hook_normalized"),
        (Self::Q, "attn.hook_q"),
        (Self::K, "attn.hook_k"),
        (Self::V, "attn.hook_v"),
        (Self::RotQ, "attn.hook_rot_q"),
        (Self::RotK, "attn.hook_rot_k"),
        (Self::AttnScores, "attn.hook_attn_scores"),
        (Self::Pattern, "attn.hook_pattern"),
        (Self::Z, "attn.hook_z"),
        (Self::Result, "attn.hook_result"),
        (Self::AttnOut, "hook_attn_out"),
        (Self::ResidMid, "hook_resid_mid"),
        (Self::Ln2Scale, "ln2.hook_scale"),
        (Self::Ln2Normalized, "ln2.hook_normalized"),
        (Self::MlpPre, "mlp.hook_pre"),
        (Self::MlpPreLinear, "mlp.hook_pre_linear"),
        (Self::MlpPost, "mlp.hook_post"),
        (Self::MlpOut, "hook_mlp_out"),
        (Self::ResidPost, "hook_resid_post"),
    ];

    /// The address after `blocks.L.`, such as `attn.hook_z`.
    #[must_use]
    pub fn address(self) -> &'static str {
        Self::ALL.iter().find(|(point, _)| *point == self).map_or("", |(_, address)| address)
    }
}

const OUTSIDE: [(Site, &str); 5] = [
    (Site::Embed, "hook_embed"),
    (Site::PosEmbed, "hook_pos_embed"),
    (Site::FinalScale, "ln_final.hook_scale"),
    (Site::FinalNormalized, "ln_final.hook_normalized"),
    (Site::Logits, "unembed.hook_out"),
];

impl Site {
    /// Every site that a decoder with `n_layers` blocks can have, in the order of a forward pass.
    pub fn all(n_layers: usize) -> impl Iterator<Item = Self> {
        let blocks =
            (0..n_layers).flat_map(|layer| Point::ALL.iter().map(move |(point, _)| Self::Block(Layer(layer), *point)));
        [Self::Embed, Self::PosEmbed].into_iter().chain(blocks).chain([
            Self::FinalScale,
            Self::FinalNormalized,
            Self::Logits,
        ])
    }

    /// The axis of heads, if the activation has one: 1 for scores and patterns `[batch, head, query, key]`, 2 for
    /// queries, keys, values and head outputs `[batch, position, head, d_head]`.
    #[must_use]
    pub fn head_axis(self) -> Option<usize> {
        let Self::Block(_, point) = self else { return None };
        match point {
            Point::AttnScores | Point::Pattern => Some(1),
            Point::Q | Point::K | Point::V | Point::RotQ | Point::RotK | Point::Z | Point::Result => Some(2),
            Point::ResidPre
            | Point::Ln1Scale
            | Point::Ln1Normalized
            | Point::AttnOut
            | Point::ResidMid
            | Point::Ln2Scale
            | Point::Ln2Normalized
            | Point::MlpPre
            | Point::MlpPreLinear
            | Point::MlpPost
            | Point::MlpOut
            | Point::ResidPost => None,
        }
    }

    /// The axis of positions; for scores and patterns, that of the queries.
    #[must_use]
    pub fn position_axis(self) -> usize {
        if self.head_axis() == Some(1) { 2 } else { 1 }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block(Layer(layer), point) => write!(f, "blocks.{layer}.{}", point.address()),
            outside => {
                let address = OUTSIDE.iter().find(|(site, _)| site == outside).map_or("", |(_, address)| address);
                f.write_str(address)
            }
        }
    }
}

/// Text that is not the address of a site.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a site{}", suggestion(.nearest))]
pub struct ParseSiteError {
    /// The given text.
    pub text: String,
    /// The most similar address, if one is similar.
    pub nearest: Option<String>,
}

fn suggestion(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |address| format!(", did you mean `{address}`?"))
}

impl FromStr for Site {
    type Err = ParseSiteError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some((site, _)) = OUTSIDE.iter().find(|(_, address)| *address == text) {
            return Ok(*site);
        }
        parse_block(text).ok_or_else(|| ParseSiteError { text: text.to_owned(), nearest: nearest(text) })
    }
}

fn parse_block(text: &str) -> Option<Site> {
    let (layer, address) = text.strip_prefix("blocks.")?.split_once('.')?;
    // "03" and "+3" would be second names of block 3
    let layer = layer.parse::<usize>().ok().filter(|number| number.to_string() == layer)?;
    let (point, _) = Point::ALL.iter().find(|(_, known)| *known == address)?;
    Some(Site::Block(Layer(layer), *point))
}

/// The most similar address, with the block that the text names.
fn nearest(text: &str) -> Option<String> {
    let layer = text.strip_prefix("blocks.").and_then(|rest| rest.split('.').next()?.parse().ok()).unwrap_or(0);
    let inside = Point::ALL.iter().map(|(point, _)| Site::Block(Layer(layer), *point).to_string());
    let outside = OUTSIDE.iter().map(|(_, address)| (*address).to_owned());
    let known: Vec<String> = inside.chain(outside).collect();
    storage::nearest(text, known.iter().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_site_prints_and_parses() {
        let sites: Vec<Site> = Site::all(12).collect();
        assert_eq!(sites.len(), 12 * Point::ALL.len() + 5);
        for site in sites {
            assert_eq!(site.to_string().parse(), Ok(site));
        }
        assert_eq!(Site::Block(Layer(3), Point::Z).to_string(), "blocks.3.attn.hook_z");
    }

    #[test]
    fn mistakes_get_the_most_similar_address() {
        let check = |text: &str, near: &str| {
            let error = text.parse::<Site>().unwrap_err();
            assert_eq!(error.nearest.as_deref(), Some(near), "{text}");
        };
        check("blocks.3.attn.hook_zz", "blocks.3.attn.hook_z");
        check("blocks.3.hook_residmid", "blocks.3.hook_resid_mid");
        check("ln_final.scale", "ln_final.hook_scale");
        check("blocks.03.attn.hook_z", "blocks.3.attn.hook_z");
    }

    #[test]
    fn axes_of_heads_and_positions_follow_from_the_address() {
        let at = |address: &str| address.parse::<Site>().unwrap();
        for (address, heads, positions) in [
            ("blocks.0.attn.hook_pattern", Some(1), 2),
            ("blocks.0.attn.hook_attn_scores", Some(1), 2),
            ("blocks.3.attn.hook_z", Some(2), 1),
            ("blocks.3.attn.hook_rot_q", Some(2), 1),
            ("blocks.3.hook_resid_mid", None, 1),
            ("unembed.hook_out", None, 1),
        ] {
            assert_eq!((at(address).head_axis(), at(address).position_axis()), (heads, positions), "{address}");
        }
    }
}
