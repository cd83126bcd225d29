//! What commands say: results on standard output, remarks on standard error.
//!
//! `print!` panics when nobody reads any more (`cameo … | head`). Here a reader that has left is no failure: it has had
//! what it wanted, and the work goes on. Any other failure (a full disk behind `>`) is one, as a script would take half
//! a result for a whole one.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

use anyhow::Context;

/// A line on standard output: `say!("…")?`.
macro_rules! say {
    ($($what:tt)*) => { $crate::out::line(format_args!($($what)*)) };
}
/// A line on standard error, as well as it goes.
macro_rules! remark {
    ($($what:tt)*) => { $crate::out::remark_line(format_args!($($what)*)) };
}
pub(crate) use {remark, say};

/// Writes a line to standard output.
///
/// # Errors
/// When it cannot be written although somebody reads.
pub(crate) fn line(text: Arguments<'_>) -> anyhow::Result<()> {
    write_line(&mut std::io::stdout().lock(), text).context("cannot write to standard output")
}

/// Writes a line to standard error; there is nowhere to tell of a failure.
pub(crate) fn remark_line(text: Arguments<'_>) {
    let _ = write_line(&mut std::io::stderr().lock(), text);
}

fn write_line(to: &mut dyn Write, text: Arguments<'_>) -> std::io::Result<()> {
    // In one piece: formatting straight into standard error would be a system call for every fragment.
    let text = format!("{text}\n");
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fails(ErrorKind);

    impl Write for Fails {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_left_is_no_failure_and_a_full_disk_is_one() {
        assert!(write_line(&mut Fails(ErrorKind::BrokenPipe), format_args!("x")).is_ok());
        assert!(write_line(&mut Fails(ErrorKind::StorageFull), format_args!("x")).is_err());
    }
}
