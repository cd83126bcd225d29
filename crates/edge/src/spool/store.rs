//! The spool's records on disk: sequence (8 bytes, big-endian) → partition (2 bytes, big-endian) and the encoded event.
//!
//! One thread writes: whatever has come meanwhile is one batch and one fsync. The database is reopened after a failed write: a
//! full disk poisons it, and it must work again when there is room.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use cameo_profile::Partition;
use fjall::{Database, Keyspace, PersistMode};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::SpoolError;

/// The keyspace of the records.
const KEYSPACE: &str = "visits";
/// Calls that wait for the disk. Ours: as many as a server of ours has under way; further ones are refused.
const WAITING: usize = 4096;
/// Calls that one batch takes.
const GROUP: usize = 1024;

/// A visit on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) seq: u64,
    pub(super) partition: Partition,
    pub(super) bytes: Vec<u8>,
}

enum Command {
    Add(Vec<Record>, oneshot::Sender<bool>),
    Flush(SyncSender<fjall::Result<()>>),
    /// There is something to forget.
    Forget,
}

/// The open database, for the thread that writes and for those that read.
struct Shared {
    dir: PathBuf,
    /// `None` after a failure, until it could be reopened.
    open: Mutex<Option<(Database, Keyspace)>>,
}

/// The records, and the thread that writes them.
pub(super) struct Store {
    shared: Arc<Shared>,
    commands: Option<SyncSender<Command>>,
    /// Records that can go, not yet told to the disk.
    gone: Arc<Mutex<Vec<u64>>>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens the database, and gives its records in order.
    pub(super) fn open(
        dir: &Path,
    ) -> Result<(Self, impl Iterator<Item = Result<Record, SpoolError>> + use<>), SpoolError> {
        let dir: PathBuf = dir.to_owned();
        let at = dir.clone();
        let unreadable = {
            let dir = dir.clone();
            move |source| SpoolError::Database { dir: dir.clone(), source }
        };
        let (database, records) = cameo_store::open(&dir, KEYSPACE).map_err(&unreadable)?;
        let all = records.iter().map(move |pair| {
            let (key, value) = pair.into_inner().map_err(&unreadable)?;
            read(&key, &value)
                .ok_or_else(|| SpoolError::Damaged { dir: dir.clone(), reason: "a record has no place".into() })
        });
        let gone = Arc::new(Mutex::new(Vec::new()));
        let (commands, receiver) = sync_channel(WAITING);
        let open = Mutex::new(Some((database, records)));
        let shared = Arc::new(Shared { dir: at, open });
        let writer = Writer { shared: Arc::clone(&shared), gone: Arc::clone(&gone) };
        let thread = std::thread::Builder::new().name("spool".into()).spawn(move || writer.run(&receiver));
        let thread = Some(thread.map_err(SpoolError::Thread)?);
        Ok((Self { shared, commands: Some(commands), gone, thread }, all))
    }

    /// Writes records; whether they, and all that was given before them, are durable. None are, when it says no.
    pub(super) async fn add(&self, records: Vec<Record>) -> bool {
        let (reply, done) = oneshot::channel();
        let Some(commands) = &self.commands else { return false };
        if commands.try_send(Command::Add(records, reply)).is_err() {
            return false;
        }
        done.await.unwrap_or(false)
    }

    /// Lets records go, soon.
    pub(super) fn forget(&self, seqs: &[u64]) {
        if seqs.is_empty() {
            return;
        }
        self.gone.lock().extend_from_slice(seqs);
        // A full channel has commands in it: their batch takes these along.
        match self.commands.as_ref().map(|commands| commands.try_send(Command::Forget)) {
            None | Some(Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) => {}
        }
    }

    /// Waits until what was let go is gone for good.
    pub(super) fn flush(&self) -> fjall::Result<()> {
        let (reply, done) = sync_channel(1);
        let sent = self.commands.as_ref().map(|commands| commands.send(Command::Flush(reply)));
        if !matches!(sent, Some(Ok(()))) {
            return Err(fjall::Error::Poisoned);
        }
        done.recv().unwrap_or(Err(fjall::Error::Poisoned))
    }

