//! Variable-length integers of the packed forms, and of indexes built on them: 7 bits a byte, low bits first; signed ones zigzag-coded.

/// Appends `value`.
pub fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed value.
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends bytes after their length.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads from bytes that this crate wrote. Past the end everything reads as zero or empty and [`Self::is_bad`] says so:
/// hot paths check once, at the end, or not at all where the bytes never left memory.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    bad: bool,
}

impl<'a> Reader<'a> {
    /// Reads from the start.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, bad: false }
    }

    /// Whether anything was read that is not there.
    #[must_use]
    pub const fn is_bad(&self) -> bool {
        self.bad
    }

    /// Whether everything has been read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What has not been read.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// One byte.
    #[inline]
    pub fn byte(&mut self) -> u8 {
        match self.bytes.split_first() {
            Some((&first, rest)) => {
                self.bytes = rest;
                first
            }
            None => {
                self.bad = true;
                0
            }
        }
    }

    /// What [`put`] wrote.
    #[inline]
    pub fn varint(&mut self) -> u64 {
        let first = self.byte();
        if first < 0x80 {
            return u64::from(first);
        }
        let mut value = u64::from(first & 0x7f);
        let mut shift = 7;
        loop {
            let byte = self.byte();
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
            if shift > 63 {
                self.bad = true;
                return value;
            }
        }
    }

    /// What [`put_signed`] wrote.
    #[inline]
    pub fn signed(&mut self) -> i64 {
        let value = self.varint();
        (value >> 1) as i64 ^ -((value & 1) as i64)
    }

    /// So many bytes.
    #[inline]
    pub fn take(&mut self, length: usize) -> &'a [u8] {
        if length > self.bytes.len() {
            self.bad = true;
            self.bytes = &[];
            return &[];
        }
        let (taken, rest) = self.bytes.split_at(length);
        self.bytes = rest;
        taken
    }

    /// What [`put_bytes`] wrote.
    #[inline]
    pub fn bytes(&mut self) -> &'a [u8] {
        let length = self.varint();
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// Bytes that were written from a `str`.
    pub fn text(&mut self) -> &'a str {
        std::str::from_utf8(self.bytes()).unwrap_or_else(|_| {
            self.bad = true;
            ""
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trip(a: u64, b: i64, c: Vec<u8>) {
            let mut out = Vec::new();
            put(&mut out, a);
            put_signed(&mut out, b);
            put_bytes(&mut out, &c);
            let mut reader = Reader::new(&out);
            prop_assert_eq!((reader.varint(), reader.signed(), reader.bytes()), (a, b, &c[..]));
            prop_assert!(reader.is_empty() && !reader.is_bad());
        }

        #[test]
        fn rubbish_is_noticed_not_fatal(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes);
            for _ in 0..bytes.len() + 2 {
                reader.bytes();
            }
            prop_assert!(reader.is_bad() || reader.is_empty());
        }
    }
}
