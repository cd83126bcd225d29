//! Log time, and the one text form that timestamps have in replies. There is no clock here.

use std::fmt;

/// Milliseconds since 1970-01-01T00:00:00Z, as the log stamped them. Never falls within a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogTime(pub u64);

/// A minute, in milliseconds.
pub const MINUTE_MS: u64 = 60_000;
/// A day, in milliseconds.
pub const DAY_MS: u64 = 86_400_000;

impl LogTime {
    /// Milliseconds since 1970.
    #[must_use]
    pub const fn ms(self) -> u64 {
        self.0
    }
}

impl fmt::Display for LogTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Iso8601::new(self.0).as_str())
    }
}

/// `2026-08-18T17:53:39.003Z`: a time as every reply shows it, without allocating.
#[derive(Clone, Copy)]
pub struct Iso8601([u8; 24]);

/// 9999-12-31T23:59:59.999Z, the last time that has four digits for its year.
const LAST_MS: u64 = 253_402_300_799_999;

impl Iso8601 {
    /// Formats `ms` since 1970; a time past the year 9999 reads as its last millisecond.
    #[must_use]
    pub fn new(ms: u64) -> Self {
        let ms = ms.min(LAST_MS);
        let (days, in_day) = (ms / DAY_MS, ms % DAY_MS);
        let (year, month, day) = civil_from_days(days);
        let mut out = *b"0000-00-00T00:00:00.000Z";
        put(&mut out[0..4], year);
        put(&mut out[5..7], month);
        put(&mut out[8..10], day);
        put(&mut out[11..13], in_day / 3_600_000);
        put(&mut out[14..16], in_day / 60_000 % 60);
        put(&mut out[17..19], in_day / 1000 % 60);
        put(&mut out[20..23], in_day % 1000);
        Self(out)
    }

    /// The 24 characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Writes `value` right-aligned over the zeros in `slot`.
fn put(slot: &mut [u8], mut value: u64) {
    for byte in slot.iter_mut().rev() {
        *byte = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Days since 1970-01-01 to (year, month, day) in the Gregorian calendar; the method of Howard Hinnant's
/// "chrono-Compatible Low-Level Date Algorithms" for dates from 1970 on.
const fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_500_648_715_286, "2017-07-21T14:51:55.286Z"),
            (1_787_075_619_003, "2026-08-18T17:53:39.003Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Iso8601::new(ms).as_str(), text);
        }
    }
}
