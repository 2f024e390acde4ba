#![no_main]

#[path = "../loaders.rs"]
#[expect(dead_code, reason = "each target runs one of them")]
mod loaders;

libfuzzer_sys::fuzz_target!(|data: &[u8]| loaders::json(data));
