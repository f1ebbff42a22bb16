//! End-to-end tests of the binary: smoke configurations against golden tables, interrupted runs, and invalid input.

#[path = "program/distributions.rs"]
mod distributions;
#[path = "program/golden.rs"]
mod golden;
#[path = "program/mistakes.rs"]
mod mistakes;
#[path = "program/neurons.rs"]
mod neurons;
#[path = "program/resume.rs"]
mod resume;

const PROGRAM: trial::Program = trial::Program {
    paper: "ln-removal",
    binary: env!("CARGO_BIN_EXE_ln-removal"),
    folder: env!("CARGO_MANIFEST_DIR"),
};
