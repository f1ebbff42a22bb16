//! Small tables through every kind of figure, and a made-up results folder through the pages.

use std::{collections::BTreeMap, path::Path};

use config::{Code, Envelope, Machine, Manifest};
use tables::{Schema, row, standard, write_index};

use super::*;

fn figure(text: &str) -> Figure {
    config::yaml::from_str(&format!("{{id: f, artefact: M-F1, title: The title, table: t, {text}}}"), "test").unwrap()
}

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

fn svg(text: &str, table: &Table) -> String {
    let picture = draw(&figure(text), table, None, None, true).unwrap();
    assert!(picture.png.starts_with(b"\x89PNG") && picture.png.len() > 2000);
    picture.svg
}

fn has(svg: &str, label: &str) -> bool {
    svg.contains(&format!("\n{label}</text>"))
}

#[test]
fn every_kind_has_its_labels() {
    let table = curves();
    let check = |text: &str, labels: &[&str]| {
        let svg = svg(text, &table);
        for label in labels {
            assert!(has(&svg, label), "{text}: no {label:?} in\n{svg}");
        }
    };
    check(
        "kind: line, x: step, y: loss, series: digit, facet: method, names: {sft: plain fine-tuning}",
        &["The title", "plain fine-tuning", "icot", "c0", "c2", "step", "loss (nats)", "10k", "20k"],
    );
    check(
        "kind: line, x: step, y: loss, series: digit, where: {method: sft}, y_scale: log, rules: [{y: 2.3, label: chance}]",
        &["chance", "3", "5", "10"],
    );
    check("kind: scatter, x: step, y: loss, series: method, x_label: steps taken", &["steps taken", "sft", "aux"]);
    check(
        "kind: bar, x: digit, y: loss, series: method, where: {step: 0}, annotate: 1",
        &["c1", "11.0", "13.0", "icot"],
    );
    check(
        "kind: heat_map, x: step, y: digit, value: loss, facet: method, annotate: 1, value_label: how much",
        &["c0", "0", "5000", "20000", "how much", "11.0", "3.7", "aux"],
    );
    check("kind: histogram, x: loss, series: method, bins: 5", &["count", "loss (nats)", "sft"]);
}

#[test]
fn the_same_figure_is_the_same_bytes() {
    let table = curves();
    let figure = figure("kind: line, x: step, y: loss, series: digit, facet: method");
    let (a, b) = (draw(&figure, &table, None, None, true).unwrap(), draw(&figure, &table, None, None, true).unwrap());
    assert_eq!(a.svg, b.svg);
    assert_eq!(a.png, b.png);
}

#[test]
fn points_in_space_have_a_box_three_names_and_lines() {
    let schema =
        Schema::new("t", "").text("m", "").int("d", "").float("a", "", "").float("b", "", "").float("c", "", "");
    let rows = (0..40).map(|i| {
        let t = f64::from(i);
        row![if i < 20 { "one" } else { "two" }, i % 10, t.sin(), t.cos(), t / 40.0]
    });
    let table = Table::from_rows(schema, rows).unwrap();
    let ends = ["x_from", "y_from", "z_from", "x_to", "y_to", "z_to"];
    let schema = ends.iter().fold(Schema::new("l", "").text("m", ""), |schema, name| schema.float(*name, "", ""));
    let lines = Table::from_rows(schema, [row!["two", 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]]).unwrap();
    let text = "kind: scatter_3d, x: a, y: b, z: c, series: d, facet: m, links: l";
    let figure = figure(text);
    assert_eq!(figure.files().last().map(String::as_str), Some("l.csv"));
    let count = |links: Option<&Table>| {
        let picture = draw(&figure, &table, None, links, true).unwrap();
        for word in ["a", "b", "c", "one", "two"] {
            assert!(has(&picture.svg, word), "{word}");
        }
        picture.svg.matches("<polyline").count() + picture.svg.matches("<line").count()
    };
    assert_eq!(count(Some(&lines)), count(None) + 1);
    // the page can turn it: every point and line is there for each panel
    let picture = draw(&figure, &table, None, Some(&lines), true).unwrap();
    let json = picture.svg.split_once("<metadata>").unwrap().1.split_once("</metadata>").unwrap().0;
    let scene: serde_json::Value = serde_json::from_str(json).unwrap();
    let count = |panel: usize, of: &str| scene["panels"][panel][of].as_array().unwrap().len();
    assert_eq!([count(0, "points"), count(1, "points"), count(0, "links"), count(1, "links")], [20, 20, 0, 1]);
    assert_eq!(scene["colours"].as_array().unwrap().len(), 10);
    let wrong = Table::from_rows(Schema::new("l", "").text("m", ""), [row!["two"]]).unwrap();
    let refused = draw(&figure, &table, None, Some(&wrong), true).unwrap_err().to_string();
    assert!(refused.contains("x_from"), "{refused}");
}

