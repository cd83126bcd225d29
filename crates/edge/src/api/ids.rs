//! Generated tntIds: 26 characters, ordered by time, no dot (TARGET_API §1).
//!
//! 48 bits of milliseconds and 80 random bits in Crockford's base 32, the form that ULIDs have. Within a millisecond an
//! id follows the one before it by a step that nobody can guess, so that the order of making is the order of the ids.

use cameo_profile::{AddressBuf, ClientCode, Partition, PartitionCount, ids};
use parking_lot::Mutex;

const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const RANDOM_BITS: u32 = 80;
/// Ids tried for one that lies in the partition of an event; P = 1,024 needs as many on average.
const TRIES: u32 = 1 << 16;

fn text(value: u128) -> String {
    (0..26).rev().map(|digit| char::from(DIGITS[(value >> (digit * 5)) as usize & 31])).collect()
}

/// Makes ids that rise.
#[derive(Debug, Default)]
pub(crate) struct Generator(Mutex<u128>);

impl Generator {
    /// A new address. With an event id it lies in the partition of that id, so that a retry meets the first try there
    /// (ADR 0003). `None` when the system has no randomness.
    pub(crate) fn make(
        &self,
        client: &ClientCode,
        event_id: Option<&str>,
        now_ms: u64,
        count: PartitionCount,
    ) -> Option<(AddressBuf, Partition)> {
        let wanted = event_id.map(|id| ids::partition_of(client, &["event:", id].concat(), count));
        let (mut random, mut seed) = ([0; 16], [0; 8]);
        getrandom::fill(&mut random).ok()?;
        getrandom::fill(&mut seed).ok()?;
        let mut steps = Steps(u64::from_le_bytes(seed));
        // One bit of the random part stays free, so that steps do not run into the next millisecond.
        let random = u128::from_le_bytes(random) >> (128 - RANDOM_BITS + 1);
        let mut last = self.0.lock();
        let mut value = (u128::from(now_ms) << RANDOM_BITS | random).max(*last + steps.next());
        for _ in 0..TRIES {
            let address = AddressBuf::tnt(&text(value)).ok()?;
            let partition = address.as_address().partition(client, count);
            if wanted.is_none_or(|wanted| wanted == partition) {
                *last = value;
                return Some((address, partition));
            }
            value += steps.next();
        }
        None
    }
}

/// SplitMix64 from a random seed (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators").
struct Steps(u64);

impl Steps {
    /// 1 to 2^40.
    fn next(&mut self) -> u128 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u128::from((z ^ (z >> 31)) >> 24) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_though_the_clock_stands_still_and_meet_their_event() {
        assert_eq!(text(0), "0".repeat(26));
        let (generator, client) = (Generator::default(), ClientCode::new("demo").unwrap());
        let mut before = String::new();
        for count in [1, 16, 1024] {
            let count = PartitionCount::new(count).unwrap();
            for number in 0..50 {
                let event = (number % 2 == 0).then(|| format!("e{number}"));
                let made = generator.make(&client, event.as_deref(), 1_790_000_000_000, count);
                let (address, partition) = made.unwrap();
                let id = address.as_address().parts().1.to_owned();
                assert!(id.len() == 26 && !id.contains('.'));
                assert!(before < id, "{before} {id}");
                assert_eq!(address.as_address().partition(&client, count), partition);
                if let Some(event) = event {
                    assert_eq!(partition, ids::partition_of(&client, &format!("event:{event}"), count));
                }
                before = id;
            }
        }
    }
}
