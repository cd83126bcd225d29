//! Events on their way to the profile they are for, and the links made on the way (ADR 8).
//!
//! An event enters at the lowest address that it names. At each address the walk keeps, sets or moves the alias, takes the
//! profile along that lived there, and goes on to the next address as a message; at the home it takes in what it
//! brought and applies the event. Messages for addresses of this partition are dealt with at once.
//!
//! What holds:
//! - Aliases point upwards ([`Address::height`]), so a walk ends.
//! - Whatever concerns an address goes along its aliases, and messages between two partitions keep their order, so nothing
//!   overtakes the link that it relies on.
//! - Every address knows which others point to it. One that has ended, or does not know the address by which something came,
//!   sends it back; that alias goes.

use std::collections::VecDeque;

use super::PartitionState;
use super::alias::bytes_of;
use super::carry::chunks;
use super::edit::Via;
use super::fold::{Outcome, UpdateOutcome, VisitOutcome};
use super::message::{Joined, Message, Saga, Walk, What, brought, put_brought};
use super::touched::{AliasTo, ELSEWHERE, Touch};
use crate::event::{DropAlias, Event, Relay, Unlink};
use crate::ids::{Address, partition_in};
use crate::limits;
use crate::packed::{Draft, Packed, key_hash};
use crate::time::LogTime;

/// A walk that has come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completed {
    /// Which.
    pub saga: Saga,
    /// The tenant.
    pub client: Box<str>,
    /// Canonical text of the address that the profile lives at.
    pub home: Box<str>,
    /// What became of the event.
    pub outcome: Outcome,
}

impl PartitionState {
    /// Whether a profile lives at `home` and holds an address.
    pub(super) fn holds(&self, client: u32, home: &str, address: &str, epoch: Option<u64>, now: LogTime) -> bool {
        let Some(draft) = self.draft(client, home, now) else { return false };
        let at = draft.parts.iter().position(|part| part.address == address.as_bytes());
        at.is_some_and(|at| draft.is_here(at) && epoch.is_none_or(|epoch| epoch == draft.parts[at].epoch))
    }