#[test]
fn points_far_outside_are_left_out_and_told() {
    let schema = Schema::new("t", "").float("a", "", "").float("b", "", "").float("c", "", "");
    let rows = (0..300).map(|i| {
        let t = f64::from(i);
        row![if i == 7 { 90.0 } else { t.sin() }, t.cos(), (t * 0.7).sin()]
    });
    let table = Table::from_rows(schema, rows).unwrap();
    let picture = draw(&figure("kind: scatter_3d, x: a, y: b, z: c"), &table, None, None, true).unwrap();
    assert!(picture.notes.iter().any(|note| note == "1 point far outside is not drawn."), "{:?}", picture.notes);
    let json = picture.svg.split_once("<metadata>").unwrap().1.split_once("</metadata>").unwrap().0;
    let scene: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(scene["panels"][0]["points"].as_array().unwrap().len(), 299);
}

#[test]
fn arcs_join_places_on_two_sides() {
    let schema = Schema::new("t", "").text("q", "").text("k", "").int("head", "").int("layer", "").float("w", "", "");
    let rows = [row!["c", "a", 0, 1, 0.9], row!["c", "b", 1, 1, 0.4], row!["b", "b", 0, 0, 0.5]];
    let table = Table::from_rows(schema, rows).unwrap();
    let text = "kind: arcs, x: k, y: q, value: w, series: head, side: layer, order: {k: [a, b, c]}";
    let picture = draw(&figure(text), &table, None, None, true).unwrap();
    for word in ["a", "b", "c", "head:", "width: w"] {
        assert!(has(&picture.svg, word), "{word}");
    }
    let refused =
        draw(&figure("kind: arcs, x: k, y: q, value: w, side: w"), &table, None, None, true).unwrap_err().to_string();
    assert!(refused.contains("`side` has room for two"), "{refused}");
    let refused = draw(&figure("kind: line, x: head, y: w, z: w"), &table, None, None, true).unwrap_err().to_string();
    assert!(refused.contains("`z`"), "{refused}");
}

#[test]
fn colours_around_a_centre_are_white_there_and_reach_as_far_on_both_sides() {
    let schema = Schema::new("t", "").text("a", "").int("x", "").float("y", "", "");
    let rows = [row!["a", 0, -1.0], row!["a", 1, 0.0], row!["a", 2, 4.0]];
    let table = Table::from_rows(schema, rows).unwrap();
    let text = "kind: heat_map, x: x, y: a, value: y, value_centre: 0";
    let picture = draw(&figure(text), &table, None, None, true).unwrap();
    // white at the centre, darkest red at the far end, and the other side only a quarter of the way to darkest blue
    for (colour, there) in
        [("#F7F7F7", true), ("#67001F", true), ("#053061", true), ("#C1DDEC", true), ("#440154", false)]
    {
        assert_eq!(picture.svg.to_uppercase().contains(colour), there, "{colour}");
    }
    assert!(has(&picture.svg, "-4") || has(&picture.svg, "−4"), "{}", picture.svg);
    for wrong in ["value_range: [0, 1]", "value_scale: log"] {
        let refused = draw(&figure(&format!("{text}, {wrong}")), &table, None, None, true).unwrap_err().to_string();
        assert!(refused.contains("value_centre"), "{refused}");
    }
}

#[test]
fn overlays_join_the_series_and_split_the_maps() {
    let table = curves();
    let theirs = table.filter("method", &["sft".into()]).unwrap();
    let text = "kind: line, x: step, y: loss, series: digit, facet: method, overlay: {file: x.csv, label: published}";
    let picture = draw(&figure(text), &table, Some(&theirs), None, true).unwrap();
    assert!(has(&picture.svg, "published"));
    let text = "kind: heat_map, x: step, y: digit, value: loss, where: {method: sft}, overlay: {file: x.csv, label: published}";
    let picture = draw(&figure(text), &table, Some(&theirs), None, true).unwrap();
    assert!(has(&picture.svg, "published") && has(&picture.svg, "ours"));
    let other = Table::from_rows(Schema::new("o", "").int("stop", ""), [row![1]]).unwrap();
    let error = draw(&figure(text), &table, Some(&other), None, true).unwrap_err().to_string();
    assert!(error.contains("overlay") && error.contains("`step`"), "{error}");
}

