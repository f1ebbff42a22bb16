//! The rank of the queries, keys and values that Correct Letter heads need, and the meaning of their principal
//! directions (arXiv 2307.09458, section 4).
//!
//! Bases and means are fitted on the fit questions with letters A to D in order, and are never refitted.
//!
//! Tables: `explained` (variance by rank), `ranks` (loss and accuracy by rank), `scatter` (the first three components),
//! `class_matrix` (query-key score by right option and label), `variance` (position versus letter), `scores` (fixed
//! preference versus selection), `copying` (rank of a label's own logit in the output of its value).

use crate::mcq::Mutation;
use anyhow::Result;
use candle_core::{Device, Tensor};
use experiment::Run;
use hooks::Layer;
use patching::{Node, direct_logit_attribution};
use probes::{Matrix, Pca, additive_r2, mean, standard_deviation};
use rand::Rng;
use rand_distr::StandardNormal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

use crate::codes::{Classed, Code, codes, collect, edited, matrix, nearest};
use crate::edits::{HeadEdit, Space};
use crate::letters::{Letters, Summary};
use crate::prompts::Prompt;
use crate::study::{Common, Study, each};
use crate::subject::{Set, letter};

/// Parameters of `subspaces`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Settings shared by all analyses: models, questions and classification thresholds.
    pub common: Common,
    /// Ranks to evaluate; rank 0 and the full rank are always included.
    pub ranks: Vec<usize>,
    /// Rank of the low-rank heads.
    #[schemars(range(min = 1))]
    pub low: usize,
    /// Number of points per class in the scatter table.
    #[schemars(range(min = 1))]
    pub points: usize,
}

/// Analyses every model and records the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let mut tables = Tables::new();
    each(run, &params.common, |study| analyse(run, &params, study, &mut tables))?;
    tables.record(run)
}

/// The spaces that are reduced together, with their names in tables.
const EDITS: [(&str, &[Space]); 5] = [
    ("Q", &[Space::Query]),
    ("K", &[Space::Key]),
    ("Q+K", &[Space::Query, Space::Key]),
    ("V", &[Space::Value]),
    ("Q+K+V", &[Space::Query, Space::Key, Space::Value]),
];

/// The low-rank edits of all heads in some spaces.
pub fn low_rank<'a>(codes: &'a [[Code; 3]], spaces: &[Space], rank: usize) -> Vec<HeadEdit<'a>> {
    let chosen = codes.iter().flatten().filter(|code| spaces.contains(&code.space));
    chosen.map(|code| code.low_rank(rank)).collect()
}

/// The blocks that contain the heads, sorted.
pub fn layers(heads: &[Node]) -> Vec<Layer> {
    let mut layers: Vec<Layer> = heads.iter().map(|head| head.layer()).collect();
    layers.sort_unstable();
    layers.dedup();
    layers
}