    /// The profile that lives at `home` and has not ended.
    pub(super) fn draft(&self, client: u32, home: &str, now: LogTime) -> Option<Draft<'_>> {
        let (address, settings) = (home.as_bytes(), self.clients.get(client)?);
        let packed = self.profiles.find(key_hash(client, address), |packed| packed.is(client, address))?;
        let head = packed.head();
        (now.0 < settings.ends_at(head.active_at)).then(|| head.draft())
    }

    /// The same, in bytes of its own, so that the state can be changed meanwhile.
    pub(super) fn copy(&self, client: u32, home: &str, now: LogTime) -> Option<Packed> {
        let (address, settings) = (home.as_bytes(), self.clients.get(client)?);
        let packed = self.profiles.find(key_hash(client, address), |packed| packed.is(client, address))?;
        (now.0 < settings.ends_at(packed.head().active_at)).then(|| packed.clone())
    }

    /// Begins a walk that somebody waits for.
    pub(super) fn begin(&mut self, at: LogTime, client: &str, to: &str, walk: Walk) -> Outcome {
        Outcome::Forwarded(self.start(at, client, to, What::Walk(walk)))
    }

    fn start(&mut self, at: LogTime, client: &str, to: &str, what: What) -> Saga {
        self.sagas += 1;
        let saga = Saga { partition: self.me.0, number: self.sagas };
        let message = Message {
            client: client.into(),
            to: to.into(),
            saga: Some(saga),
            trail: Vec::new(),
            drop: 0,
            steps: 0,
            what,
        };
        self.run(at, message);
        saga
    }

    /// Begins a walk that nobody waits for.
    pub(super) fn send(&mut self, at: LogTime, client: &str, to: &str, walk: Walk) {
        let what = What::Walk(walk);
        self.run(at, Message::new(client, to, what));
    }

    pub(super) fn relay(&mut self, at: LogTime, event: &Relay<'_>) -> Outcome {
        for ((message, number), place) in event.messages.iter().zip(event.first..).zip(1..) {
            self.message = place;
            if self.outbox.hear(event.from, number)
                && let Some(message) = Message::decode(message.0)
            {
                self.run(at, message);
            }
        }
        Outcome::Relayed { heard: self.outbox.heard(event.from) }
    }

    /// Looks whether an alias still leads somewhere: an empty walk goes along, and is sent back if it does not.
    pub(super) fn drop_alias(&mut self, at: LogTime, event: &DropAlias<'_>) {
        let client = self.clients.intern(event.client);
        if self.aliases.get(client, event.address).is_none_or(|alias| alias.epoch != event.epoch) {
            return;
        }
        let address: Box<str> = event.address.into();
        let walk = Walk {
            next: Vec::new(),
            named: vec![address.clone()],
            via: address,
            time: at.0,
            joined: Vec::new(),
            event: Vec::new(),
            duplicate: None,
            turns: 0,
        };
        self.send(at, event.client, event.address, walk);
    }

    pub(super) fn unlink(&mut self, at: LogTime, event: &Unlink<'_>) -> Outcome {
        let client = self.clients.intern(event.client);
        let alias = self.aliases.get(client, event.address).filter(|alias| alias.epoch == event.epoch);
        let Some(to) = alias.and_then(|alias| alias.target()).map(Box::<str>::from) else {
            return Outcome::Unlink { found: false };
        };
        let from = AliasTo { address: to.clone(), epoch: event.epoch };
        self.aliases.set(client, event.address, "", at.0);
        self.touch(client, event.address, Touch::Freed { from });
        let what = What::TakeOut { address: event.address.into(), epoch: event.epoch, by: event.by.map(Into::into) };
        Outcome::Forwarded(self.start(at, event.client, &to, what))
    }

    /// Deals with a message and what follows from it, as far as this partition goes; then with what has waited for that.
    fn run(&mut self, at: LogTime, message: Message) {
        self.run_one(at, message);
        while let Some(waited) = self.returned.pop_front() {
            let place = std::mem::replace(&mut self.message, ELSEWHERE);
            self.run_one(at, waited);
            self.message = place;
        }
    }

    fn run_one(&mut self, at: LogTime, message: Message) {
        let mut queue = VecDeque::from([message]);
        while let Some(message) = queue.pop_front() {
            let partition = partition_in(&message.client, &message.to, self.count);
            if partition == self.me {
                self.step(at, message, &mut queue);
            } else {
                self.outbox.push(partition.0, message.encode());
            }
        }
    }

    fn step(&mut self, at: LogTime, mut message: Message, queue: &mut VecDeque<Message>) {
        message.steps = message.steps.saturating_add(1);
        let client = self.clients.intern(&message.client);
        if message.drop != 0 {
            self.free(client, &message.to, message.drop);
            message.drop = 0;
        }
        let for_profile =
            matches!(message.what, What::Walk(_) | What::Left { .. } | What::TakeOut { .. } | What::More { .. });
        if for_profile && self.aliases.is_returning(client, &message.to) {
            self.aliases.wait(client, &message.to, message.encode());
            return;
        }
        let what = std::mem::replace(&mut message.what, What::Drop { epoch: 0, erased: false, brought: None });
        match what {
            What::Walk(walk) => self.walk(at, client, message, walk, queue),
            What::Drop { epoch, erased, brought: said } => {
                self.free(client, &message.to, epoch);
                // Also where the alias is gone, or another one, by now: it was linked when the profile was erased.
                if erased {
                    self.touch(client, &message.to, Touch::Forgotten { epoch, brought: brought(epoch, said) });
                }
            }
            What::Forget { epoch, brought: said } => {
                self.touch(client, &message.to, Touch::Forgotten { epoch, brought: brought(epoch, said) });
            }
            What::GiveBack(moved) => self.give_back(at, client, &message.to, moved.as_ref()),
            What::Unlinked { found } => self.complete(message, Outcome::Unlink { found }),
            what => {
                if let What::Left { address, epoch } | What::TakeOut { address, epoch, .. } = &what {
                    self.aliases.let_go(client, &message.to, address, *epoch);
                }
                let (message, what) = match self.go_on(at, client, message, what, false, queue) {
                    None => return,
                    Some(arrived) => arrived,
                };
                match what {
                    What::Left { address, epoch } => self.left(at, client, &message, &address, epoch),
                    What::TakeOut { address, epoch, by } => {
                        self.take_out(at, client, message, (&address, epoch, by), queue);
                    }
                    What::More { child, epoch, attributes } => {
                        self.more(at, client, message, (child, epoch), attributes, queue);
                    }
                    What::Walk(_)
                    | What::GiveBack(_)
                    | What::Unlinked { .. }
                    | What::Drop { .. }
                    | What::Forget { .. } => {}
                }
            }
        }
    }

    /// Sends a message up along the alias of its address, or back when the address does not know the one by which it came
    /// (unless it `brings` that one); gives back what has arrived.
    fn go_on(
        &mut self,
        at: LogTime,
        client: u32,
        mut message: Message,
        what: What,
        brings: bool,
        queue: &mut VecDeque<Message>,
    ) -> Option<(Message, What)> {
        if message.is_far() {
            self.cut(at, client, &message, queue);
            return Some((message, what));
        }
        if let Some((below, epoch)) = message.trail.last()
            && !self.welcomes(at, client, &message.to, below, *epoch, brings)
        {
            send_back(message, what, queue);
            return None;
        }
        let alias = self.aliases.get(client, &message.to);
        let Some((up, epoch)) = alias.and_then(|alias| Some((Box::<str>::from(alias.target()?), alias.epoch))) else {
            return Some((message, what));
        };
        message.trail.push((std::mem::replace(&mut message.to, up), epoch));
        queue.push_back(Message { what, ..message });
        None
    }

    /// Makes an address of a chain that is too long to be walked a home again, so that what is applied there is found by those
    /// below. What they did before stays above.
    fn cut(&mut self, at: LogTime, client: u32, message: &Message, queue: &mut VecDeque<Message>) {
        let Some(alias) = self.aliases.get(client, &message.to) else { return };
        let (held, epoch) = (alias.held.clone(), alias.epoch);
        let Some(to) = alias.target().map(Box::<str>::from) else { return };
        self.free(client, &message.to, epoch);
        self.take_back(at, client, &message.to, None, &held);
        queue.push_back(Message::new(&message.client, &to, What::Left { address: message.to.clone(), epoch }));
    }

    /// Whether an address knows another one that points to it, or is to know it from now on.
    fn welcomes(&mut self, at: LogTime, client: u32, address: &str, below: &str, epoch: u64, brings: bool) -> bool {
        match self.aliases.get(client, address) {
            Some(_) if brings => {
                self.aliases.hold(client, address, below, epoch);
                true
            }
            Some(alias) if alias.holds(below, epoch) => true,
            Some(alias) if alias.target().is_some() => false,
            _ => brings || self.holds(client, address, below, Some(epoch), at),
        }
    }

    fn walk(&mut self, at: LogTime, client: u32, message: Message, walk: Walk, queue: &mut VecDeque<Message>) {
        let below = message.trail.last();
        let brings = below.is_some_and(|(below, _)| walk.joined.iter().any(|joined| joined.child == *below));
        if let Some(next) = walk.next.first().cloned()
            && !message.is_far()
        {
            if let Some((below, epoch)) = below
                && !self.welcomes(at, client, &message.to, below, *epoch, brings)
            {
                send_back(message, What::Walk(walk), queue);
                return;
            }
            let alias = self.aliases.get(client, &message.to);
            let up = alias.and_then(|alias| Some((Box::<str>::from(alias.target()?), alias.epoch)));
            self.link(at, client, message, walk, next, up, queue);
            return;
        }
        let arrived = self.go_on(at, client, message, What::Walk(walk), brings, queue);
        let Some((mut message, What::Walk(mut walk))) = arrived else { return };
        for joined in &walk.joined {
            self.take_in(at, client, &message, joined, queue);
        }
        if self.has_lost(at, client, &message, &walk) {
            (walk.joined, walk.turns) = (Vec::new(), u8::MAX);
            message.to.clone_from(&walk.via);
            message.trail.clear();
            queue.push_back(Message { what: What::Walk(walk), ..message });
            return;
        }
        if let Some(named) = self.repeats_elsewhere(at, client, &message, &walk) {
            walk.turns = u8::MAX;
            message.to = named;
            message.trail.clear();
            queue.push_back(Message { what: What::Walk(walk), ..message });
            return;
        }
        let outcome = self.arrive(at, client, &message, &walk, queue);
        self.complete(message, outcome);
    }

    /// Whom a visit named that was seen before, if it has arrived at somebody else, whom its device follows by now: its caller
    /// is told of nobody but whom it named.
    fn repeats_elsewhere(&self, at: LogTime, client: u32, message: &Message, walk: &Walk) -> Option<Box<str>> {
        if walk.duplicate.is_none() || walk.turns == u8::MAX {
            return None;
        }
        let Ok(Event::Visit(event)) = Event::decode(&walk.event) else { return None };
        let named = event.other_ids.last().copied().filter(|named| *named != &*message.to)?;
        (!self.holds(client, &message.to, named, None, at)).then(|| named.into())
    }

    /// Whether a walk that came by another way has arrived where its own address was, and is no more: what it did goes there.
    fn has_lost(&self, at: LogTime, client: u32, message: &Message, walk: &Walk) -> bool {
        let turned = (1..u8::MAX).contains(&walk.turns) && !walk.event.is_empty() && *walk.via != *message.to;
        turned
            && !message.trail.iter().any(|(address, _)| *address == walk.via)
            && !self.holds(client, &message.to, &walk.via, None, at)
    }

    fn complete(&mut self, message: Message, outcome: Outcome) {
        if let Some(saga) = message.saga {
            self.completed.push(Completed { saga, client: message.client, home: message.to, outcome });
        }
    }

    /// Links this address to the next one, by the rules of ADR 8, and goes on.
    #[expect(clippy::too_many_arguments, reason = "the parts of one step, taken apart by its caller")]
    fn link(
        &mut self,
        at: LogTime,
        client: u32,
        mut message: Message,
        mut walk: Walk,
        next: Box<str>,
        up: Option<(Box<str>, u64)>,
        queue: &mut VecDeque<Message>,
    ) {
        let is_device = |address: &str| Address::from_canonical(address).parts().0.is_device();
        let is_lower = |a: &str, b: &str| Address::from_canonical(a).height() < Address::from_canonical(b).height();
        let mut more = Vec::new();
        let (to, epoch) = match up {
            // They do. The lower one is linked to the higher, so the walk goes by another way from here.
            None if is_lower(&next, &message.to) => {
                for joined in std::mem::take(&mut walk.joined) {
                    self.take_in(at, client, &message, &joined, queue);
                }
                walk.next.push(std::mem::replace(&mut message.to, next));
                walk.next.remove(0);
                walk.turns += 1;
                message.trail.clear();
                message.what = What::Walk(walk);
                queue.push_back(message);
                return;
            }
            // What comes along belongs to this address first: it moves as one.
            None => {
                for joined in std::mem::take(&mut walk.joined) {
                    self.take_in(at, client, &message, &joined, queue);
                }
                let held = self.held(at, client, &message.to);
                let mut moved = self.take(at, client, (&message.client, &message.to), queue);
                more = moved.as_mut().map_or(Vec::new(), |m| m.split_off(limits::MESSAGE_ATTRIBUTE_BYTES));
                let brought = moved.is_some();
                let epoch = self.aliases.set(client, &message.to, &next, at.0);
                let to = AliasTo { address: next.clone(), epoch };
                self.touch(client, &message.to, Touch::Linked { to, from: None, brought, held: held.clone() });
                for (other, epoch) in held {
                    self.aliases.hold(client, &message.to, &other, epoch);
                }
                walk.joined.push(Joined { child: message.to.clone(), epoch, moved, held: None });
                walk.next.remove(0);
                (next, epoch)
            }
            Some((to, epoch)) if to == next => {
                walk.next.remove(0);
                (to, epoch)
            }
            // The device moves as a whole.
            Some((to, epoch)) if is_device(&to) && !is_device(&next) => (to, epoch),
            // Nobody has logged in: the other names of the device join whoever has this one, if they still do.
            Some((to, epoch)) if walk.next.iter().all(|next| is_device(next)) => (to, epoch),
            // Somebody has logged in with this one meanwhile, perhaps on the very device: it is asked again where it belongs.
            Some((to, _)) if walk.turns == 1 && !is_device(&to) && walk.named.iter().all(|named| is_device(named)) => {
                walk.turns += 1;
                walk.next = walk.named.iter().filter(|named| **named != walk.via).cloned().collect();
                message.to.clone_from(&walk.via);
                message.trail.clear();
                message.what = What::Walk(walk);
                queue.push_back(message);
                return;
            }
            // Whoever logged in last has it; what it did stays where it was.
            Some((old, old_epoch)) => {
                let epoch = self.aliases.set(client, &message.to, &next, at.0);
                let (to, from) =
                    (AliasTo { address: next.clone(), epoch }, AliasTo { address: old.clone(), epoch: old_epoch });
                self.touch(
                    client,
                    &message.to,
                    Touch::Linked { to, from: Some(from), brought: false, held: Vec::new() },
                );
                queue.push_back(Message::new(
                    &message.client,
                    &old,
                    What::Left { address: message.to.clone(), epoch: old_epoch },
                ));
                // Of what does not fit the home learns when it first comes.
                let others: usize = walk.joined.iter().flat_map(|joined| &joined.held).map(|held| bytes_of(held)).sum();
                let held = self.aliases.get(client, &message.to).map(|alias| &alias.held);
                let held = held.filter(|held| others + bytes_of(held) <= limits::MESSAGE_HELD_BYTES).cloned();
                walk.joined.push(Joined { child: message.to.clone(), epoch, moved: None, held });
                walk.next.remove(0);
                (next, epoch)
            }
        };
        let child = std::mem::replace(&mut message.to, to);
        message.trail.push((child.clone(), epoch));
        if !more.is_empty() {
            // All of it comes before the event, whose end is waited for.
            let joined = Walk { joined: std::mem::take(&mut walk.joined), event: Vec::new(), ..walk.clone() };
            queue.push_back(Message { saga: None, what: What::Walk(joined), ..message.clone() });
            for attributes in chunks(more) {
                let what = What::More { child: child.clone(), epoch, attributes };
                queue.push_back(Message::new(&message.client, &message.to, what));
            }
        }
        message.what = What::Walk(walk);
        queue.push_back(message);
    }

    /// Applies the event of a walk to the profile that lives where it arrived.
    fn arrive(
        &mut self,
        at: LogTime,
        client: u32,
        message: &Message,
        walk: &Walk,
        queue: &mut VecDeque<Message>,
    ) -> Outcome {
        let home = &*message.to;
        let via = (*walk.via != *home).then(|| {
            let epoch = message.trail.iter().find(|(address, _)| *address == walk.via).map(|(_, epoch)| *epoch);
            Via { address: &walk.via, under: under(&message.trail, &walk.via), epoch }
        });
        match Event::decode(&walk.event) {
            Ok(Event::Visit(event)) => Outcome::Visit(match &walk.duplicate {
                Some(first) => VisitOutcome::duplicate(first.clone()),
                None => self.visit_here(at, client, home, &event, Some(walk.time), via),
            }),
            Ok(Event::Update(event)) => Outcome::Update(match &walk.duplicate {
                Some(_) => UpdateOutcome::Duplicate,
                None => self.update_here(at, client, home, &event, Some(walk.time), via),
            }),
            Ok(Event::BatchRows(event)) => {
                self.rows_here(at, client, home, &event, via);
                Outcome::Applied
            }
            Ok(Event::Erase(_)) => Outcome::Erase { found: self.erase_with(at, client, home, &message.client, queue) },
            // Nothing but a look, or a profile that was on its way back and found its address linked again.
            _ => Outcome::Applied,
        }
    }

    /// Erases the profile that lives at `home`, and the aliases that lead to it.
    pub(super) fn erase_here(&mut self, at: LogTime, client: u32, home: &str) -> bool {
        let Some(code) = self.clients.get(client).map(|client| client.code.clone()) else { return false };
        let mut queue = VecDeque::new();
        let found = self.erase_with(at, client, home, &code, &mut queue);
        for message in queue {
            self.run(at, message);
        }
        found
    }

    fn erase_with(&mut self, at: LogTime, client: u32, home: &str, code: &str, queue: &mut VecDeque<Message>) -> bool {
        let Some(draft) = self.draft(client, home, at) else {
            self.remove(key_hash(client, home.as_bytes()), client, home.as_bytes());
            // Of one that has ended something may be known.
            self.touch(client, home, Touch::Erased);
            return false;
        };
        for (part, is_here) in draft.parts.iter().zip(draft.here()).skip(1) {
            let address = std::str::from_utf8(part.address).unwrap_or_default();
            // What it had brought is erased also if it has left.
            let (epoch, brought) = (part.epoch, put_brought(part.epoch, &part.brought));
            let what = match is_here {
                true => What::Drop { epoch, erased: true, brought },
                false => What::Forget { epoch, brought },
            };
            queue.push_back(Message::new(code, address, what));
        }
        self.remove(key_hash(client, home.as_bytes()), client, home.as_bytes());
        self.touch(client, home, Touch::Erased);
        true
    }
}

/// Sends a message back to the address by which it came, whose alias leads nowhere.
fn send_back(mut message: Message, mut what: What, queue: &mut VecDeque<Message>) {
    let Some((below, epoch)) = message.trail.pop() else { return };
    let ended = std::mem::replace(&mut message.to, below);
    message.drop = epoch;
    if let What::Walk(walk) = &mut what
        && walk.named.contains(&ended)
    {
        // It was named, so the link is to be made anew.
        walk.next.insert(0, ended);
    }
    queue.push_back(Message { what, ..message });
}

/// The address through which one of a trail is linked to its end; empty = to the end itself.
pub(super) fn under<'t>(trail: &'t [(Box<str>, u64)], address: &str) -> &'t str {
    let place = trail.iter().position(|(passed, _)| **passed == *address);
    place.and_then(|place| trail.get(place + 1)).map_or("", |(above, _)| above)
}
