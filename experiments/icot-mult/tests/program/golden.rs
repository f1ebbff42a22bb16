//! The smoke profile against committed tables. `RETRACE_BLESS=1` rewrites them, for the reviewer of `git diff`.

use tables::Tolerance;
use trial::assert_same;

use crate::PROGRAM;

/// Rounding differs between processors and grows over the forty steps of the smoke run, so numbers have room.
const ROOM: Tolerance = Tolerance { relative: 1e-2, absolute: 2e-3 };

#[test]
fn smoke_tables_are_the_golden_ones() {
    let train = PROGRAM.trial("train", &[]);
    train.finish();
    PROGRAM.check_golden(&train, &["dynamics", "thresholds"], ROOM);
    let attribution = PROGRAM.trial("attribution", &[]).needing("icot-mult/train", &train.results());
    attribution.finish();
    PROGRAM.check_golden(&attribution, &["delta", "reference", "published_delta"], ROOM);
}

#[test]
fn one_two_and_four_threads_and_a_second_run_give_the_same_bytes() {
    // the second is large enough for its steps to be split, in every way that there is
    let split =
        ["params.batch_size=96", "params.model.d_model=32", "params.model.dropout=0.1", "params.training.accumulate=2"];
    for set in [&[], split.as_slice()] {
        let one = PROGRAM.trial("train", set);
        one.finish();
        for threads in [1, 2, 4] {
            let other = PROGRAM.trial("train", set).threads(threads);
            other.finish();
            assert_same(&one.tables(), &other.tables());
        }
        let recomputed = PROGRAM.trial("train", &[set, &["params.training.recompute=true"]].concat()).threads(2);
        recomputed.finish();
        assert_same(&one.tables(), &recomputed.tables());
    }
}
