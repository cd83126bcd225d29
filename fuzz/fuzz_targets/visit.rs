//! Fuzz target `visit`; its body is `cameo_tests::targets::visit`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cameo_tests::targets::visit(data));
