//! Profiles that move between homes as parts of walks (ADR 8): taken out of one, taken in at another, given back.

use std::collections::VecDeque;

use super::PartitionState;
use super::fold::store;
use super::message::{Joined, Message, Moved, MovedAttribute, What};
use super::moved;
use super::touched::Touch;
use super::walk::under;
use crate::limits;
use crate::packed::{Draft, Packed, key_hash};
use crate::time::LogTime;

impl PartitionState {
    /// The addresses that point to a home, with their epochs.
    pub(super) fn held(&self, at: LogTime, client: u32, home: &str) -> Vec<(Box<str>, u64)> {
        let Some(draft) = self.draft(client, home, at) else { return Vec::new() };
        let direct = draft.parts.iter().skip(1).filter(|part| part.under.is_empty() && !part.left);
        direct.map(|part| (std::str::from_utf8(part.address).unwrap_or_default().into(), part.epoch)).collect()
    }

    /// Takes the profile that lives at an address out of this partition.
    pub(super) fn take(
        &mut self,
        at: LogTime,
        client: u32,
        (code, address): (&str, &str),
        queue: &mut VecDeque<Message>,
    ) -> Option<Moved> {
        let moved = self.draft(client, address, at).map(|mut draft| {
            drop_all(code, moved::shrink(&mut draft, &self.names), queue);
            Moved::of(&draft, &self.names)
        });
        let bytes = address.as_bytes();
        self.remove(key_hash(client, bytes), client, bytes);
        moved
    }

    pub(super) fn take_in(
        &mut self,
        at: LogTime,
        client: u32,
        message: &Message,
        joined: &Joined,
        queue: &mut VecDeque<Message>,
    ) {
        let (code, home) = (&*message.client, &*message.to);
        let under = under(&message.trail, &joined.child);
        let held = self.copy(client, home, at);
        let begin = || held.as_ref().map_or_else(|| Draft::created(at.0), |packed| packed.head().draft());
        let mut draft = begin();
        moved::take_in(&mut draft, &mut self.names, joined, under, at.0);
        let mut without = None;
        if joined.moved.is_some() && self.packed_bytes(client, home, &draft) > limits::LINKED_PROFILE_BYTES {
            let moved = joined.moved.clone().map(|moved| Moved { attributes: Vec::new(), ..moved });
            without = Some(Joined { moved, ..joined.clone() });
        }
        if let Some(without) = &without {
            draft = begin();
            moved::take_in(&mut draft, &mut self.names, without, under, at.0);
        }
        let gone = moved::shrink(&mut draft, &self.names);
        drop_all(code, gone, queue);
        self.put(at, client, home, &draft);
        self.touch(client, home, Touch::Joined { address: joined.child.clone() });
    }

    fn packed_bytes(&mut self, client: u32, home: &str, draft: &Draft<'_>) -> usize {
        draft.pack(client, home.as_bytes(), &mut self.scratch);
        self.scratch.len()
    }

    pub(super) fn left(&mut self, at: LogTime, client: u32, message: &Message, address: &str, epoch: u64) {
        let Some(packed) = self.copy(client, &message.to, at) else { return };
        let mut draft = packed.head().draft();
        moved::leave(&mut draft, address, epoch);
        self.put(at, client, &message.to, &draft);
        self.touch(client, &message.to, Touch::Left { address: address.into() });
    }

    pub(super) fn take_out(
        &mut self,
        at: LogTime,
        client: u32,
        mut message: Message,
        (address, epoch, by): (&str, u64, Option<Box<str>>),
        queue: &mut VecDeque<Message>,
    ) {
        let home = message.to.clone();
        let mut moved = None;
        if self.holds(client, &home, address, Some(epoch), at)
            && let Some(packed) = self.copy(client, &home, at)
        {
            let mut draft = packed.head().draft();
            if let Some((taken, gone)) = moved::take_out(&mut draft, &self.names, address) {
                drop_all(&message.client, gone, queue);
                moved = Some(taken);
            }
            draft.modified_at = at.0;
            self.put(at, client, &home, &draft);
            self.touch(client, &home, Touch::TakenOut { address: address.into(), by });
        }
        let more = moved.as_mut().map_or(Vec::new(), |moved| moved.split_off(limits::MESSAGE_ATTRIBUTE_BYTES));
        let found = moved.is_some();
        queue.push_back(Message::new(&message.client, address, What::GiveBack(moved)));
        for attributes in chunks(more) {
            let what = What::More { child: address.into(), epoch: 0, attributes };
            queue.push_back(Message::new(&message.client, address, what));
        }
        // Told when all of it is there.
        message.to = address.into();
        message.what = What::Unlinked { found };
        queue.push_back(message);
    }

