//! The GPU the tests run on.

pub use crate::skipped::{say, skip};
use ancestral::internals::device::{Device, DeviceChoice};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Names the adapter to take; part of its name.
const CHOICE: &str = "ANCESTRAL_TEST_DEVICE";
/// Set to 1, a missing adapter fails.
const REQUIRE: &str = "ANCESTRAL_REQUIRE_GPU";

static GPU: OnceLock<Result<Device, String>> = OnceLock::new();
/// One test at a time, so that an error the driver reports belongs to the test that runs.
static TURN: Mutex<()> = Mutex::new(());

fn open() -> Result<Device, String> {
    let open =
        |choice: &str| Device::open(&DeviceChoice::Named(choice.into())).map_err(|error| error.to_string());
    let opened = match std::env::var(CHOICE) {
        Ok(name) => open(&name),
        // Every description holds the empty text.
        Err(_) => open("llvmpipe").or_else(|_| open("")),
    };
    match &opened {
        Ok(device) => say(&format!("GPU: {}", device.name())),
        Err(reason) => say(&format!("GPU tests are skipped: {reason}")),
    }
    opened
}

/// Runs `test` on the GPU, or skips it where there is none.
///
/// # Panics
/// Where there is none and one is required.
pub fn on_gpu(test: impl FnOnce(&Device)) {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    match GPU.get_or_init(open) {
        Ok(device) => test(device),
        Err(reason) => {
            let required = std::env::var(REQUIRE).is_ok_and(|value| value == "1");
            assert!(!required, "{REQUIRE} is set, but {reason}");
            skip(reason);
        }
    }
    drop(turn);
}

/// Whether kernels with f16 storage run on `device`.
pub fn has_f16(device: &Device) -> bool {
    matches!(device, Device::Gpu(gpu) if gpu.has_f16())
}
