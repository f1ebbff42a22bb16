//! Ridge regression, principal components and k-means agree with scikit-learn on the same samples to 1e-6.
//! `reference/make.py` computes the expected values.

use probes::{Clusters, Linear, Matrix, Pca};
use serde::Deserialize;

#[derive(Deserialize)]
struct Reference {
    x: Rows,
    y: Rows,
    wide: Rows,
    groups: Rows,
    start: Rows,
    ridge: Vec<Ridge>,
    pca: Components,
    pca_wide: Components,
    clusters: Groups,
}

type Rows = Vec<Vec<f64>>;

#[derive(Deserialize)]
struct Ridge {
    penalty: f64,
    weights: Rows,
    intercept: Vec<f64>,
}

#[derive(Deserialize)]
struct Components {
    mean: Vec<f64>,
    components: Rows,
    variance: Vec<f64>,
    explained: Vec<f64>,
    transformed: Rows,
}

#[derive(Deserialize)]
struct Groups {
    centres: Rows,
    labels: Vec<usize>,
    inertia: f64,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("reference/scikit-learn.json")).unwrap()
}

fn matrix(rows: &Rows) -> Matrix {
    Matrix::from_fn(rows.len(), rows[0].len(), |row, column| rows[row][column])
}

fn agree(what: &str, ours: &[f64], theirs: &[f64]) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert!((ours - theirs).abs() <= 1e-6 * theirs.abs().max(1.), "{what}: {ours} {theirs}");
    }
}

fn agree_all(what: &str, ours: &Matrix, theirs: &Rows) {
    assert_eq!((ours.nrows(), ours.ncols()), (theirs.len(), theirs[0].len()), "{what}");
    for (row, theirs) in theirs.iter().enumerate() {
        agree(what, &ours.row(row).iter().copied().collect::<Vec<_>>(), theirs);
    }
}

#[test]
fn ridge_regression() {
    let reference = reference();
    let (x, y) = (matrix(&reference.x), matrix(&reference.y));
    assert_eq!(reference.ridge.len(), 3);
    for case in &reference.ridge {
        let fit = Linear::ridge(x.as_ref(), y.as_ref(), case.penalty).unwrap();
        agree_all("weights", &fit.weights, &case.weights);
        agree("intercept", &fit.intercept, &case.intercept);
    }
}

#[test]
fn principal_components() {
    let reference = reference();
    for (x, expected) in [(&reference.x, &reference.pca), (&reference.wide, &reference.pca_wide)] {
        let x = matrix(x);
        let pca = Pca::fit(x.as_ref(), 4).unwrap();
        agree("mean", &pca.mean, &expected.mean);
        agree_all("components", &pca.components, &expected.components);
        agree("variance", &pca.variance, &expected.variance);
        agree("explained", &pca.explained(), &expected.explained);
        agree_all("transformed", &pca.transform(x.as_ref()).unwrap(), &expected.transformed);
    }
}

#[test]
fn k_means() {
    let reference = reference();
    let (x, start) = (matrix(&reference.groups), matrix(&reference.start));
    let found = Clusters::lloyd(x.as_ref(), start.as_ref(), 300).unwrap();
    assert!(found.rounds > 3, "{}", found.rounds);
    assert_eq!(found.labels, reference.clusters.labels);
    agree_all("centres", &found.centres, &reference.clusters.centres);
    agree("inertia", &[found.inertia], &[reference.clusters.inertia]);
}
