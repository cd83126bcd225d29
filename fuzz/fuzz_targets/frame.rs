//! Fuzz target `frame`; its body is `cameo_tests::targets::frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cameo_tests::targets::frame(data));
