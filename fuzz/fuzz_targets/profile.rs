#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| driftd_fuzz::profile(data));
