//! A plain model of devices and persons: one map, no partitions, no messages. What a profile shows is found by going through
//! everything that was ever done to it again.

use std::collections::BTreeMap;

use super::{ADDRESSES, Deed, ids_of};
use crate::time::DAY_MS;

/// Something done to a profile, by one of its addresses.
#[derive(Clone, Debug)]
enum Did {
    Visit,
    Set(String, String),
    Unset(String),
    /// What the address had when it was linked.
    Brought(Vec<Did>),
}

#[derive(Clone, Debug, Default)]
struct Profile {
    active_at: u64,
    did: Vec<(String, Did)>,
}

#[derive(Debug, Default)]
pub(super) struct Model {
    profiles: BTreeMap<String, Profile>,
    follows: BTreeMap<String, String>,
}

type Read = (String, BTreeMap<String, String>, u64);

impl Model {
    pub(super) fn run(&mut self, deed: &Deed, number: usize, now: u64) {
        self.profiles.retain(|_, profile| now < profile.active_at + 14 * DAY_MS);
        let profiles = &self.profiles;
        self.follows.retain(|_, person| profiles.contains_key(person));
        let value = format!("v{number}");
        match deed {
            Deed::Visit { ids, set, .. } => {
                let ids = ids_of(ids);
                let device = ids.iter().find(|id| id.starts_with("tnt:"));
                let person = ids.iter().find(|id| id.starts_with("tp:"));
                if let (Some(device), Some(person)) = (device, person) {
                    self.link(device, person, now);
                }
                let by = device.or(person).expect("an id").to_string();
                let mut did = vec![Did::Visit];
                did.extend(set.iter().map(|n| Did::Set(format!("n{n}"), value.clone())));
                self.act(&by, did, now);
            }
            Deed::Update { id, set, unset } => {
                let address = ADDRESSES[usize::from(*id)];
                if self.profiles.contains_key(&self.home(address)) {
                    let mut did: Vec<_> = set.iter().map(|n| Did::Set(format!("n{n}"), value.clone())).collect();
                    did.extend(unset.iter().map(|n| Did::Unset(format!("u{n}"))));
                    self.act(address, did, now);
                }
            }
            Deed::Unlink { id } => self.unlink(ADDRESSES[usize::from(*id)], now),
            Deed::Erase { id } => {
                let home = self.home(ADDRESSES[usize::from(*id)]);
                self.profiles.remove(&home);
                self.follows.retain(|_, person| *person != home);
            }
            Deed::Wait { .. } | Deed::Restart => {}
        }
        self.profiles.retain(|_, profile| now < profile.active_at + 14 * DAY_MS);
    }

    fn home(&self, address: &str) -> String {
        self.follows.get(address).cloned().unwrap_or_else(|| address.to_owned())
    }

    fn act(&mut self, by: &str, did: Vec<Did>, now: u64) {
        let profile = self.profiles.entry(self.follows.get(by).cloned().unwrap_or_else(|| by.to_owned())).or_default();
        profile.active_at = now;
        profile.did.extend(did.into_iter().map(|did| (by.to_owned(), did)));
    }

    fn link(&mut self, device: &str, person: &str, now: u64) {
        let before = self.follows.insert(device.to_owned(), person.to_owned());
        let held = if before.is_none() { self.profiles.remove(device) } else { None };
        let profile = self.profiles.entry(person.to_owned()).or_default();
        profile.active_at = now;
        if let Some(held) = held {
            let did = held.did.into_iter().map(|(_, did)| did).collect();
            profile.did.push((device.to_owned(), Did::Brought(did)));
        }
    }

    fn unlink(&mut self, device: &str, now: u64) {
        let Some(person) = self.follows.remove(device) else { return };
        let Some(profile) = self.profiles.get_mut(&person) else { return };
        let (own, rest) = std::mem::take(&mut profile.did).into_iter().partition(|(by, _)| by == device);
        profile.did = rest;
        let own: Vec<(String, Did)> = own;
        let flat = own.into_iter().flat_map(|(by, did)| match did {
            Did::Brought(all) => all.into_iter().map(|did| (by.clone(), did)).collect(),
            did => vec![(by, did)],
        });
        self.profiles.insert(device.to_owned(), Profile { active_at: now, did: flat.collect() });
    }

    pub(super) fn read(&self, address: &str) -> Option<Read> {
        let home = self.home(address);
        let profile = self.profiles.get(&home)?;
        let (mut attributes, mut visits) = (BTreeMap::new(), 0);
        for (_, did) in &profile.did {
            show(&mut attributes, &mut visits, did);
        }
        Some((home, attributes, visits))
    }
}

fn show(attributes: &mut BTreeMap<String, String>, visits: &mut u64, did: &Did) {
    match did {
        Did::Visit => *visits += 1,
        Did::Set(name, value) => {
            attributes.insert(name.clone(), value.clone());
        }
        Did::Unset(name) => {
            attributes.remove(name);
        }
        Did::Brought(all) => {
            let mut own = BTreeMap::new();
            for did in all {
                show(&mut own, visits, did);
            }
            for (name, value) in own {
                attributes.entry(name).or_insert(value);
            }
        }
    }
}
