//! What is let go of an address when a profile that it was linked to is erased: what the address had brought to that, and
//! that it led there. What belongs to others stays.

use cameo_profile::state::{AliasTo, Touch};

use super::alias::led_before;
use super::{Entry, Gap, Image, What};

/// A profile that an address was linked to has been erased.
#[derive(Debug)]
pub(super) struct Forgotten {
    /// Of the alias by which it was linked last.
    pub(super) epoch: u64,
    /// Of those by which it brought something.
    pub(super) brought: Vec<u64>,
}

impl Forgotten {
    /// Lets it go; entries and images are in the order of the log.
    pub(super) fn forget(&self, entries: &mut Vec<Entry>, images: &mut Vec<Image>, gaps: &[Gap]) {
        for epoch in &self.brought {
            forget_brought(entries, images, gaps, *epoch);
        }
        self.forget_link(entries, images);
    }

    /// Lets go that the address led there, where that tells nothing else: it leads there no more, and nothing came back.
    fn forget_link(&self, entries: &mut Vec<Entry>, images: &mut Vec<Image>) {
        let set = |entry: &Entry| matches!(entry.touch(), Some(Touch::Linked { to, .. }) if to.epoch == self.epoch);
        let Some(linked) = entries.iter().position(set) else { return };
        let mut later = (linked + 1..entries.len()).filter(|&at| led_before(&entries[at]).is_some());
        let (Some(freed), next) = (later.next(), later.next()) else { return };
        let is_freed = matches!(entries[freed].touch(), Some(Touch::Freed { from }) if from.epoch == self.epoch);
        let since = &entries[freed..next.unwrap_or(entries.len())];
        if !is_freed || since.iter().any(|entry| entry.touch() == Some(&Touch::GivenBack)) {
            return;
        }
        let before = match entries[linked].touch() {
            Some(Touch::Linked { from: Some(from), .. }) => Some(from.clone()),
            // It went to somebody else, who has it still.
            Some(Touch::Linked { brought: true, .. }) if !self.brought.contains(&self.epoch) => return,
            _ => None,
        };
        entries.remove(freed);
        if let Some(from) = before {
            entries[linked].what = What::Touched(Touch::Freed { from });
        } else {
            let Entry { position, .. } = entries.remove(linked);
            images.retain(|image| image.position != position || image.length > 0);
        }
    }
}

/// Lets go what led to the profile that an address brought by the alias of this epoch: from its beginning, or from when the
/// address was on its own again without having got anything back.
fn forget_brought(entries: &mut Vec<Entry>, images: &mut Vec<Image>, gaps: &[Gap], epoch: u64) {
    let changes = |entries: &[Entry]| entries.iter().rposition(|entry| led_before(entry).is_some());
    let is_brought = |to: &AliasTo| to.epoch == epoch;
    let linked = |entry: &Entry| matches!(entry.touch(), Some(Touch::Linked { to, from: None, .. }) if is_brought(to));
    let Some(end) = entries.iter().position(linked) else {
        // It is not known when that was, but it was before anything that happened after the last gap.
        let upto = gaps.iter().map(|gap| gap.upto).max().unwrap_or_default();
        entries.retain(|entry| entry.position.0 > upto);
        images.retain(|image| image.position.0 > upto);
        return;
    };
    let brings = |entry: &Entry| matches!(entry.touch(), Some(Touch::Linked { from: None, .. }));
    let mut start = end;
    loop {
        let Some(freed) = changes(&entries[..start]) else {
            start = 0;
            break;
        };
        let came_back = entries[freed..start].iter().any(|entry| entry.touch() == Some(&Touch::GivenBack));
        let Some(before) = changes(&entries[..freed]).filter(|before| came_back && brings(&entries[*before])) else {
            start = freed + 1;
            break;
        };
        start = before;
    }
    let (from, upto) = (entries[start].position, entries[end].position);
    images.retain(|image| (start > 0 && image.position < from) || image.position >= upto);
    entries.drain(start..end);
}
