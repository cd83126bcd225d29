//! Names of attributes and categories, interned once a partition, so that a profile spends a byte or two on each.
//!
//! Ids are given in the order of the log, so every replica gives the same. The table is bounded
//! ([`limits::INTERNED_NAMES`]): past it a profile carries the name itself.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use crate::limits;

/// A name within a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name<'a> {
    /// By its number in [`Names`].
    Id(u32),
    /// In full, as the table was full when it came.
    Text(&'a [u8]),
}

/// The table. Only ever grows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    texts: Vec<Box<str>>,
    by_hash: HashTable<u32>,
    /// How many of `texts` the last checkpoint has.
    saved: usize,
}

impl Names {
    /// Finds or adds `name`.
    pub(crate) fn intern<'a>(&mut self, name: &'a str) -> Name<'a> {
        let hash = xxh3_64(name.as_bytes());
        if let Some(&id) = self.by_hash.find(hash, |&id| &*self.texts[id as usize] == name) {
            return Name::Id(id);
        }
        if self.texts.len() >= limits::INTERNED_NAMES {
            return Name::Text(name.as_bytes());
        }
        Name::Id(self.push(name, hash))
    }

    fn push(&mut self, name: &str, hash: u64) -> u32 {
        let id = self.texts.len() as u32;
        self.texts.push(name.into());
        let texts = &self.texts;
        self.by_hash.insert_unique(hash, id, |&id| xxh3_64(texts[id as usize].as_bytes()));
        id
    }

    /// The text of a name that stands in a profile.
    pub(crate) fn text<'a>(&'a self, name: Name<'a>) -> &'a str {
        match name {
            Name::Id(id) => self.texts.get(id as usize).map_or("", |text| text),
            Name::Text(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.texts.len()
    }

    /// All names, in the order of their ids.
    pub(crate) fn all(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().map(|text| &**text)
    }

    /// Names added since the last call, with their ids.
    pub(crate) fn take_new(&mut self) -> impl Iterator<Item = (u32, &str)> {
        let from = std::mem::replace(&mut self.saved, self.texts.len());
        self.texts[from..].iter().zip(from as u32..).map(|(text, id)| (id, &**text))
    }

    /// The checkpoint that took names from `id` on was not written.
    pub(crate) fn put_back(&mut self, id: u32) {
        self.saved = self.saved.min(id as usize);
    }

    /// Takes a name from a checkpoint. Pairs come in rising order of id.
    pub(crate) fn restore(&mut self, id: u32, name: &str) -> bool {
        if id as usize != self.texts.len() {
            return false;
        }
        self.push(name, xxh3_64(name.as_bytes()));
        self.saved = self.texts.len();
        true
    }
}
