//! For the fuzz target: a body of visits, read and checked as `post` does, without a log behind it.

use cameo_profile::event::Route;
use cameo_profile::{Address, ClientCode, Event, Partition};
use http::HeaderValue;

use super::{Encoding, Placed, decode, with_event};
use crate::api::route::Way;

/// Reads a body, checks each visit and encodes its event. How many visits are good, or why the body is refused whole.
///
/// # Errors
/// The refusal's message; it is never empty.
///
/// # Panics
/// When an event does not read back: then a promise is broken.
#[doc(hidden)]
pub fn check_visits(content_type: &'static str, body: &[u8], now_ms: u64) -> Result<usize, String> {
    let content_type = HeaderValue::from_static(content_type);
    let client = ClientCode::new("demo").map_err(|error| error.to_string())?;
    let decoded =
        decode(Encoding::of(Some(&content_type), body), body).map_err(|refusal| refusal.message.to_string())?;
    let mut good = 0;
    for visit in decoded.visits {
        let checked = visit.and_then(|visit| {
            let addresses = visit.addresses()?;
            visit.check(now_ms)?;
            Ok((visit, addresses))
        });
        let (visit, addresses) = match checked {
            Ok(checked) => checked,
            Err(refusal) => {
                assert!(!refusal.message.is_empty(), "every refusal says why");
                continue;
            }
        };
        let generated = addresses.is_empty();
        let at = addresses.first().cloned().unwrap_or_else(|| Address::from_canonical("tnt:made-up").into());
        let way = Way { partition: Partition(0), route: Route::Enter, at };
        let placed = Placed { way, addresses, generated, held: Vec::new() };
        with_event(&client, &visit, &placed, None, |event| {
            let mut bytes = Vec::new();
            event.encode(&mut bytes);
            assert_eq!(Event::decode(&bytes).as_ref().ok(), Some(event), "what is logged reads back");
        });
        good += 1;
    }
    Ok(good)
}
