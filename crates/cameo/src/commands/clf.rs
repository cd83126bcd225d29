//! Combined Log Format: one line of a web server's access log, taken apart.
//!
//! `HOST IDENT USER [day/Mon/year:h:m:s ±hhmm] "METHOD TARGET PROTOCOL" STATUS BYTES "REFERRER" "USER AGENT"`.
//! Quoted fields may hold `\"` and `\\`; bytes that are not UTF-8 are replaced.

use jiff::civil::DateTime;

/// What a visit needs of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) host: String,
    /// ms since 1970.
    pub(crate) time_ms: u64,
    pub(crate) method: String,
    /// Path and query as requested.
    pub(crate) target: String,
    pub(crate) status: u16,
    pub(crate) referrer: Option<String>,
    pub(crate) user_agent: Option<String>,
}

/// Takes a line apart.
///
/// # Errors
/// Names the field that is missing or wrong.
pub(crate) fn parse(line: &[u8]) -> Result<Line, &'static str> {
    let text = String::from_utf8_lossy(line);
    let mut rest = text.trim();
    let host = word(&mut rest).ok_or("there is no host")?.to_owned();
    word(&mut rest).ok_or("there is no identity")?;
    let (_user, after) = rest.split_once('[').ok_or("there is no time in brackets")?;
    let (time, after) = after.split_once(']').ok_or("the time has no closing bracket")?;
    let time_ms = time_ms(time).ok_or("the time is none")?;
    rest = after;
    let request = quoted(&mut rest).ok_or("there is no request in quotes")?;
    let mut request = request.split(' ');
    let method = request.next().filter(|m| !m.is_empty()).ok_or("the request is empty")?.to_owned();
    let target = request.next().ok_or("the request has no target")?.to_owned();
    let status = word(&mut rest).and_then(|w| w.parse().ok()).ok_or("the status is no number")?;
    word(&mut rest).filter(|w| *w == "-" || w.parse::<u64>().is_ok()).ok_or("the size is no number")?;
    let known = |field: String| Some(field).filter(|f| !f.is_empty() && f != "-");
    let referrer = known(quoted(&mut rest).ok_or("there is no referrer in quotes")?);
    let user_agent = known(quoted(&mut rest).ok_or("there is no user agent in quotes")?);
    Ok(Line { host, time_ms, method, target, status, referrer, user_agent })
}

fn word<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let text = rest.trim_start_matches(' ');
    let end = text.find(' ').unwrap_or(text.len());
    let (word, after) = text.split_at(end);
    *rest = after;
    (!word.is_empty()).then_some(word)
}

fn quoted(rest: &mut &str) -> Option<String> {
    let text = rest.trim_start_matches(' ').strip_prefix('"')?;
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                *rest = &text[at + 1..];
                return Some(out);
            }
            '\\' => match chars.next()?.1 {
                escaped @ ('"' | '\\') => out.push(escaped),
                other => out.extend(['\\', other]),
            },
            c => out.push(c),
        }
    }
    None
}

/// `17/May/2015:10:05:03 +0000`.
fn time_ms(text: &str) -> Option<u64> {
    let (clock, offset) = text.split_once(' ')?;
    let mut parts = clock.splitn(5, ['/', ':']);
    let day = parts.next()?.parse().ok()?;
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let name = parts.next()?;
    let month = months.iter().position(|month| *month == name)? as i8 + 1;
    let year = parts.next()?.parse().ok()?;
    let hour = parts.next()?.parse().ok()?;
    let (minute, second) = parts.next()?.split_once(':')?;
    let civil = DateTime::new(year, month, day, hour, minute.parse().ok()?, second.parse().ok()?, 0).ok()?;
    let (sign, digits) = match offset.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let (hours, minutes) = digits.split_at_checked(2)?;
    let seconds = sign * (hours.parse::<i32>().ok()? * 3600 + minutes.parse::<i32>().ok()? * 60);
    let zone = jiff::tz::Offset::from_seconds(seconds).ok()?;
    u64::try_from(zone.to_timestamp(civil).ok()?.as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"83.149.9.216 - - [17/May/2015:10:05:03 +0000] "GET /a?b=c HTTP/1.1" 200 203023 "http://x/" "Mozilla/5.0 (X)""#;

    #[test]
    fn a_line_is_taken_apart() {
        let line = parse(GOOD.as_bytes()).unwrap();
        assert_eq!((line.host.as_str(), line.time_ms, line.status), ("83.149.9.216", 1_431_857_103_000, 200));
        assert_eq!((line.method.as_str(), line.target.as_str()), ("GET", "/a?b=c"));
        assert_eq!(
            (line.referrer.as_deref(), line.user_agent.as_deref()),
            (Some("http://x/"), Some("Mozilla/5.0 (X)"))
        );
    }

    #[test]
    fn odd_lines_that_are_right() {
        let change = |from: &str, to: &str| parse(GOOD.replace(from, to).as_bytes()).unwrap();
        assert_eq!(change("83.149.9.216", "2001:db8::1").host, "2001:db8::1");
        assert_eq!(change("- - [", "- a user [").time_ms, 1_431_857_103_000);
        assert_eq!(change("10:05:03 +0000", "12:05:03 +0200").time_ms, 1_431_857_103_000);
        assert_eq!(change("10:05:03 +0000", "04:35:03 -0530").time_ms, 1_431_857_103_000);
        assert_eq!(change("203023", "-").status, 200);
        assert_eq!(change("http://x/", "-").referrer, None);
        assert_eq!(change("Mozilla/5.0 (X)", r#"a \"b\" \\c \x"#).user_agent.as_deref(), Some(r#"a "b" \c \x"#));
        let mut bytes = GOOD.replace("(X)", "(#)").into_bytes();
        let at = bytes.iter().position(|b| *b == b'#').unwrap();
        bytes[at] = 0xff;
        assert_eq!(parse(&bytes).unwrap().user_agent.as_deref(), Some("Mozilla/5.0 (\u{fffd})"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, expected) in [
            (GOOD, "", "there is no host"),
            ("17/May/2015", "17/Mai/2015", "the time is none"),
            ("17/May/2015", "32/May/2015", "the time is none"),
            ("\"GET", "GET", "there is no request in quotes"),
            ("GET /a?b=c HTTP/1.1", "", "the request is empty"),
            (" 200 ", " ok ", "the status is no number"),
            (" \"Mozilla/5.0 (X)\"", "", "there is no user agent in quotes"),
            ("(X)\"", "(X)", "there is no user agent in quotes"),
        ] {
            assert_eq!(parse(GOOD.replace(from, to).as_bytes()), Err(expected), "{to}");
        }
    }
}
