//! What the manifest says of the machine.

use candle_core::Device;
use config::Machine;

/// Device, processor and threads of this process.
pub(crate) fn describe(device: &Device) -> Machine {
    Machine {
        device: crate::device::name(device),
        cpu: cpu().unwrap_or_default(),
        threads: threads(),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
    }
}

/// How many pieces of work to run side by side: `RETRACE_THREADS`, or as many as there are cores.
pub(crate) fn threads() -> usize {
    let asked = std::env::var("RETRACE_THREADS").ok().and_then(|text| text.parse().ok());
    asked.or_else(|| Some(std::thread::available_parallelism().ok()?.get())).unwrap_or(1).max(1)
}

fn cpu() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Largest resident memory of this process so far, in MiB, where the system tells.
pub(crate) fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some((kib / 102.4).round() / 10.)
}
