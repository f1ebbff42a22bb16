//! The smoke profile against committed tables, and against what must hold whatever the numbers are.

use std::collections::BTreeMap;

use tables::{Table, Tolerance};
use trial::assert_same;

use crate::PROGRAM;

/// Rounding differs between processors and grows over the steps of the smoke run, so numbers have room.
const ROOM: Tolerance = Tolerance { relative: 2e-2, absolute: 5e-3 };

#[test]
fn smoke_tables_are_the_golden_ones_and_the_maps_are_consistent() {
    let pretrain = PROGRAM.trial("pretrain", &[]);
    pretrain.finish();
    PROGRAM.check_golden(&pretrain, &["curves", "corpus"], ROOM);
    let ioi = PROGRAM.trial("ioi", &[]).needing("ln-removal/pretrain", &pretrain.results());
    ioi.finish();
    PROGRAM.check_golden(&ioi, &["prompts", "behaviour"], ROOM);
    consistent(&Table::read(&ioi.results(), "maps").unwrap());
    // the toy is a checkpoint like any other, and batches do not matter
    let toy = pretrain.results().join("models/toy");
    let models = format!("params.models=[{{name: toy, model: {}}}]", toy.display());
    let by_path = PROGRAM.trial("ioi", &["needs=[]", &models, "params.batch_pairs=3"]);
    by_path.finish();
    let maps = [&ioi, &by_path].map(|trial| Table::read(&trial.results(), "maps").unwrap());
    tables::compare(&maps[0], &maps[1], Tolerance { relative: 1e-3, absolute: 1e-4 }).unwrap();
}

/// Patching S2 before the first block gives the clean run; nothing before it, and nothing behind the last place.
fn consistent(maps: &Table) {
    let text = |column| -> Vec<String> { maps.texts(column).unwrap().into_iter().map(Option::unwrap).collect() };
    let (method, position) = (text("method"), text("position"));
    let (layer, effect) = (maps.ints("layer").unwrap(), maps.floats("effect").unwrap());
    let place = |label: &str| -> usize { label.split(' ').next().unwrap().parse().unwrap() };
    let cells =
        (0..maps.len()).map(|row| ((method[row].clone(), layer[row].unwrap(), place(&position[row])), effect[row]));
    let seen: BTreeMap<(String, i64, usize), f64> = cells.collect();
    let s2 = place(position.iter().find(|label| label.ends_with(" S2")).unwrap());
    for ((method, layer, place), effect) in &seen {
        if *place < s2 {
            assert_eq!(*effect, 0., "{method} block {layer} place {place}");
        }
        if method == "activation" && *layer == 0 {
            let expected = if *place == s2 { 1. } else { 0. };
            assert!((effect - expected).abs() < 1e-5, "place {place}: {effect}");
        }
    }
}

#[test]
fn one_and_two_threads_give_the_same_bytes() {
    let one = PROGRAM.trial("pretrain", &[]);
    one.finish();
    let two = PROGRAM.trial("pretrain", &[]).threads(2);
    two.finish();
    assert_same(&one.tables(), &two.tables());
    let ioi = |threads| {
        let ioi = PROGRAM.trial("ioi", &[]).needing("ln-removal/pretrain", &one.results()).threads(threads);
        ioi.finish();
        ioi.tables()
    };
    assert_same(&ioi(1), &ioi(2));
}
