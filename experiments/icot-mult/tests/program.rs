//! End-to-end tests of the binary: smoke configurations against golden tables, interrupted runs, and invalid input.

#[path = "program/golden.rs"]
mod golden;
#[path = "program/mistakes.rs"]
mod mistakes;
#[path = "program/resume.rs"]
mod resume;

const PROGRAM: trial::Program =
    trial::Program { paper: "icot-mult", binary: env!("CARGO_BIN_EXE_icot-mult"), folder: env!("CARGO_MANIFEST_DIR") };
