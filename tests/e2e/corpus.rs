//! The fuzz targets as ordinary tests: the committed corpus, then some seconds of seeded mutations of it.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use cameo_tests::process::workspace;
use cameo_tests::random::Random;
use cameo_tests::targets::TARGETS;

/// Time for the mutations of one target.
const MUTATING: Duration = Duration::from_secs(3);
/// Mutations of one input before another is taken.
const STEPS: u64 = 8;
/// Inputs grow no longer than this by mutation.
const LONGEST: usize = 64 * 1024;
/// Bytes that mean something to one format or another.
const TOKENS: [&[u8]; 14] = [
    b"\n",
    b"\r\n",
    b",",
    b"%",
    b"%zz",
    b"\\N",
    b"\"",
    b"{",
    b"}",
    b"[",
    b"\xff",
    b"\0",
    b"batch=pcId",
    b"\xdf\xff\xff\xff\xff",
];

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = workspace().join("fuzz/corpus").join(name);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut paths: Vec<_> = entries.map(|e| e.expect("an entry").path()).collect();
    // The order of a directory is no order: the seed must mean the same everywhere.
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Runs a target; a failure shows the input, which belongs into the corpus then.
fn run(name: &str, target: fn(&[u8]), input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let hex = input.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        eprintln!("{name} fails for {hex}");
        resume_unwind(panic);
    }
}

fn mutate(input: &mut Vec<u8>, random: &mut Random, others: &[Vec<u8>]) {
    let at = random.below(input.len() as u64 + 1) as usize;
    match random.below(6) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.next() as u8,
        2 => {
            let end = input.len().min(at + random.below(16) as usize);
            input.drain(at..end);
        }
        3 => {
            let token = TOKENS[random.below(TOKENS.len() as u64) as usize];
            input.splice(at..at, token.iter().copied());
        }
        4 => {
            let other = &others[random.below(others.len() as u64) as usize];
            let from = random.below(other.len() as u64 + 1) as usize;
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        _ => {
            let copy = input[at..input.len().min(at + 32)].to_vec();
            input.splice(at..at, copy);
        }
    }
    input.truncate(LONGEST);
}

#[test]
fn every_target_takes_its_corpus_and_mutations_of_it() {
    let mut random = Random::from_env("CAMEO_FUZZ_SEED");
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "no corpus for {name}");
        for input in &corpus {
            run(name, target, input);
        }
        let mut runs: u64 = 0;
        let end = Instant::now() + MUTATING;
        while Instant::now() < end {
            let mut input = corpus[random.below(corpus.len() as u64) as usize].clone();
            for _ in 0..STEPS {
                mutate(&mut input, &mut random, &corpus);
                run(name, target, &input);
                runs += 1;
            }
        }
        eprintln!("{name}: {} inputs, {runs} mutations", corpus.len());
    }
}
