//! A made-up folder of results through drawing, reports, the page and the scoreboard.

use std::{collections::BTreeMap, path::Path};

use config::{Code, Envelope, Machine, Manifest};
use tables::{Schema, Table, row, standard, write_index};

use super::*;

/// Two methods, three digits, five steps; `aux` only has the first two steps.
fn curves() -> Table {
    let schema = Schema::new("t", "one digit at one step")
        .text("method", "how trained")
        .text("digit", "which")
        .int("step", "when")
        .float("loss", "cross-entropy", "nats");
    let mut rows = Vec::new();
    for (method, steps) in [("sft", 5), ("icot", 5), ("aux", 2)] {
        for digit in 0..3 {
            for step in 0..steps {
                let loss = 11.0 / (1.0 + step as f64) + f64::from(digit);
                rows.push(row![method, format!("c{digit}"), step * 5000, loss]);
            }
        }
    }
    Table::from_rows(schema, rows).unwrap()
}

const CONFIG: &str = "
paper: icot-mult
experiment: train
profile: cpu
title: Losses <b>per digit</b> & more
summary: What it does, where a < b.
artefacts: [{id: M-F1, title: A figure}, {id: M-ACC, title: A table}]
seed: 1
params: {lr: 0.001, task: {digits: 3}}
published:
  - {artefact: M-ACC, metric: accuracy, statement: exact match, value: 0.99, unit: fraction, source: 'Table <1>', provenance: published}
claims:
  - {id: learns, artefact: M-ACC, statement: It learns a<b, metric: accuracy, threshold: {at_least: 0.9}, published: 0.99, unit: fraction, source: section 3}
  - {id: fails, artefact: M-ACC, statement: Something else, metric: other, threshold: {at_most: 1}}
figures:
  - {id: losses, artefact: M-F1, title: Losses, caption: Look <here>., kind: line, table: t, x: step, y: loss, series: digit, facet: method}
";

fn config() -> Envelope {
    config::yaml::from_str(CONFIG, "test").unwrap()
}

fn with(config: Envelope) -> Options {
    Options { config: Some(config), ..Options::default() }
}

/// Writes a finished run with the given accuracy.
fn run_folder(folder: &Path, mut config: Envelope, accuracy: f64) {
    let t = curves();
    let metrics =
        Table::from_rows(standard::metrics(), [row!["accuracy", accuracy, "fraction"], row!["other", 2.0, "nats"]])
            .unwrap();
    let all = [&t, &metrics];
    for table in all {
        table.write(folder).unwrap();
    }
    write_index(folder, &all.map(|t| (t.schema(), t.len()))).unwrap();
    config.body.sweep = None;
    let mut manifest = Manifest {
        run_id: storage::hash_bytes(config.identity().as_bytes())[..12].into(),
        rehearsal: false,
        config,
        points: Vec::new(),
        needs: BTreeMap::new(),
        inputs: BTreeMap::new(),
        outputs: BTreeMap::new(),
        streams: vec!["init".into()],
        code: Code::default(),
        machine: Machine { device: "cpu".into(), threads: 2, ..Machine::default() },
        wall_seconds: 75.0,
        peak_mib: None,
    };
    tables::evaluate(folder, &mut manifest).unwrap();
}

fn results() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("icot-mult/train");
    std::fs::create_dir_all(&folder).unwrap();
    run_folder(&folder, config(), 0.93);
    experiment(&folder, &Options::default()).unwrap();
    root
}

#[test]
fn the_page_shows_everything_and_loads_nothing() {
    let root = results();
    assert_eq!(index(root.path()).unwrap(), 1);
    let html = std::fs::read_to_string(root.path().join("index.html")).unwrap();
    for part in [
        "✔ holds",
        "✘ fails",
        "It learns a&lt;b",
        "1 of 2 claims hold",
        "≥ 0.9",
        "−0.06",
        "<svg role=\"img\"",
        "Look &lt;here&gt;.",
        "Losses &lt;b&gt;per digit&lt;/b&gt; &amp; more",
        "href=\"icot-mult/train/t.csv\"",
        "<details>",
        "Table &lt;1&gt;",
        "@media print",
    ] {
        assert!(html.contains(part), "no {part:?}");
    }
    for forbidden in ["http://", "https://", "<b>per", "<here>", "<script", "<link", "src="] {
        assert!(!html.contains(forbidden), "{forbidden:?} in the page");
    }
    assert!(html.find("Scoreboard</h2>").unwrap() < html.find("<figure").unwrap());

    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(root.path().join("index.json")).unwrap()).unwrap();
    assert_eq!(json["artefacts"][0]["files"][0], "icot-mult/train/losses.svg");
    assert_eq!(json["claims"][0]["holds"], true);
    assert_eq!(json["claims"][1]["holds"], false);
    assert_eq!(json["runs"][0]["experiment"], "train");
}