/// The label logits, and the mean raw attention of the heads to the right label and to each other label.
pub fn with_attention(
    study: &Study,
    prompts: &[Prompt],
    heads: &[Node],
    edits: &[HeadEdit<'_>],
    batch: usize,
) -> Result<(Vec<Letters>, [f64; 2])> {
    let (letters, seen) = edited(&study.subject, prompts, edits, &layers(heads), batch)?;
    let (mut right, mut others) = (Vec::new(), Vec::new());
    for node in heads {
        let (Some(head), Some(patterns)) = (node.head(), seen.get(&node.layer())) else { continue };
        for (prompt, pattern) in prompts.iter().zip(patterns) {
            for (place, label) in prompt.labels().into_iter().enumerate() {
                let list = if place == prompt.correct { &mut right } else { &mut others };
                list.push(pattern[head][label]);
            }
        }
    }
    Ok((letters, [mean(&right), mean(&others)]))
}

fn analyse(run: &Run, params: &Params, study: &Study, tables: &mut Tables) -> Result<()> {
    let heads = study.letter_heads();
    let name = study.name();
    run.metric(&format!("{name}.letter_heads"), heads.len() as f64, "heads");
    if heads.is_empty() {
        return without(run, name);
    }
    let batch = params.common.questions.batch;
    let codes = codes(&study.subject, &study.fit.prompts, &heads, batch)?;
    explained(run, params, study, &heads, &codes, tables)?;
    ranks(run, params, study, &heads, &codes, tables)?;
    run.check_interrupted()?;
    separability(run, params, study, (&heads, &codes), tables)?;
    variance(run, params, study, (&heads, &codes), tables)?;
    copying(run, params, study, &heads, &codes, tables)
}

/// Records empty metrics for a model without Correct Letter heads.
fn without(run: &Run, name: &str) -> Result<()> {
    let metrics = [
        "explained3.query",
        "explained3.key",
        "explained3.value",
        "qk3.m_share",
        "static.m_share",
        "static.right_label",
        "full.right_label",
        "all_directions.gap",
        "query_accuracy",
        "key_accuracy",
        "position.query",
        "position.key",
        "position.value",
        "letter.query",
        "letter.key",
        "letter.value",
        "position_by_right.key",
        "own_label_rank",
    ];
    metrics.iter().for_each(|metric| run.metric(&format!("{name}.{metric}"), None, ""));
    Ok(())
}

fn explained(
    run: &Run,
    params: &Params,
    study: &Study,
    heads: &[Node],
    codes: &[[Code; 3]],
    tables: &mut Tables,
) -> Result<()> {
    let name = study.name();
    let mut rng = run.rng(&format!("noise.{name}"));
    for which in 0..3 {
        let mut least = f64::INFINITY;
        for (node, of_head) in heads.iter().zip(codes) {
            let code = &of_head[which];
            let rows: usize = code.vectors.iter().map(Vec::len).sum();
            let width = code.pca.mean.len();
            let noise = Matrix::from_fn(rows, width, |_, _| rng.sample(StandardNormal));
            let noise = Pca::fit(noise.as_ref(), width.min(rows))?.explained();
            let own = code.pca.explained();
            let upto = |shares: &[f64], rank: usize| shares.iter().take(rank).sum::<f64>();
            for rank in 1..=width.min(16) {
                let letter = code.space.letter();
                let (ours, noise) = (upto(&own, rank), upto(&noise, rank));
                tables.explained.push(row![name, node.to_string().as_str(), letter, rank, ours, noise])?;
            }
            least = least.min(upto(&own, params.low));
        }
        let space = ["query", "key", "value"][which];
        run.metric(&format!("{name}.explained{}.{space}", params.low), least, "fraction");
    }
    Ok(())
}

fn ranks(
    run: &Run,
    params: &Params,
    study: &Study,
    heads: &[Node],
    codes: &[[Code; 3]],
    tables: &mut Tables,
) -> Result<()> {
    let (name, batch, correct) = (study.name(), params.common.questions.batch, study.eval.correct());
    let prompts = &study.eval.prompts;
    let (own, [right, others]) = with_attention(study, prompts, heads, &[], batch)?;
    let full = Summary::of(&own, &correct);
    let mut push = |who: &str, edit: &str, rank: Option<i64>, s: Summary, attention: Option<[f64; 2]>| {
        tables.ranks.push(row![
            name,
            who,
            edit,
            rank,
            s.loss,
            s.m,
            s.accuracy,
            attention.map(|a| a[0]),
            attention.map(|a| a[1])
        ])
    };
    push("all", "none", None, full, Some([right, others]))?;
    let width = codes[0][0].mean().len();
    let mut ranks: Vec<usize> = params.ranks.iter().copied().filter(|rank| *rank < width).chain([0, width]).collect();
    ranks.sort_unstable();
    ranks.dedup();
    for (edit, spaces) in EDITS {
        for rank in &ranks {
            let edits = low_rank(codes, spaces, *rank);
            let (letters, attention) = with_attention(study, prompts, heads, &edits, batch)?;
            let summary = Summary::of(&letters, &correct);
            push("all", edit, Some(*rank as i64), summary, Some(attention))?;
            match (edit, *rank) {
                ("Q", 0) => {
                    run.metric(&format!("{name}.static.m_share"), summary.m / full.m, "fraction");
                    run.metric(&format!("{name}.static.accuracy"), summary.accuracy, "fraction");
                    run.metric(&format!("{name}.static.right_label"), attention[0], "fraction");
                }
                ("Q+K", rank) if rank == params.low => {
                    run.metric(&format!("{name}.qk{rank}.m_share"), summary.m / full.m, "fraction");
                }
                ("Q+K+V", rank) if rank == width => {
                    let gap = letters.iter().flatten().zip(own.iter().flatten()).map(|(a, b)| (a - b).abs());
                    run.metric(&format!("{name}.all_directions.gap"), gap.fold(0., f64::max), "logits");
                }
                _ => {}
            }
        }
        run.check_interrupted()?;
    }
    run.metric(&format!("{name}.full.right_label"), right, "fraction");
    // Each head alone.
    for (node, code) in heads.iter().zip(codes) {
        for rank in &ranks {
            let edits = low_rank(std::slice::from_ref(code), &[Space::Query, Space::Key], *rank);
            let (letters, _) = edited(&study.subject, prompts, &edits, &[], batch)?;
            push(&node.to_string(), "Q+K", Some(*rank as i64), Summary::of(&letters, &correct), None)?;
        }
    }
    Ok(())
}

/// The same questions with other labels.
fn relabelled(run: &Run, study: &Study, mutation: Mutation) -> Set {
    let mut rng = run.rng(&format!("labels.{}", study.name()));
    study.subject.changed(&study.eval, &[mutation], &mut rng)
}

fn separability(
    run: &Run,
    params: &Params,
    study: &Study,
    (heads, codes): (&[Node], &[[Code; 3]]),
    tables: &mut Tables,
) -> Result<()> {
    let (name, batch) = (study.name(), params.common.questions.batch);
    let sets = [
        ("A to D", study.eval.clone()),
        ("shuffled", relabelled(run, study, Mutation::ShuffledLabels)),
        ("random letters", relabelled(run, study, Mutation::RandomLetters)),
        ("digits", relabelled(run, study, Mutation::Numbers)),
    ];
    for (set_name, set) in &sets {
        if set.prompts.is_empty() {
            continue;
        }
        let vectors = collect(&study.subject, &set.prompts, heads, batch)?;
        let correct = set.correct();
        let options = set.options();
        for (at, ((node, code), [q, k, _])) in heads.iter().zip(codes).zip(&vectors).enumerate() {
            let (queries, keys) = (code[0].centred(q, &correct), code[1].centred(k, &correct));
            let low = |code: &Code, all: &Classed| -> Classed {
                all.iter().map(|(class, x)| (*class, code.projected(x, params.low))).collect()
            };
            let (low_queries, low_keys) = (low(&code[0], &queries), low(&code[1], &keys));
            let means = |all: &Classed| -> Vec<Vec<f64>> {
                let of = |class: usize| -> Vec<Vec<f64>> {
                    all.iter().filter(|(is, _)| *is == class).map(|(_, x)| x.clone()).collect()
                };
                (0..options).map(|class| column_means(&of(class))).collect()
            };
            let (q_means, k_means) = (means(&low_queries), means(&low_keys));
            let root = (code[0].mean().len() as f64).sqrt();
            for (right, q) in q_means.iter().enumerate() {
                for (label, k) in k_means.iter().enumerate() {
                    let score: f64 = q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() / root;
                    let node = node.to_string();
                    tables.class_matrix.push(row![name, &*node, *set_name, letter(right), letter(label), score])?;
                }
            }
            if *set_name != "A to D" {
                continue;
            }
            let hits = |code: &Code, all: &Classed| {
                let low: Vec<Vec<f64>> = code.class_means.iter().map(|mean| code.projected(mean, params.low)).collect();
                mean(&all.iter().map(|(class, x)| f64::from(u8::from(nearest(x, &low) == *class))).collect::<Vec<_>>())
            };
            let accuracies = [hits(&code[0], &low_queries), hits(&code[1], &low_keys)];
            if at == 0 {
                run.metric(&format!("{name}.query_accuracy"), accuracies[0], "fraction");
                run.metric(&format!("{name}.key_accuracy"), accuracies[1], "fraction");
            }
            for (which, all) in [&queries, &keys].into_iter().enumerate() {
                let mut shown = vec![0; options];
                for (class, x) in all {
                    if shown[*class] >= params.points {
                        continue;
                    }
                    shown[*class] += 1;
                    let at = code[which].coordinates(x, 3);
                    let axis = |i: usize| at.get(i).copied();
                    let space = ["queries by right option", "keys by label"][which];
                    let node = node.to_string();
                    tables.scatter.push(row![name, &*node, space, letter(*class), axis(0), axis(1), axis(2)])?;
                }
            }
            scores(study, *node, (&queries, &keys), code, tables)?;
        }
    }
    Ok(())
}

fn column_means(rows: &[Vec<f64>]) -> Vec<f64> {
    let width = rows.first().map_or(0, Vec::len);
    (0..width).map(|i| mean(&rows.iter().map(|row| row[i]).collect::<Vec<_>>())).collect()
}

/// Splits the variation of scores among labels into a fixed preference and a selection that depends on the question.
fn scores(
    study: &Study,
    node: Node,
    (queries, keys): (&Classed, &Classed),
    code: &[Code; 3],
    tables: &mut Tables,
) -> Result<()> {
    let options = study.eval.options();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let root = (code[0].mean().len() as f64).sqrt();
    let (mut fixed, mut selected, mut both) = (Vec::new(), Vec::new(), Vec::new());
    for ((_, query), keys) in queries.iter().zip(keys.chunks(options)) {
        for (_, key) in keys {
            let (preference, selection) = (dot(code[0].mean(), key) / root, dot(query, key) / root);
            fixed.push(preference);
            selected.push(selection);
            both.push(preference + selection);
        }
    }
    let share = |part: &[f64]| (standard_deviation(part) / standard_deviation(&both)).powi(2);
    let node = node.to_string();
    tables.scores.push(row![study.name(), &*node, share(&fixed), share(&selected), standard_deviation(&both)])?;
    Ok(())
}

/// Compares the position of an option with its letter as explanations of the variance, on shuffled labels.
fn variance(
    run: &Run,
    params: &Params,
    study: &Study,
    (heads, codes): (&[Node], &[[Code; 3]]),
    tables: &mut Tables,
) -> Result<()> {
    let (name, batch) = (study.name(), params.common.questions.batch);
    let set = relabelled(run, study, Mutation::ShuffledLabels);
    let correct = set.correct();
    let options = set.options();
    let vectors = collect(&study.subject, &set.prompts, heads, batch)?;
    // The letter at each position, as an index from A.
    let letters: Vec<Vec<usize>> = set
        .questions
        .iter()
        .map(|question| question.labels.iter().map(|label| usize::from(label.as_bytes()[0] - b'A')).collect())
        .collect();
    for (at, ((node, code), vectors)) in heads.iter().zip(codes).zip(&vectors).enumerate() {
        for (which, space) in Space::ALL.into_iter().enumerate() {
            let all = code[which].centred(&vectors[which], &correct);
            let rows: Vec<Vec<f64>> = all.iter().map(|(_, x)| x.clone()).collect();
            let (mut position, mut of_letter, mut by_right) = (Vec::new(), Vec::new(), Vec::new());
            for (prompt, right) in correct.iter().enumerate() {
                let places = if space == Space::Query { vec![*right] } else { (0..options).collect() };
                for place in places {
                    position.push(place);
                    of_letter.push(letters[prompt][place]);
                    by_right.push(place * options + right);
                }
            }
            let x = matrix(&rows);
            let alone = additive_r2(x.as_ref(), &[&position])?;
            let together = additive_r2(x.as_ref(), &[&position, &of_letter])?;
            let with_right = additive_r2(x.as_ref(), &[&by_right])?;
            let shares = [
                ("position", alone),
                ("letter", together - alone),
                ("residual", 1. - together),
                ("position by right option", with_right),
            ];
            let id = node.to_string();
            for (factor, share) in shares {
                // Vectors without variation have no shares, such as queries of the first block, which depend on the
                // last token only.
                tables.variance.push(row![name, &*id, space.letter(), factor, share.is_finite().then_some(share)])?;
            }
            let hits = |classes: &[usize]| {
                let hit = |(x, class): (&Vec<f64>, &usize)| {
                    f64::from(u8::from(nearest(x, &code[which].class_means) == *class))
                };
                mean(&rows.iter().zip(classes).map(hit).collect::<Vec<_>>())
            };
            tables.variance.push(row![name, &*id, space.letter(), "read as position", hits(&position)])?;
            tables.variance.push(row![name, &*id, space.letter(), "read as letter", hits(&of_letter)])?;
            if at == 0 {
                let space = ["query", "key", "value"][which];
                run.metric(&format!("{name}.position.{space}"), alone, "fraction");
                run.metric(&format!("{name}.letter.{space}"), together - alone, "fraction");
                if which == 1 {
                    run.metric(&format!("{name}.position_by_right.key"), with_right, "fraction");
                }
            }
        }
    }
    Ok(())
}

/// Computes the rank of a label's own logit among all labels in the output of its low-rank value; 1 is the highest.
fn copying(
    run: &Run,
    params: &Params,
    study: &Study,
    heads: &[Node],
    codes: &[[Code; 3]],
    tables: &mut Tables,
) -> Result<()> {
    let (name, batch) = (study.name(), params.common.questions.batch);
    let model = &study.subject.model;
    let prompts: Vec<Prompt> = study.eval.prompts.iter().take(128).cloned().collect();
    let vectors = collect(&study.subject, &prompts, heads, batch)?;
    let answers = prompts.first().map(|prompt| prompt.answers.clone()).unwrap_or_default();
    let weights = model.weights();
    for (at, ((node, code), [_, _, v])) in heads.iter().zip(codes).zip(&vectors).enumerate() {
        let Some(head) = node.head() else { continue };
        let width = code[2].mean().len();
        let out = weights[&format!("blocks.{}.attn.W_O", node.layer().0)].narrow(0, head * width, width)?;
        for rank in [1, 2, params.low, width] {
            let mut rows: Vec<f32> = Vec::new();
            for of_prompt in v {
                let mut low = of_prompt.clone();
                (code[2].low_rank(rank).change)(0, &mut low);
                rows.extend(low.iter().flatten().map(|x| *x as f32));
            }
            let count = rows.len() / width;
            let values = Tensor::from_vec(rows, (count, width), &Device::Cpu)?.to_device(&model.device())?;
            let written = values.to_dtype(out.dtype())?.matmul(&out)?.unsqueeze(1)?; // [count, 1, d]
            let scale = Tensor::ones((count, 1, 1), written.dtype(), written.device())?;
            let logits = direct_logit_attribution(model, &written, &scale)?.squeeze(1)?;
            let ids = Tensor::new(answers.as_slice(), logits.device())?;
            let logits = crate::letters::rows(&logits.contiguous()?.index_select(&ids, 1)?)?;
            let rank_of = |(place, z): (usize, &Letters)| {
                let own = place % answers.len();
                1. + z.iter().filter(|other| **other > z[own]).count() as f64
            };
            let score = mean(&logits.iter().enumerate().map(rank_of).collect::<Vec<_>>());
            tables.copying.push(row![name, node.to_string().as_str(), rank, score])?;
            if at == 0 && rank == params.low {
                run.metric(&format!("{name}.own_label_rank"), score, "");
            }
        }
    }
    Ok(())
}

struct Tables {
    explained: Builder,
    ranks: Builder,
    scatter: Builder,
    class_matrix: Builder,
    variance: Builder,
    scores: Builder,
    copying: Builder,
}

impl Tables {
    fn new() -> Self {
        let head = |schema: Schema| {
            schema.text("subject", "name of the model").text("head", "name of the Correct Letter head")
        };
        let explained = head(Schema::new("explained", "one rank of one head's queries, keys or values"))
            .text("space", "space of the vectors: Q, K or V")
            .int("rank", "number of principal directions kept")
            .float("share", "share of the variance", "fraction")
            .float("noise", "share of the variance for independent Gaussian noise of the same shape", "fraction");
        let ranks = Schema::new("ranks", "one low-rank edit of one or all heads")
            .text("subject", "name of the model")
            .text("heads", "all Correct Letter heads together, or one of them")
            .text("edit", "spaces that are reduced")
            .int("rank", "number of principal directions kept; empty without an edit")
            .float("loss", "mean cross-entropy among the labels only", "nats")
            .float("m", "mean net logit of the right label", "logits")
            .float("accuracy", "share of questions answered correctly", "fraction")
            .float("right_label", "mean raw attention of the heads to the right label", "fraction")
            .float("other_labels", "mean raw attention of the heads to each other label", "fraction");
        let scatter = head(Schema::new("scatter", "one query or key"))
            .text("space", "whether the vector is a query or a key")
            .text("class", "letter of the position of the right option (queries) or of the label (keys)")
            .float("component_1", "coordinate along the first principal direction", "")
            .float("component_2", "coordinate along the second principal direction", "")
            .float("component_3", "coordinate along the third principal direction", "");
        let class_matrix =
            head(Schema::new("class_matrix", "mean score of one class of queries with one class of keys"))
                .text("set", "kind of labels of the questions")
                .text("right", "letter of the right option's position")
                .text("label", "letter of the label's position")
                .float(
                    "score",
                    "dot product of the low-rank mean query and key, divided by the square root of the head width",
                    "logits",
                );
        let variance = head(Schema::new("variance", "one factor of the variance on shuffled labels"))
            .text("space", "space of the vectors: Q, K or V")
            .text("factor", "factor that explains the variance, or reading of the vectors by the class means of A to D")
            .float("share", "share of the variance, or accuracy of the reading", "fraction");
        let scores = head(Schema::new("scores", "variation of the scores among labels in one head"))
            .float("fixed", "share of the variance due to a fixed preference for some labels", "fraction")
            .float("selected", "share of the variance due to selection by the question", "fraction")
            .float("spread", "standard deviation of the total score", "logits");
        let copying = head(Schema::new("copying", "the output of one head's low-rank values"))
            .int("rank", "number of principal directions kept")
            .float("own_label", "mean rank of the label's own logit among all labels; 1 is the highest", "");
        let [explained, ranks, scatter, class_matrix, variance, scores, copying] =
            [explained, ranks, scatter, class_matrix, variance, scores, copying].map(Builder::new);
        Self { explained, ranks, scatter, class_matrix, variance, scores, copying }
    }

    fn record(self, run: &Run) -> Result<()> {
        let tables =
            [self.explained, self.ranks, self.scatter, self.class_matrix, self.variance, self.scores, self.copying];
        for table in tables {
            run.record(table.finish()?);
        }
        Ok(())
    }
}
