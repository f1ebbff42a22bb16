//! End-to-end tests of the program.

#[path = "program/golden.rs"]
mod golden;
#[path = "program/mistakes.rs"]
mod mistakes;
#[path = "program/resume.rs"]
mod resume;

const PROGRAM: trial::Program = trial::Program {
    paper: "hyperprobe",
    binary: env!("CARGO_BIN_EXE_hyperprobe"),
    folder: env!("CARGO_MANIFEST_DIR"),
};
