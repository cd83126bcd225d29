//! Fuzz target `event`; its body is `cameo_tests::targets::event`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cameo_tests::targets::event(data));
