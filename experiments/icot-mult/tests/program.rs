//! The program as a user meets it: run on the smoke configurations, killed, given nonsense.

#[path = "program/bench.rs"]
mod bench;
#[path = "program/golden.rs"]
mod golden;
#[path = "program/mistakes.rs"]
mod mistakes;
#[path = "program/resume.rs"]
mod resume;
