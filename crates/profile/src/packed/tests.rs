//! A profile survives packing whatever it holds, and rubbish is never taken for one.

use proptest::prelude::*;

use super::*;

const T: u64 = 1_700_000_000_000;

fn time() -> impl Strategy<Value = u64> {
    T - 1_000_000_000..T + 10_000_000_000
}

type Shape =
    (u64, u64, Option<(u64, u64)>, Vec<(u32, u32)>, Vec<String>, Vec<(Option<u32>, String, u64, Option<String>)>);

fn shape() -> impl Strategy<Value = Shape> {
    (
        0..1_000_000u64,
        0..1_000_000u64,
        proptest::option::of((time(), time())),
        prop::collection::vec((0..9000u32, any::<u32>()), 0..5),
        prop::collection::vec("[a-z:0-9]{1,20}", 0..4),
        prop::collection::vec(
            (proptest::option::of(0..5000u32), "\\PC{1,12}", time(), proptest::option::of("\\PC{0,300}")),
            0..12,
        ),
    )
}

fn draft(shape: &Shape, linked: bool) -> Draft<'_> {
    let (active, modified, visits, categories, ids, attributes) = shape;
    let visits = visits.map(|(first, second)| {
        let mut visits = Visits::first(first, Some("a"));
        visits.visit(second, Some("b"));
        visits
    });
    Draft {
        created_at: T,
        active_at: T + active,
        modified_at: T + modified,
        categories: if visits.is_some() {
            categories.iter().map(|&(id, p)| (Name::Id(id), p)).collect()
        } else {
            vec![]
        },
        visits,
        ids: ids.iter().map(String::as_bytes).collect(),
        attributes: attributes
            .iter()
            .map(|(id, text, time, value)| Attribute {
                name: id.map_or(Name::Text(text.as_bytes()), Name::Id),
                time: *time,
                value: value.as_ref().map(String::as_bytes),
                part: u32::from(linked),
                shadowed: linked && time % 2 == 0,
                arrival: if linked { time % 300 } else { 0 },
            })
            .collect(),
        next_arrival: if linked { 300 } else { 0 },
        parts: if linked {
            let mut part = Part::new(b"tnt:d", b"ecid:e", 7, T + 5);
            part.left = active % 2 == 0;
            part.brought = (6..6 + modified % 4).collect();
            (part.visits, part.categories) = (visits, categories.iter().map(|&(id, p)| (Name::Id(id), p)).collect());
            if part.visits.is_none() {
                part.categories.clear();
            }
            vec![Part::new(b"", b"", 0, T - 9), part]
        } else {
            vec![]
        },
    }
}

proptest! {
    #[test]
    fn round_trip(shape in shape(), linked in any::<bool>(), client in 0..1000u32, address in "tnt:\\PC{1,128}") {
        let before = draft(&shape, linked);
        let mut bytes = Vec::new();
        before.pack(client, address.as_bytes(), &mut bytes);
        let packed = Packed::from_stored(&bytes).expect("a whole profile");
        prop_assert!(packed.is(client, address.as_bytes()) && !packed.is(client + 1, address.as_bytes()));
        let head = packed.head();
        prop_assert_eq!((head.client, head.address), (client, address.as_bytes()));
        let after = head.draft();
        let mut again = Vec::new();
        after.pack(client, address.as_bytes(), &mut again);
        prop_assert_eq!(&again, &bytes);
        prop_assert_eq!(after.visits, before.visits);
        prop_assert_eq!(after.attributes, before.attributes);
        prop_assert_eq!(after.categories, before.categories);
        prop_assert_eq!(after.ids, before.ids);
        prop_assert_eq!((after.parts, after.next_arrival), (before.parts, before.next_arrival));
        // Cut anywhere, it is no profile.
        let cut = bytes.len() / 2;
        prop_assert!(Packed::from_stored(&bytes[..cut]).is_none());
    }

    /// Also where parts are linked in a circle, or through one that is not there.
    #[test]
    fn all_parts_at_once_are_here_as_each_by_itself(parts in prop::collection::vec((0..7usize, any::<bool>()), 0..6)) {
        let names = ["", "a", "b", "c", "d", "e", "f"];
        let mut draft = Draft::created(T);
        draft.parts = parts
            .iter()
            .zip(names)
            .map(|((under, left), name)| {
                let mut part = Part::new(name.as_bytes(), names[*under].as_bytes(), 1, T);
                part.left = *left;
                part
            })
            .collect();
        let each: Vec<_> = (0..parts.len()).map(|at| draft.is_here(at)).collect();
        prop_assert_eq!(draft.here(), each);
    }

    #[test]
    fn rubbish_never_panics(bytes in prop::collection::vec(any::<u8>(), 1..200)) {
        let _ = Packed::from_stored(&bytes);
    }
}
