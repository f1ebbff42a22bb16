//! `trace`: writes the activations of some prompts to a safetensors file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use capture::{Keep, capture, select};
use hooks::{Point, Site};
use models::Config;
use tokens::{Bos, Tokenizer};

use crate::source::{Opened, Source, needed};

/// Writes the activations of a model at selected hook points
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trace --model openai-community/gpt2 --prompt 'Hello world' --sites 'blocks.*.hook_resid_post' --out hello.safetensors
  trace --model SmolLM2.gguf --prompt 'one' --prompt 'two' --sites '*.attn.hook_pattern' --heads 0,3 --out p.safetensors
  trace --model ./checkpoint --tokens tokens.json --sites '*hook_z' unembed.hook_out --positions=-1 --out z.safetensors")]
pub struct Arguments {
    #[command(flatten)]
    source: Source,
    /// A text; repeat the option for more sequences
    #[arg(long, value_name = "TEXT", required_unless_present = "tokens", conflicts_with = "tokens")]
    prompt: Vec<String>,
    /// A JSON file with a list of token ids per sequence, instead of texts
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Hook points, as addresses with the wildcards * and ?
    #[arg(long, value_name = "GLOB", num_args = 1.., required = true)]
    sites: Vec<String>,
    /// Only these positions; negative ones count from the end
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true)]
    positions: Option<Vec<isize>>,
    /// Only these heads, at hook points that have heads
    #[arg(long, value_delimiter = ',')]
    heads: Option<Vec<usize>>,
    /// Whether to put the beginning-of-text token first: tokenizer's default, always or never
    #[arg(long, value_enum, default_value_t = Begin::Default)]
    bos: Begin,
    /// The output file; its tensors are named by their addresses, in addition to `tokens` and `lengths`
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// [`Bos`] on the command line.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub enum Begin {
    /// The tokenizer's default
    #[default]
    Default,
    /// Put first unless it is there already
    Always,
    /// Not added
    Never,
}

impl From<Begin> for Bos {
    fn from(begin: Begin) -> Self {
        match begin {
            Begin::Default => Self::Default,
            Begin::Always => Self::Always,
            Begin::Never => Self::Never,
        }
    }
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let opened = arguments.source.open()?;
    let sites = select(&opened.model, &arguments.sites)?;
    let (sequences, prepended) = sequences(arguments, &opened)?;
    let lengths: Vec<u32> = sequences.iter().map(|ids| ids.len() as u32).collect();
    let longest = sequences.iter().map(Vec::len).max().unwrap_or(0);
    let config = opened.model.config();
    if longest == 0 || lengths.contains(&0) {
        bail!("a sequence has no tokens; remove it or give a longer text");
    }
    if longest > config.n_positions {
        bail!("a sequence has {longest} tokens, but {} has only {} positions", opened.name, config.n_positions);
    }
    let keep = Keep { positions: arguments.positions.clone(), heads: arguments.heads.clone() };
    if keep.positions.is_some() && lengths.iter().any(|length| *length as usize != longest) {
        bail!("--positions needs sequences of equal length, but these have {lengths:?} tokens");
    }
    let captured = |batch: usize| sites.iter().map(|site| site_numbers(config, *site, batch, longest)).sum::<usize>();
    arguments
        .source
        .check_memory("tracing", sequences.len(), |batch| needed(config, batch * longest, longest, captured(batch)))?;
    // A causal model does not see later positions, so padding is harmless.
    let padded =
        sequences.iter().flat_map(|ids| ids.iter().copied().chain(std::iter::repeat_n(0, longest - ids.len())));
    let batch = Tensor::from_vec(padded.collect::<Vec<u32>>(), (sequences.len(), longest), &Device::Cpu)?;
    let seen = capture(&opened.model, &batch, &sites, &keep)?;
    let mut named = weights::Named::from([
        ("tokens".to_owned(), batch),
        ("lengths".to_owned(), Tensor::new(lengths.as_slice(), &Device::Cpu)?),
    ]);
    for site in &sites {
        named.insert(site.to_string(), seen.get(*site)?.contiguous()?);
    }
    let metadata = BTreeMap::from([
        ("model".to_owned(), opened.name.clone()),
        ("family".to_owned(), opened.family.model_type().to_owned()),
        ("transforms".to_owned(), serde_json::to_string(&opened.transforms)?),
        ("prepended_bos".to_owned(), prepended.to_string()),
    ]);
    weights::save(&arguments.out, &metadata, &named)?;
    println!("{}: {} tensors at {} sites", arguments.out.display(), named.len(), sites.len());
    Ok(())
}

