//! Generated tntIds: 26 characters, ordered by time, no dot (TARGET_API §1).
//!
//! 48 bits of milliseconds and 80 random bits in Crockford's base 32, the form that ULIDs have.

use cameo_profile::{AddressBuf, ClientCode, Partition, PartitionCount, ids};

const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

fn text(ms: u64, random: u128) -> String {
    let value = u128::from(ms) << 80 | random & ((1 << 80) - 1);
    (0..26).rev().map(|digit| char::from(DIGITS[(value >> (digit * 5)) as usize & 31])).collect()
}

/// A new address. With an event id it lies in the partition of that id, so that a retry meets the first try there
/// (ADR 0003). `None` when the system has no randomness.
pub(crate) fn generate(
    client: &ClientCode,
    event_id: Option<&str>,
    now_ms: u64,
    count: PartitionCount,
) -> Option<(AddressBuf, Partition)> {
    let wanted = event_id.map(|id| ids::partition_of(client, &["event:", id].concat(), count));
    loop {
        let mut random = [0; 16];
        getrandom::fill(&mut random).ok()?;
        let address = AddressBuf::tnt(&text(now_ms, u128::from_le_bytes(random))).ok()?;
        let partition = address.as_address().partition(client, count);
        if wanted.is_none_or(|wanted| wanted == partition) {
            return Some((address, partition));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordered_by_time_and_bound_to_the_partition_of_the_event() {
        assert_eq!(text(0, 0), "0".repeat(26));
        assert!(text(1, 0) > text(0, u128::MAX));
        let client = ClientCode::new("demo").unwrap();
        for count in [1, 16, 1024] {
            let count = PartitionCount::new(count).unwrap();
            let wanted = ids::partition_of(&client, "event:e1", count);
            let (address, partition) = generate(&client, Some("e1"), 1_790_000_000_000, count).unwrap();
            assert_eq!(partition, wanted);
            let id = address.as_address().parts().1;
            assert!(id.len() == 26 && !id.contains('.'));
        }
    }
}
