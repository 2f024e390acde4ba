//! What goes wrong on a device in the middle of a run: told, and nothing hangs, panics or is left broken.

use crate::device::on_gpu;
use ancestral::internals::device::ledger::traffic;
use ancestral::internals::device::{Device, Fault, Gpu};
use ancestral::{CancelToken, DeviceChoice, Engine, Error, LoadOptions, Settings};
use std::path::{Path, PathBuf};

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/ddpm/pipeline")
}

fn load(gpu: &Gpu) -> Engine {
    let device = DeviceChoice::Existing(gpu.clone());
    Engine::load(model(), &LoadOptions { device, ..LoadOptions::default() }).expect("the model")
}

fn settings() -> Settings {
    Settings::new().steps(4).seed(7)
}

/// The adapter of the tests once more, as a device of its own.
fn another(device: &Device) -> Gpu {
    let Ok(Device::Gpu(gpu)) = Device::open(&DeviceChoice::Named(device.name())) else {
        panic!("{} does not open again", device.name())
    };
    gpu
}

fn picture(engine: &Engine) -> ancestral::Result<Vec<u8>> {
    Ok(engine.generate("", settings())?[0].to_bytes())
}

/// A device that has no memory at some submission, or refuses some allocation, of a run: the run says so, and the next one on
/// the same engine draws what it always does.
#[test]
fn no_memory_at_any_point_of_a_run() {
    on_gpu(|device| {
        let gpu = another(device);
        let fresh = load(&gpu);
        let before = traffic();
        let expected = picture(&fresh).expect("a picture");
        let submissions = (traffic() - before).submissions;
        assert!(submissions >= 4, "{submissions}");
        for (fault, most) in [(Fault::OutOfMemory, submissions), (Fault::Refused, 200)] {
            let (mut failed, mut last) = (0, 0);
            for at in 0..most {
                // Allocations are of the programs that a first run makes.
                let engine = load(&gpu);
                gpu.inject(fault, at);
                match picture(&engine) {
                    Ok(found) => {
                        assert_eq!(found, expected, "{fault:?} at {at}");
                        gpu.clear_fault();
                        break;
                    }
                    Err(error) => {
                        assert!(matches!(error, Error::Limit { .. }), "{fault:?} at {at}: {error:?}");
                        assert!(error.to_string().contains("no memory left"), "{error}");
                        (failed, last) = (failed + 1, at);
                    }
                }
                assert_eq!(picture(&engine).expect("a picture"), expected, "after {fault:?} at {at}");
            }
            assert!(failed >= 4, "{fault:?}: {failed} runs failed, the last at {last}");
        }
    });
}

/// A device that is lost at some submission: the run says what ran and why it ended, and so does every later one.
#[test]
fn a_device_lost_at_any_point_of_a_run() {
    on_gpu(|device| {
        let gpu = another(device);
        let before = traffic();
        let engine = load(&gpu);
        let expected = picture(&engine).expect("a picture");
        let submissions = (traffic() - before).submissions;
        for at in 0..submissions {
            let gpu = another(device);
            let engine = load(&gpu);
            gpu.inject(Fault::Lost, at);
            match picture(&engine) {
                Ok(found) => assert_eq!(found, expected, "lost at {at}"),
                Err(error) => {
                    assert!(
                        matches!(&error, Error::Lost { running, .. } if !running.is_empty()),
                        "{error:?}"
                    );
                    let again = picture(&engine).expect_err("the device is lost");
                    assert!(matches!(again, Error::Lost { .. }), "{again:?}");
                }
            }
        }
    });
}

/// A run that is cancelled at any step leaves the engine as it was.
#[test]
fn a_cancelled_run_leaves_the_engine_usable() {
    on_gpu(|device| {
        let Device::Gpu(gpu) = device else { return };
        let engine = load(gpu);
        let expected = picture(&engine).expect("a picture");
        for at in 1..4 {
            let token = CancelToken::new();
            let cancel = token.clone();
            let run = settings().cancel(&token).on_progress(move |progress| {
                if progress.done >= at as f32 {
                    cancel.cancel();
                }
                true
            });
            assert!(matches!(engine.generate("", run), Err(Error::Cancelled)), "at {at}");
            assert_eq!(picture(&engine).expect("a picture"), expected, "after {at}");
        }
    });
}
