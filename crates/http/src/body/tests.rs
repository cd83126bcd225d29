//! Bodies that come slowly, are too large, or are packed; time is the runtime's own and moves by itself.

use std::convert::Infallible;

use futures_util::stream;

use super::*;

/// A body whose pieces come so long after each other.
fn dripping(pieces: usize, bytes: usize, pause: Duration) -> Body {
    Body::from_stream(stream::unfold(0, move |sent| async move {
        if sent == pieces {
            return None;
        }
        tokio::time::sleep(pause).await;
        Some((Ok::<_, Infallible>(Bytes::from(vec![b'x'; bytes])), sent + 1))
    }))
}

#[tokio::test(start_paused = true)]
async fn a_byte_now_and_then_does_not_hold_a_connection() {
    let began = Instant::now();
    let read = read(dripping(100, 1, Duration::from_secs(29)), 1000).await;
    assert_eq!(read.err(), Some(BodyError::TooSlow));
    assert!(began.elapsed() < Duration::from_secs(31), "{:?}", began.elapsed());
    assert_eq!(BodyError::TooSlow.status(), 408);
}

#[tokio::test(start_paused = true)]
async fn a_slow_line_is_waited_for() {
    // Forty kilobytes a second for three minutes.
    let whole = read(dripping(180, 40 << 10, Duration::from_secs(1)), 60 << 20).await.unwrap();
    assert_eq!(whole.bytes.len(), 180 * (40 << 10));
    // And at that speed for as long as any body may take, not longer.
    let began = Instant::now();
    assert_eq!(read(dripping(9999, 40 << 10, Duration::from_secs(1)), 60 << 20).await.err(), Some(BodyError::TooSlow));
    assert_eq!(began.elapsed().as_secs(), BODY_TIME.as_secs());
    // Silence after a fast start is not made up for by what came before.
    let silent = dripping(2, 4 << 20, Duration::from_secs(31));
    assert_eq!(read(silent, 60 << 20).await.err(), Some(BodyError::TimedOut));
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_is_refused_without_waiting() {
    let began = Instant::now();
    let announced = Body::from(vec![b'x'; 11]);
    assert_eq!(read(announced, 10).await.err(), Some(BodyError::TooLarge { limit: 10 }));
    let counted = dripping(1000, 6, Duration::from_secs(1));
    assert_eq!(read(counted, 10).await.err(), Some(BodyError::TooLarge { limit: 10 }));
    assert_eq!(began.elapsed(), Duration::from_secs(2), "until the piece that is too much");
}

#[tokio::test(start_paused = true)]
async fn a_small_rest_is_drained_and_a_large_one_left() {
    let began = Instant::now();
    drain(dripping(3, 100, Duration::from_millis(100))).await;
    assert_eq!(began.elapsed(), Duration::from_millis(300));
    drain(dripping(100, 100, Duration::from_secs(1))).await;
    assert_eq!(began.elapsed(), Duration::from_millis(300) + DRAIN_TIME);
}

#[test]
fn a_packed_body_is_refused_by_name() {
    let headers = |values: &[&'static str]| {
        values.iter().map(|value| (CONTENT_ENCODING, http::HeaderValue::from_static(value))).collect::<HeaderMap>()
    };
    for fine in [&[][..], &["identity"], &["Identity"], &[""]] {
        assert_eq!(check_plain(&headers(fine)), Ok(()), "{fine:?}");
    }
    for packed in [&["gzip"][..], &["identity", "br"], &["identity, zstd"]] {
        let refusal = check_plain(&headers(packed)).unwrap_err();
        assert_eq!(refusal.status, 415, "{packed:?}");
        assert!(refusal.message.contains("identity"), "{}", refusal.message);
    }
}