    pub(super) fn give_back(&mut self, at: LogTime, client: u32, address: &str, moved: Option<&Moved>) {
        let alias = self.aliases.returned(client, address);
        let (held, waiting) = alias.map_or_else(Default::default, |alias| (alias.held, alias.waiting));
        self.take_back(at, client, address, moved, &held);
        self.returned.extend(waiting.iter().filter_map(|message| Message::decode(message)));
    }

    /// Makes what was taken out elsewhere the profile of its own address again, with those that point to it.
    pub(super) fn take_back(
        &mut self,
        at: LogTime,
        client: u32,
        home: &str,
        moved: Option<&Moved>,
        held: &[(Box<str>, u64)],
    ) {
        let packed = self.copy(client, home, at);
        if packed.is_none() && moved.is_none() && held.is_empty() {
            return;
        }
        let created_at = moved.map_or(at.0, |moved| moved.created_at);
        let mut draft = packed.as_ref().map_or_else(|| Draft::created(created_at), |packed| packed.head().draft());
        if let Some(moved) = moved {
            moved::take_back(&mut draft, &mut self.names, moved, at.0);
        }
        for (other, epoch) in held {
            moved::part(&mut draft, other, "", *epoch, at.0);
        }
        self.put(at, client, home, &draft);
        self.touch(client, home, Touch::GivenBack);
    }

    pub(super) fn more(
        &mut self,
        at: LogTime,
        client: u32,
        mut message: Message,
        (child, epoch): (Box<str>, u64),
        attributes: Vec<(Box<str>, MovedAttribute)>,
        queue: &mut VecDeque<Message>,
    ) {
        let is_home = *message.to == *child;
        if !is_home && !self.holds(client, &message.to, &child, Some(epoch).filter(|epoch| *epoch > 0), at) {
            if message.steps < limits::WALK_STEPS {
                message.to.clone_from(&child);
                message.what = What::More { child, epoch, attributes };
                queue.push_back(message);
            }
            return;
        }
        let Some(packed) = self.copy(client, &message.to, at) else { return };
        let mut draft = packed.head().draft();
        moved::take_more(&mut draft, &mut self.names, if is_home { "" } else { &child }, &attributes);
        if self.packed_bytes(client, &message.to, &draft) <= limits::LINKED_PROFILE_BYTES {
            self.put(at, client, &message.to, &draft);
            self.touch(client, &message.to, Touch::More { address: child });
        }
    }

    /// Writes a profile whole.
    pub(super) fn put(&mut self, at: LogTime, client: u32, home: &str, draft: &Draft<'_>) {
        let address = home.as_bytes();
        draft.pack(client, address, &mut self.scratch);
        let hash = key_hash(client, address);
        let Self { profiles, scratch, bytes, changed, .. } = self;
        let entry = profiles.entry(hash, |packed| packed.is(client, address), Packed::hash);
        store(entry, scratch, hash, bytes, changed);
        if let Some(client) = self.clients.get(client) {
            self.none_ends_before = self.none_ends_before.min(client.ends_at(draft.active_at.max(at.0)));
        }
    }
}

/// Tells addresses that were let go that they are on their own.
fn drop_all(client: &str, gone: Vec<moved::LetGo>, queue: &mut VecDeque<Message>) {
    let linked = gone.into_iter().filter(|one| !one.left);
    queue.extend(
        linked.map(|one| {
            Message::new(client, &one.address, What::Drop { epoch: one.epoch, erased: false, brought: None })
        }),
    );
}

/// Attributes in messages of a size that the log takes.
pub(super) fn chunks(attributes: Vec<(Box<str>, MovedAttribute)>) -> Vec<Vec<(Box<str>, MovedAttribute)>> {
    let mut all: Vec<Vec<_>> = Vec::new();
    let mut bytes = usize::MAX;
    for (address, attribute) in attributes {
        let size = address.len() + attribute.bytes();
        if bytes.saturating_add(size) > limits::MESSAGE_ATTRIBUTE_BYTES {
            all.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        if let Some(last) = all.last_mut() {
            last.push((address, attribute));
        }
    }
    all
}
