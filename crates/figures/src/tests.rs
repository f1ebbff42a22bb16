//! Small tables through every kind of figure.

use tables::{Schema, row};

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

/// The SVG document and the notes of a figure over these tables.
fn drawn<'a>(text: &str, tables: impl Into<Tables<'a>>) -> (String, Vec<String>) {
    let figure = figure(text);
    let picture = draw(&figure, tables, true).unwrap();
    (picture.svg().unwrap(), picture.notes().to_vec())
}

/// The error of a figure that cannot be drawn over these tables.
fn refused<'a>(text: &str, tables: impl Into<Tables<'a>>) -> String {
    let figure = figure(text);
    draw(&figure, tables, true).err().unwrap().to_string()
}

fn scene(svg: &str) -> serde_json::Value {
    let json = svg.split_once("<metadata>").unwrap().1.split_once("</metadata>").unwrap().0;
    serde_json::from_str(json).unwrap()
}

fn has(svg: &str, label: &str) -> bool {
    svg.contains(&format!("\n{label}</text>"))
}

#[test]
fn every_kind_has_its_labels() {
    let table = curves();
    let check = |text: &str, labels: &[&str]| {
        let (svg, _) = drawn(text, &table);
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
    let bytes = || {
        let picture = draw(&figure, &table, true).unwrap();
        (picture.svg().unwrap(), picture.png().unwrap())
    };
    let (svg, png) = bytes();
    assert!(png.starts_with(b"\x89PNG") && png.len() > 2000);
    assert_eq!(bytes(), (svg, png));
}

#[test]
fn a_scatter_3d_has_a_box_three_axis_names_and_line_segments() {
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
    assert_eq!(figure(text).files(), ["f.svg", "t.csv", "l.csv"]);
    let count = |links: Option<&Table>| {
        let (svg, _) = drawn(text, Tables { links, ..Tables::from(&table) });
        for label in ["a", "b", "c", "one", "two"] {
            assert!(has(&svg, label), "{label}");
        }
        svg.matches("<polyline").count() + svg.matches("<line").count()
    };
    assert_eq!(count(Some(&lines)), count(None) + 1);
    // the page can rotate it: the points and segments of every panel are there
    let scene = scene(&drawn(text, Tables { links: Some(&lines), ..Tables::from(&table) }).0);
    let count = |panel: usize, of: &str| scene["panels"][panel][of].as_array().unwrap().len();
    assert_eq!([count(0, "points"), count(1, "points"), count(0, "links"), count(1, "links")], [20, 20, 0, 1]);
    assert_eq!(scene["colours"].as_array().unwrap().len(), 10);
    let wrong = Table::from_rows(Schema::new("l", "").text("m", ""), [row!["two"]]).unwrap();
    let error = refused(text, Tables { links: Some(&wrong), ..Tables::from(&table) });
    assert!(error.contains("x_from"), "{error}");
}

#[test]
fn points_far_outside_are_left_out_with_a_note() {
    let schema = Schema::new("t", "").float("a", "", "").float("b", "", "").float("c", "", "");
    let rows = (0..300).map(|i| {
        let t = f64::from(i);
        row![if i == 7 { 90.0 } else { t.sin() }, t.cos(), (t * 0.7).sin()]
    });
    let table = Table::from_rows(schema, rows).unwrap();
    let (svg, notes) = drawn("kind: scatter_3d, x: a, y: b, z: c", &table);
    assert!(notes.iter().any(|note| note == "1 point far outside is not drawn."), "{notes:?}");
    assert_eq!(scene(&svg)["panels"][0]["points"].as_array().unwrap().len(), 299);
}

#[test]
fn arcs_join_tokens_on_two_sides() {
    let schema = Schema::new("t", "").text("q", "").text("k", "").int("head", "").int("layer", "").float("w", "", "");
    let rows = [row!["c", "a", 0, 1, 0.9], row!["c", "b", 1, 1, 0.4], row!["b", "b", 0, 0, 0.5]];
    let table = Table::from_rows(schema, rows).unwrap();
    let text = "kind: arcs, x: k, y: q, value: w, series: head, side: layer, order: {k: [a, b, c]}";
    let (svg, _) = drawn(text, &table);
    for label in ["a", "b", "c", "head:", "width: w"] {
        assert!(has(&svg, label), "{label}");
    }
    let error = refused("kind: arcs, x: k, y: q, value: w, side: w", &table);
    assert!(error.contains("`side` has room for two"), "{error}");
    let error = refused("kind: line, x: head, y: w, z: w", &table);
    assert!(error.contains("`z`"), "{error}");
}

#[test]
fn a_diverging_scale_is_white_at_its_centre_and_symmetric() {
    let schema = Schema::new("t", "").text("a", "").int("x", "").float("y", "", "");
    let rows = [row!["a", 0, -1.0], row!["a", 1, 0.0], row!["a", 2, 4.0]];
    let table = Table::from_rows(schema, rows).unwrap();
    let text = "kind: heat_map, x: x, y: a, value: y, value_centre: 0";
    let (svg, _) = drawn(text, &table);
    // white at the centre, darkest red at the far end, and the other side only a quarter of the way to darkest blue
    for (colour, there) in
        [("#F7F7F7", true), ("#67001F", true), ("#053061", true), ("#C1DDEC", true), ("#440154", false)]
    {
        assert_eq!(svg.to_uppercase().contains(colour), there, "{colour}");
    }
    assert!(has(&svg, "-4") || has(&svg, "−4"), "{svg}");
    for wrong in ["value_range: [0, 1]", "value_scale: log"] {
        let error = refused(&format!("{text}, {wrong}"), &table);
        assert!(error.contains("value_centre"), "{error}");
    }
}

#[test]
fn an_overlay_joins_the_series_and_splits_a_heat_map() {
    let table = curves();
    let theirs = table.filter("method", &["sft".into()]).unwrap();
    let text = "kind: line, x: step, y: loss, series: digit, facet: method, overlay: {file: x.csv, label: published}";
    let with = |overlay| Tables { table: &table, overlay: Some(overlay), links: None };
    assert!(has(&drawn(text, with(&theirs)).0, "published"));
    let text = "kind: heat_map, x: step, y: digit, value: loss, where: {method: sft}, overlay: {file: x.csv, label: published}";
    let (svg, _) = drawn(text, with(&theirs));
    assert!(has(&svg, "published") && has(&svg, "ours"));
    let other = Table::from_rows(Schema::new("o", "").int("stop", ""), [row![1]]).unwrap();
    let error = refused(text, with(&other));
    assert!(error.contains("overlay") && error.contains("`step`"), "{error}");
}

#[test]
fn errors_name_the_nearest_columns_and_values() {
    let table = curves();
    let check = |text: &str, parts: &[&str]| {
        let error = refused(text, &table);
        for part in parts {
            assert!(error.contains(part), "{text}: {error:?} lacks {part:?}");
        }
    };
    check("kind: line, x: stp, y: loss", &["`stp`", "did you mean `step`"]);
    check("kind: line, x: step", &["a figure of kind `line` needs `y`"]);
    check("kind: histogram, x: loss, y: step", &["`y` means nothing in a figure of kind `histogram`"]);
    check("kind: line, x: step, y: loss, where: {method: stf}", &["`method: stf`", "did you mean `sft`", "`icot`"]);
    check("kind: line, x: step, y: loss, where: {step: 4900}", &["`step: 4900`", "there is `5000`, `0`"]);
    check("kind: line, x: step, y: loss, series: method, order: {method: [sft, icto]}", &["did you mean `icot`"]);
    check("kind: line, x: step, y: loss, order: {digits: [c0]}", &["does not use"]);
    check("kind: line, x: step, y: method", &["`method` is text"]);
    check("kind: line, x: step, y: loss, where: {method: aux, step: 20000}", &["none of the 36 rows"]);
    check("kind: line, x: step, y: loss, x_scale: log, x_range: [0, 10]", &["must be positive"]);
    // what is left out need not be there
    let rest = figure("kind: line, x: step, y: loss, series: method, where: {method: {not: [sft, late]}}");
    assert!(draw(&rest, &table, true).is_ok());
    let still_running = figure("kind: line, x: step, y: loss, where: {method: [sft, late]}");
    assert!(draw(&still_running, &table, false).unwrap().notes()[0].contains("late"));
}

#[test]
fn repeated_rows_become_means_with_a_note() {
    let (svg, notes) = drawn("kind: line, x: step, y: loss, series: digit", &curves());
    assert!(notes[0].contains("means"));
    assert!(svg.contains("<desc>Lines are means"));
}

#[test]
fn odd_data_still_draws() {
    let schema = Schema::new("t", "").text("a", "").int("x", "").float("y", "", "");
    let names = "a rather long category name that cannot stand level";
    for rows in [
        vec![row!["one row", 1, 1.0]],
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
                drawn(text, &table);
            }
        }
    }
}