#[test]
fn mistakes_are_named_with_the_nearest_words() {
    let table = curves();
    let check = |text: &str, parts: &[&str]| {
        let error = draw(&figure(text), &table, None, None, true).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{text}: {error:?} lacks {part:?}");
        }
    };
    check("kind: line, x: stp, y: loss", &["`stp`", "did you mean `step`"]);
    check("kind: line, x: step", &["a line figure needs the key `y`"]);
    check("kind: histogram, x: loss, y: step", &["no use for the key `y`"]);
    check("kind: line, x: step, y: loss, where: {method: stf}", &["`method: stf`", "did you mean `sft`", "`icot`"]);
    check("kind: line, x: step, y: loss, where: {step: 4900}", &["`step: 4900`", "there is `5000`, `0`"]);
    check("kind: line, x: step, y: loss, series: method, order: {method: [sft, icto]}", &["did you mean `icot`"]);
    check("kind: line, x: step, y: loss, order: {digits: [c0]}", &["does not use"]);
    check("kind: line, x: step, y: method", &["`method` is text"]);
    check("kind: line, x: step, y: loss, where: {method: aux, step: 20000}", &["none of the 36 rows"]);
    check("kind: line, x: step, y: loss, x_scale: log, x_range: [0, 10]", &["must be positive"]);
    // what is left out need not be there
    let rest = figure("kind: line, x: step, y: loss, series: method, where: {method: {not: [sft, late]}}");
    assert!(draw(&rest, &table, None, None, true).is_ok());
    let error = draw(&figure("kind: line, x: step, y: loss, where: {method: [sft, late]}"), &table, None, None, false);
    assert!(error.unwrap().notes[0].contains("late"));
}

#[test]
fn repeated_rows_become_means_and_say_so() {
    let picture = draw(&figure("kind: line, x: step, y: loss, series: digit"), &curves(), None, None, true).unwrap();
    assert!(picture.notes[0].contains("means"));
    assert!(picture.svg.contains("<desc>Lines are means"));
}

#[test]
fn odd_data_still_draws() {
    let schema = Schema::new("t", "").text("a", "").int("x", "").float("y", "", "");
    let names = "a rather long category name that cannot stand level";
    for rows in [
        vec![row!["only", 1, 1.0]],
        vec![row!["a", 1, f64::NAN], row!["a", 2, 0.0]],
        vec![row!["a", 0, -5.0], row!["b", 0, 1e9]],
        (0..30).map(|i| row![format!("{names} {i}"), i, f64::from(i)]).collect(),
        (0..4000).map(|i| row!["a", i, f64::from(i % 7)]).collect(),
    ] {
        let table = Table::from_rows(schema.clone(), rows).unwrap();
        for text in [
            "kind: line, x: x, y: y, series: a, facet: a, x_scale: log, y_scale: log",
            "kind: line, x: x, y: y",
            "kind: scatter, x: x, y: a",
            "kind: bar, x: a, y: y, series: x",
            "kind: heat_map, x: x, y: a, value: y, value_scale: log, annotate: 2",
            "kind: histogram, x: y, x_scale: log",
        ] {
            if table.len() < 1000 || !text.contains("series: x") {
                draw(&figure(text), &table, None, None, true).unwrap();
            }
        }
    }
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

/// A finished run with the given accuracy.
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
    experiment(&folder, None, None, false).unwrap();
    root
}

