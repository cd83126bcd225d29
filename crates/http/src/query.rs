//! Query strings and form bodies: URL-encoded UTF-8, read strictly, so that a broken escape is an error and not data.

use cameo_profile::ids::Invalid;

use crate::refusal::Refusal;

/// Decoded names and values, in order.
pub type Pairs = Vec<(String, String)>;

/// Reads `a=b&c=d`. `+` is a space, as in forms.
///
/// # Errors
/// Names the parameter with a bad escape, or that is not UTF-8.
pub fn pairs(raw: &[u8]) -> Result<Pairs, Refusal> {
    let parts = raw.split(|&byte| byte == b'&').filter(|part| !part.is_empty());
    let pair = |part: &[u8]| {
        let (name, value) = match part.iter().position(|&byte| byte == b'=') {
            Some(at) => (&part[..at], &part[at + 1..]),
            None => (part, &part[part.len()..]),
        };
        let name = decode(name).map_err(|what| Invalid::other("a parameter name", what))?;
        let value = decode(value).map_err(|what| Invalid::other(name.clone(), what))?;
        Ok((name, value))
    };
    parts.map(pair).collect()
}

/// Decodes one URL-encoded text: `%41` is `A`, `+` is a space, the result is UTF-8.
///
/// # Errors
/// Says what is wrong with it; continues a sentence that starts with its name.
pub fn decode(raw: &[u8]) -> Result<String, &'static str> {
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
                match (digit(), digit()) {
                    (Some(high), Some(low)) => (high * 16 + low) as u8,
                    _ => return Err("has a bad escape: % must be followed by two hexadecimal digits"),
                }
            }
            byte => byte,
        });
    }
    String::from_utf8(out).map_err(|_| "is not UTF-8 after decoding")
}

/// The value of the one parameter `name`.
///
/// # Errors
/// When it is given more than once.
pub fn one<'p>(pairs: &'p Pairs, name: &'static str) -> Result<Option<&'p str>, Refusal> {
    let mut found = pairs.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str());
    let first = found.next();
    if found.next().is_some() {
        return Err(Invalid::other(name, "is given more than once").into());
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_and_case_sensitive() {
        let read = |text: &str| pairs(text.as_bytes());
        let owned = |list: &[(&str, &str)]| list.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect::<Pairs>();
        assert_eq!(
            read("a=1&A=2&c&=x&&d=e=f"),
            Ok(owned(&[("a", "1"), ("A", "2"), ("c", ""), ("", "x"), ("d", "e=f")]))
        );
        assert_eq!(read("n%C3%A9e=caf%c3%a9+noir%2B"), Ok(owned(&[("née", "café noir+")])));
        assert_eq!(
            read("x=%zz").map_err(|r| r.message.into_owned()).unwrap_err().split(':').next(),
            Some("x has a bad escape")
        );
        assert_eq!(read("x=%ff").map_err(|r| r.message.into_owned()), Err("x is not UTF-8 after decoding".into()));
        assert!(read("x=%4").is_err());
        assert!(one(&owned(&[("a", "1"), ("a", "2")]), "a").is_err());
    }
}