    /// Holds up whoever reads or writes, as a slow disk does.
    #[cfg(test)]
    pub(super) fn hold_up(&self) -> impl std::ops::DerefMut<Target = Option<(Database, Keyspace)>> + '_ {
        self.shared.open.lock()
    }

    /// A record, if it is there.
    pub(super) fn get(&self, seq: u64) -> fjall::Result<Option<Record>> {
        let key = seq.to_be_bytes();
        let (_database, records) = self.shared.open()?;
        Ok(records.get(key)?.and_then(|value| read(&key, &value)))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // The thread ends with the channel.
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by the panic hook.
            let _ = thread.join();
        }
        if let Some((database, _)) = self.shared.open.lock().take() {
            let _ = database.persist(PersistMode::SyncAll);
        }
    }
}

fn read(key: &[u8], value: &[u8]) -> Option<Record> {
    let (partition, bytes) = value.split_first_chunk()?;
    let seq = u64::from_be_bytes(key.try_into().ok()?);
    Some(Record { seq, partition: Partition(u16::from_be_bytes(*partition)), bytes: bytes.to_vec() })
}

impl Shared {
    /// The database, opened anew when the last write failed. That fails while a reader still has the one before.
    fn open(&self) -> fjall::Result<(Database, Keyspace)> {
        let mut held = self.open.lock();
        if let Some(open) = &*held {
            return Ok(open.clone());
        }
        let open = cameo_store::open(&self.dir, KEYSPACE)?;
        tracing::info!("the spool is open again after a failed write");
        Ok(held.insert(open).clone())
    }
}

struct Writer {
    shared: Arc<Shared>,
    gone: Arc<Mutex<Vec<u64>>>,
}

impl Writer {
    fn run(self, commands: &Receiver<Command>) {
        while let Ok(first) = commands.recv() {
            let (mut adds, mut replies, mut flushes) = (Vec::new(), Vec::new(), Vec::new());
            for command in std::iter::once(first).chain(commands.try_iter().take(GROUP)) {
                match command {
                    Command::Add(records, reply) => {
                        adds.extend(records);
                        replies.push(reply);
                    }
                    Command::Flush(reply) => flushes.push(reply),
                    Command::Forget => {}
                }
            }
            let gone = std::mem::take(&mut *self.gone.lock());
            // With nothing to write all is durable that ever was: a spool whose disk is full holds up no checkpoint then.
            let written = if adds.is_empty() && gone.is_empty() { Ok(()) } else { self.write(&adds, &gone) };
            if let Err(error) = &written {
                tracing::error!(%error, "the spool cannot be written");
                // They are applied: to write them off is tried again with the next batch.
                self.gone.lock().extend(gone);
            }
            for reply in replies {
                // Who asked may have gone: then nobody was told that it is durable, and it is all the same.
                let _ = reply.send(written.is_ok());
            }
            for reply in flushes {
                let _ = reply.send(if written.is_ok() { Ok(()) } else { Err(fjall::Error::Poisoned) });
            }
        }
    }

    fn write(&self, adds: &[Record], gone: &[u64]) -> fjall::Result<()> {
        let (database, records) = self.shared.open()?;
        let mut batch = database.batch();
        for record in adds {
            let value = [&record.partition.0.to_be_bytes()[..], &record.bytes].concat();
            batch.insert(&records, record.seq.to_be_bytes(), value);
        }
        for seq in gone {
            batch.remove(&records, seq.to_be_bytes());
        }
        let written = cameo_store::commit(&[&records], batch).and_then(|()| database.persist(PersistMode::SyncData));
        if written.is_err() {
            // Part of the batch may be found when it is opened again: who asked is refused, and forgets it.
            *self.shared.open.lock() = None;
        }
        written
    }
}

#[cfg(test)]
mod tests;
