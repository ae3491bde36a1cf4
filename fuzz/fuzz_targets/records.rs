#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pitr_fuzz::targets::records(input));
