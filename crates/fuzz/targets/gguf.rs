//! Fuzzes GGUF files: header, tokenizer, tensors and model.

#![no_main]

use std::sync::LazyLock;

use candle_core::{DType, Device};
use libfuzzer_sys::fuzz_target;

// the reader maps files, so every input is written to one; in memory if the system has a folder for that
static PATH: LazyLock<std::path::PathBuf> = LazyLock::new(|| {
    let memory = std::path::Path::new("/dev/shm");
    let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    folder.join(format!("retrace-fuzz-{}.gguf", std::process::id()))
});

fuzz_target!(|data: &[u8]| {
    std::fs::write(&*PATH, data).unwrap();
    let Ok(checkpoint) = weights::Checkpoint::open(&PATH) else { return };
    let names: Vec<String> = checkpoint.names().map(str::to_owned).collect();
    for name in &names {
        if let Ok(tensor) = checkpoint.tensor(name, DType::F32, &Device::Cpu) {
            assert_eq!(Some(tensor.dims().to_vec()), checkpoint.shape(name));
        }
    }
    if let Some(gguf) = checkpoint.gguf() {
        for key in gguf.keys() {
            let _ = (gguf.str(key), gguf.u64(key), gguf.f64(key), gguf.bool(key), gguf.strings(key), gguf.f32s(key));
        }
        if let Ok(tokenizer) = tokens::Tokenizer::from_gguf(gguf) {
            let _ = tokenizer.encode("Then, Mary and John", tokens::Bos::Default);
        }
    }
    let _ = models::read(&checkpoint, DType::F32, &Device::Cpu);
});