#[test]
fn the_report_and_the_scoreboard_agree() {
    let root = results();
    let report = std::fs::read_to_string(root.path().join("icot-mult/train/report.md")).unwrap();
    for part in
        ["✔ holds", "![Losses](losses.svg)", "## Published next to ours", "[t.csv](t.csv)", "<details>", "1 min 15 s"]
    {
        assert!(report.contains(part), "no {part:?} in\n{report}");
    }
    let (report, _) = report.split_once("## Manifest").unwrap();
    assert!(!report.contains("a<b"));
    let board = scoreboard(root.path(), &[]).unwrap();
    assert!(board.contains("✔ holds") && board.contains("0.93 fraction, threshold >= 0.9, published 0.99"), "{board}");
    assert!(board.ends_with("1 of 2 claims hold\n"));
    assert!(scoreboard(root.path(), &["icot-mult/train".into()]).is_ok());
    assert!(scoreboard(root.path(), &["hyperprobe".into()]).is_err());
}

#[test]
fn hidden_folders_and_points_are_not_results() {
    let root = results();
    for inner in [".runs/smoke/icot-mult/train", "icot-mult/train/points/1", "icot-mult/train/artifacts/x"] {
        let folder = root.path().join(inner);
        std::fs::create_dir_all(&folder).unwrap();
        run_folder(&folder, config(), 0.5);
    }
    assert_eq!(runs(root.path()).unwrap().len(), 1);
}

#[test]
fn rehearsals_are_marked_everywhere() {
    let root = results();
    let path = root.path().join("icot-mult/train/run.yaml");
    let text = std::fs::read_to_string(&path).unwrap().replace("rehearsal: false", "rehearsal: true");
    std::fs::write(&path, text).unwrap();
    experiment(path.parent().unwrap(), &Options::default()).unwrap();
    index(root.path()).unwrap();
    let html = std::fs::read_to_string(root.path().join("index.html")).unwrap();
    assert!(html.contains("REHEARSAL") && !html.contains("✔ holds"));
    assert!(scoreboard(root.path(), &[]).unwrap().contains("REHEARSAL"));
    assert!(std::fs::read_to_string(root.path().join("icot-mult/train/report.md")).unwrap().contains("REHEARSAL"));
}

#[test]
fn new_titles_and_thresholds_need_no_new_run_but_new_parameters_do() {
    let root = results();
    let folder = root.path().join("icot-mult/train");
    let text = CONFIG.replace("at_least: 0.9}", "at_least: 0.95}").replace("title: Losses, ", "title: Renamed, ");
    let changed: Envelope = config::yaml::from_str(&text.replace("id: losses", "id: renamed"), "test").unwrap();
    experiment(&folder, &with(changed)).unwrap();
    assert!(folder.join("renamed.svg").exists() && !folder.join("losses.svg").exists());
    let run = Run::open(&folder).unwrap();
    assert_eq!(run.claim_rows().unwrap()[0].holds(), Some(false));
    assert_eq!(run.config.body.figures[0].title, "Renamed");
    let moved: Envelope = config::yaml::from_str(&CONFIG.replace("lr: 0.001", "lr: 0.1"), "test").unwrap();
    assert!(experiment(&folder, &with(moved)).unwrap_err().to_string().contains("run it again"));
}

#[test]
fn one_bad_figure_does_not_stop_the_others() {
    let root = results();
    let folder = root.path().join("icot-mult/train");
    let bad = "figures:\n  - {id: bad, artefact: M-F1, title: Bad, kind: line, table: u, x: step, y: loss}\n";
    let changed: Envelope = config::yaml::from_str(&CONFIG.replace("figures:\n", bad), "test").unwrap();
    std::fs::remove_file(folder.join("losses.svg")).unwrap();
    let error = experiment(&folder, &with(changed)).unwrap_err().to_string();
    assert!(error.contains("figure `bad`") && error.contains("no table `u`"), "{error}");
    assert!(folder.join("losses.svg").exists());
}

