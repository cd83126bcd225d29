//! Where refused visits stand, and that many of them cost no more than each by itself.

use std::time::Instant;

use super::*;

fn places(encoding: Encoding, body: &str) -> Vec<Option<(usize, usize)>> {
    let visits = decode(encoding, body.as_bytes()).unwrap().visits;
    visits.into_iter().map(|visit| visit.err().and_then(|refusal| refusal.place)).collect()
}

#[test]
fn each_refused_visit_is_told_its_line_and_column_in_the_body() {
    let list = "[7, {}, 8,\n\n  9,{\n},{\n \"x\":1},10\n,11]";
    let expected = [Some((1, 2)), None, Some((1, 9)), Some((3, 3)), None, Some((5, 4)), Some((5, 10)), Some((6, 3))];
    assert_eq!(places(Encoding::Json, list), expected);
    let lines = "7\n{}\n\n  {\"x\":1}\r\n8\n";
    assert_eq!(places(Encoding::Lines, lines), [Some((1, 1)), None, Some((4, 6)), Some((5, 1))]);
}

/// What stands before a refused visit is looked at once, not again for each that follows.
#[test]
fn many_refused_visits_cost_about_as_much_as_each_by_itself() {
    let visit = format!("{{\"mbox\":\"{}\",\"ids\":7}}", "m".repeat(150));
    let list = format!("[{}]", vec![visit.as_str(); VISITS].join(","));
    let took = |work: &dyn Fn()| {
        let began = Instant::now();
        work();
        began.elapsed()
    };
    let alone = took(&|| {
        for _ in 0..VISITS {
            assert!(decode(Encoding::Json, visit.as_bytes()).is_err());
        }
    });
    let together = took(&|| {
        let visits = decode(Encoding::Json, list.as_bytes()).unwrap().visits;
        assert!(visits.iter().all(|visit| visit.as_ref().is_err_and(|refusal| refusal.place.is_some())));
    });
    assert!(together < 10 * alone, "{together:?} together, {alone:?} one by one");
}
