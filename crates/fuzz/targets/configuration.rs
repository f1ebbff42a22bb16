//! Fuzzes the configuration file of an experiment.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static PATH: LazyLock<std::path::PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("retrace-fuzz-{}/paper", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder.join("experiment.yaml")
});

fuzz_target!(|data: &[u8]| {
    std::fs::write(&*PATH, data).unwrap();
    match config::load_file(&PATH, None, &[]) {
        // a valid configuration survives a round trip
        Ok(envelope) => {
            let text = config::yaml::to_string(&envelope).unwrap();
            let again: config::Envelope = config::yaml::from_str(&text, "again").unwrap();
            assert_eq!(envelope.identity(), again.identity(), "{text}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