#[test]
fn the_page_has_everything_and_loads_nothing() {
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
fn the_report_and_the_board_say_the_same() {
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
    assert!(board.contains("✔ holds") && board.contains("0.93 fraction, bar >= 0.9, published 0.99"), "{board}");
    assert!(board.ends_with("1 of 2 claims hold\n"));
    assert!(scoreboard(root.path(), &["icot-mult/train".into()]).is_ok());
    assert!(scoreboard(root.path(), &["hyperprobe".into()]).is_err());
}

#[test]
fn hidden_folders_and_points_are_no_results() {
    let root = results();
    for inner in [".runs/smoke/icot-mult/train", "icot-mult/train/points/1", "icot-mult/train/artifacts/x"] {
        let folder = root.path().join(inner);
        std::fs::create_dir_all(&folder).unwrap();
        run_folder(&folder, config(), 0.5);
    }
    assert_eq!(runs(root.path()).unwrap().len(), 1);
}

#[test]
fn rehearsals_are_loud() {
    let root = results();
    let path = root.path().join("icot-mult/train/run.yaml");
    let text = std::fs::read_to_string(&path).unwrap().replace("rehearsal: false", "rehearsal: true");
    std::fs::write(&path, text).unwrap();
    experiment(path.parent().unwrap(), None, None, false).unwrap();
    index(root.path()).unwrap();
    let html = std::fs::read_to_string(root.path().join("index.html")).unwrap();
    assert!(html.contains("REHEARSAL") && !html.contains("✔ holds"));
    assert!(scoreboard(root.path(), &[]).unwrap().contains("REHEARSAL"));
    assert!(std::fs::read_to_string(root.path().join("icot-mult/train/report.md")).unwrap().contains("REHEARSAL"));
}

#[test]
fn new_words_and_bars_need_no_new_run_but_new_parameters_do() {
    let root = results();
    let folder = root.path().join("icot-mult/train");
    let text = CONFIG.replace("at_least: 0.9}", "at_least: 0.95}").replace("title: Losses, ", "title: Renamed, ");
    let changed: Envelope = config::yaml::from_str(&text.replace("id: losses", "id: renamed"), "test").unwrap();
    experiment(&folder, Some(changed), None, false).unwrap();
    assert!(folder.join("renamed.svg").exists() && !folder.join("losses.svg").exists());
    let run = Run::open(&folder).unwrap();
    assert_eq!(run.verdicts().unwrap()[0].holds, Some(false));
    assert_eq!(run.config.body.figures[0].title, "Renamed");
    let moved: Envelope = config::yaml::from_str(&CONFIG.replace("lr: 0.001", "lr: 0.1"), "test").unwrap();
    assert!(experiment(&folder, Some(moved), None, false).unwrap_err().to_string().contains("run it again"));
}

#[test]
fn one_bad_figure_does_not_keep_the_others_away() {
    let root = results();
    let folder = root.path().join("icot-mult/train");
    let bad = "figures:\n  - {id: bad, artefact: M-F1, title: Bad, kind: line, table: u, x: step, y: loss}\n";
    let changed: Envelope = config::yaml::from_str(&CONFIG.replace("figures:\n", bad), "test").unwrap();
    std::fs::remove_file(folder.join("losses.svg")).unwrap();
    let error = experiment(&folder, Some(changed), None, false).unwrap_err().to_string();
    assert!(error.contains("figure `bad`") && error.contains("no table `u`"), "{error}");
    assert!(folder.join("losses.svg").exists());
}

#[test]
fn a_run_that_is_still_going_is_drawn_as_far_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    let config = config();
    assert!(experiment(root.path(), None, None, false).unwrap_err().to_string().contains("no run.yaml"));
    let told = experiment(root.path(), Some(config.clone()), None, true).unwrap();
    assert!(told[0].contains("not drawn yet"), "{told:?}");
    let t = curves();
    t.write(root.path()).unwrap();
    write_index(root.path(), &[(t.schema(), t.len())]).unwrap();
    experiment(root.path(), Some(config), None, true).unwrap();
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
    let rows = run.verdicts().unwrap();
    assert_eq!((rows[0].measured, rows[0].n, rows[0].holds), (Some(0.91), 4, Some(true)));
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
    experiment(&out, Some(whole.clone()), None, false).unwrap();

    // new bars over the same points
    let mut stricter = whole.clone();
    stricter.body.claims[0].threshold = config::Threshold::AtLeast(0.92);
    experiment(&out, Some(stricter), None, false).unwrap();
    assert_eq!(Run::open(&out).unwrap().verdicts().unwrap()[0].holds, Some(false));

    std::fs::remove_file(points[2].folder.join(config::MANIFEST)).unwrap();
    let error = join(&whole, &out, &points, None).unwrap_err().to_string();
    assert!(error.contains("point 2") && error.contains("not finished"), "{error}");
}
