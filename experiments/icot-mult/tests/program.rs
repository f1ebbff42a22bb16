//! The program as a user meets it: run on the smoke configurations, killed, given nonsense.

#[path = "program/golden.rs"]
mod golden;
#[path = "program/mistakes.rs"]
mod mistakes;
#[path = "program/resume.rs"]
mod resume;

const PROGRAM: trial::Program =
    trial::Program { paper: "icot-mult", binary: env!("CARGO_BIN_EXE_icot-mult"), folder: env!("CARGO_MANIFEST_DIR") };
