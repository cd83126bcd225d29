//! Fuzz target `batch`; its body is `cameo_tests::targets::batch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cameo_tests::targets::batch(data));