#[test]
fn a_run_that_is_still_going_is_drawn_as_far_as_it_has_come() {
    let root = tempfile::tempdir().unwrap();
    let config = config();
    assert!(experiment(root.path(), &Options::default()).unwrap_err().to_string().contains("no run.yaml"));
    let options = Options { config: Some(config), partial: true, ..Options::default() };
    let messages = experiment(root.path(), &options).unwrap();
    assert!(messages[0].contains("not drawn yet"), "{messages:?}");
    let t = curves();
    t.write(root.path()).unwrap();
    write_index(root.path(), &[(t.schema(), t.len())]).unwrap();
    experiment(root.path(), &options).unwrap();
    assert!(root.path().join("losses.svg").exists());
    assert!(std::fs::read_to_string(root.path().join("report.md")).unwrap().contains("Still running"));
}

#[test]
fn points_join_into_one_run() {
    let root = tempfile::tempdir().unwrap();
    let sweep = "sweep: {grid: {seed: [1, 2], params.task.digits: [2, 3]}}\n";
    let whole: Envelope = config::yaml::from_str(&format!("{CONFIG}{sweep}"), "test").unwrap();
    let mut points = Vec::new();
    for (i, (seed, digits)) in [(1, 2), (1, 3), (2, 2), (2, 3)].into_iter().enumerate() {
        let text =
            CONFIG.replace("seed: 1", &format!("seed: {seed}")).replace("digits: 3", &format!("digits: {digits}"));
        let folder = root.path().join(format!("points/{i}"));
        std::fs::create_dir_all(&folder).unwrap();
        run_folder(&folder, config::yaml::from_str(&text, "test").unwrap(), 0.91 + 0.01 * i as f64);
        points.push(PointFolder { id: i.to_string(), folder });
    }
    let out = root.path().join("icot-mult/train");
    join(&whole, &out, &points, Some("abc")).unwrap();
    let run = Run::open(&out).unwrap();
    let rows = run.claim_rows().unwrap();
    assert_eq!((rows[0].measured, rows[0].n, rows[0].holds()), (Some(0.91), 4, Some(true)));
    let joined = Table::read(&out, "t").unwrap();
    assert_eq!(joined.len(), 4 * curves().len());
    let names: Vec<_> = joined.schema().columns.iter().take(3).map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["seed", "digits", "method"]);
    // two numbers of digits and two metrics, each over two seeds: 0.91 and 0.93, 0.92 and 0.94
    let summary = Table::read(&out, "metrics_summary").unwrap();
    assert_eq!(summary.ints("n").unwrap(), [Some(2); 4]);
    let means = summary.floats("mean").unwrap();
    assert!((means[0] - 0.92).abs() < 1e-12 && (means[2] - 0.93).abs() < 1e-12, "{means:?}");
    let manifest = run.manifest.unwrap();
    assert_eq!((manifest.points.len(), manifest.code.hash.as_str()), (4, "abc"));
    assert_eq!(manifest.wall_seconds, 300.0);
    experiment(&out, &with(whole.clone())).unwrap();

    // a new threshold over the same points
    let mut stricter = whole.clone();
    stricter.body.claims[0].threshold = config::Threshold::AtLeast(0.92);
    experiment(&out, &with(stricter)).unwrap();
    assert_eq!(Run::open(&out).unwrap().claim_rows().unwrap()[0].holds(), Some(false));

    std::fs::remove_file(points[2].folder.join(config::MANIFEST)).unwrap();
    let error = join(&whole, &out, &points, None).unwrap_err().to_string();
    assert!(error.contains("point 2") && error.contains("not finished"), "{error}");
}

#[test]
fn png_files_are_written_on_request_and_removed_with_the_next_drawing() {
    let root = results();
    let folder = root.path().join("icot-mult/train");
    let png = folder.join("losses.png");
    assert!(!png.exists());
    experiment(&folder, &Options { png: true, ..Options::default() }).unwrap();
    assert!(std::fs::read(&png).unwrap().starts_with(b"\x89PNG"));
    experiment(&folder, &Options::default()).unwrap();
    assert!(!png.exists() && folder.join("losses.svg").exists());
}
