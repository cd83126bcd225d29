//! Seeded crashes: a server under load is killed at random points, hundreds of times. Afterwards every acknowledged
//! visit is there exactly once, every retried one too, and every bulk file has each of its rows once.
//!
//! `CAMEO_CRASH_SEED` repeats a run (as far as threads can be repeated), `CAMEO_CRASH_ROUNDS` sets its length.
//! `kill -9` leaves what the system has taken in its cache: this proves order and recovery, not that a disk keeps
//! what was synced.

mod load;

use std::ops::Range;
use std::time::Duration;

use cameo_tests::random::Random;
use cameo_tests::server::{Server, Setup};
use cameo_tests::wait;

use load::Caller;

/// Callers at once, each with visitors of its own.
const CALLERS: u64 = 4;
/// Rounds unless the environment says otherwise.
const ROUNDS: u32 = 200;
/// Rounds on one data directory: a start reads all of it, and the rounds are to stay short.
const LIFE: u32 = 50;
/// A round's load lasts up to so many ms.
const LOAD_MS: u64 = 250;
/// In one of so many rounds it lasts longer than the time between checkpoints, which is a second here.
const LONG_ROUND: u64 = 8;
/// How long such a round is at least, in ms.
const LONG_MS: u64 = 900;
/// In one of so many rounds the server is killed while it starts.
const KILLED_AT_START: u64 = 8;

#[test]
fn acknowledged_visits_survive_hundreds_of_kills_exactly_once() {
    let mut random = Random::from_env("CAMEO_CRASH_SEED");
    let rounds = std::env::var("CAMEO_CRASH_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(ROUNDS);
    let mut acknowledged = 0;
    for first in (0..rounds).step_by(LIFE as usize) {
        acknowledged += live(&mut random, first..rounds.min(first + LIFE));
    }
    eprintln!("{rounds} rounds, {acknowledged} acknowledged visits");
    assert!(acknowledged > u64::from(rounds), "the load was no load: {acknowledged} visits in {rounds} rounds");
}

/// The life of one data directory; returns how many visits were acknowledged in it.
fn live(random: &mut Random, rounds: Range<u32>) -> u64 {
    let setup = Setup::default().with(&["--checkpoint-seconds", "1"]);
    let mut callers: Vec<_> = (0..CALLERS).map(|number| Caller::new(number, random.next())).collect();
    let last = rounds.end;
    for round in rounds {
        if random.below(KILLED_AT_START) == 0 {
            setup.start_and_kill_after(Duration::from_millis(random.below(60)));
        }
        let server = setup.start();
        check(&mut callers, &server, round);
        let address = server.address();
        std::thread::scope(|scope| {
            for caller in &mut callers {
                scope.spawn(move || caller.work_until_the_end(address));
            }
            let long = if random.below(LONG_ROUND) == 0 { LONG_MS } else { 0 };
            wait::pass(Duration::from_millis(long + random.below(LOAD_MS)));
            server.kill();
        });
    }
    let server = setup.start();
    check(&mut callers, &server, last);
    for caller in &callers {
        caller.check_files(&server);
    }
    server.terminate();
    callers.iter().map(Caller::acknowledged).sum()
}

/// What is there before and after what was not answered is sent again.
fn check(callers: &mut [Caller], server: &Server, round: u32) {
    for caller in callers {
        caller.check_bounds(server, round);
        caller.retry(server);
        caller.check_exact(server, round);
    }
}