/// The number of values in a site's activations.
fn site_numbers(config: &Config, site: Site, batch: usize, seq: usize) -> usize {
    let (heads, kv, e) = (config.n_heads, config.n_key_value_heads(), config.d_head());
    let per_token = match site {
        Site::Logits => config.d_vocab,
        Site::FinalScale | Site::Block(_, Point::Ln1Scale | Point::Ln2Scale) => 1,
        Site::Block(_, Point::Q | Point::RotQ | Point::Z) => heads * e,
        Site::Block(_, Point::K | Point::RotK | Point::V) => kv * e,
        Site::Block(_, Point::AttnScores | Point::Pattern) => heads * seq,
        Site::Block(_, Point::Result) => heads * config.d_model,
        Site::Block(_, Point::MlpPre | Point::MlpPreLinear | Point::MlpPost) => config.d_mlp,
        _ => config.d_model,
    };
    batch * seq * per_token
}

/// The token ids of every sequence, and whether a beginning-of-text token was added.
fn sequences(arguments: &Arguments, opened: &Opened) -> Result<(Vec<Vec<u32>>, bool)> {
    if let Some(file) = &arguments.tokens {
        let text = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        let ids: Vec<Vec<u32>> = serde_json::from_slice(&text).with_context(|| {
            format!("{}: expected a list of token ids for each sequence, as [[1, 2], [3]]", file.display())
        })?;
        check_ids(&ids, opened.model.config().d_vocab)?;
        show(&ids, opened.tokenizer.as_ref().ok(), false);
        return Ok((ids, false));
    }
    let tokenizer =
        opened.tokenizer.as_ref().map_err(|e| anyhow::anyhow!("{e:#}; give token ids with --tokens instead"))?;
    let encoded = arguments.prompt.iter().map(|text| tokenizer.encode(text, arguments.bos.into()));
    let encoded = encoded.collect::<Result<Vec<_>, _>>()?;
    let prepended = encoded.iter().any(|encoded| encoded.prepended_bos);
    let ids: Vec<Vec<u32>> = encoded.into_iter().map(|encoded| encoded.ids).collect();
    check_ids(&ids, opened.model.config().d_vocab)?;
    show(&ids, Some(tokenizer), prepended);
    Ok((ids, prepended))
}

fn check_ids(ids: &[Vec<u32>], d_vocab: usize) -> Result<()> {
    match ids.iter().flatten().find(|id| **id as usize >= d_vocab) {
        Some(id) => bail!("token {id} is outside the model's vocabulary of {d_vocab} tokens"),
        None => Ok(()),
    }
}

/// Prints the ids, and the texts if a tokenizer is available.
fn show(sequences: &[Vec<u32>], tokenizer: Option<&Tokenizer>, prepended: bool) {
    for ids in sequences {
        println!("tokens: {ids:?}");
        if let Some(tokenizer) = tokenizer {
            let texts: Vec<String> = ids.iter().map(|id| tokenizer.decode(&[*id]).unwrap_or_default()).collect();
            println!("texts:  {texts:?}");
        }
    }
    let begin =
        if prepended { "a beginning-of-text token was prepended" } else { "no beginning-of-text token was prepended" };
    println!("{begin}");
}
