//! Which device a run computes on.

use anyhow::{Context, Result, bail};
use candle_core::Device;

/// Picks the device that `--device` names: `auto` (CUDA when this build and machine have it), `cpu`, or `cuda:N`.
pub(crate) fn pick(name: &str) -> Result<Device> {
    match name {
        "cpu" => Ok(Device::Cpu),
        "auto" if candle_core::utils::cuda_is_available() => Ok(Device::new_cuda(0).unwrap_or(Device::Cpu)),
        "auto" => Ok(Device::Cpu),
        "cuda" => cuda("0"),
        _ => match name.strip_prefix("cuda:") {
            Some(index) => cuda(index),
            None => bail!("unknown device `{name}`: auto, cpu and cuda:N are known"),
        },
    }
}

fn cuda(index: &str) -> Result<Device> {
    let index: usize = index.parse().with_context(|| format!("`{index}` is no number of a CUDA device"))?;
    if !candle_core::utils::cuda_is_available() {
        bail!("this program was built without CUDA: build it with `--features cuda` (needs nvcc), or use --device cpu");
    }
    Device::new_cuda(index).with_context(|| format!("CUDA device {index} cannot be used"))
}

/// The device's name for the manifest.
pub(crate) fn name(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".to_owned(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_devices_are_named() {
        assert!(pick("gpu").unwrap_err().to_string().contains("`gpu`"));
        assert!(pick("cuda:x").is_err());
        assert_eq!(name(&pick("cpu").unwrap()), "cpu");
    }
}
