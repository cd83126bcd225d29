//! Profiles as JSON, written straight into the reply: the native shape (design §5) and the compatible one
//! (TARGET_API §4). Hand-written, as every visit may ask for one.

use cameo_profile::time::Iso8601;
use cameo_profile::view::{AttributeRef, Contribution, ProfileRef};
use cameo_profile::{Address, Kind};

/// Writes JSON text with its quotes and escapes.
pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut from = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text.as_bytes()[from..at]);
        from = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
    }
    out.extend_from_slice(&text.as_bytes()[from..]);
    out.push(b'"');
}

fn time(out: &mut Vec<u8>, ms: u64) {
    out.push(b'"');
    out.extend_from_slice(Iso8601::new(ms).as_str().as_bytes());
    out.push(b'"');
}

/// `"name":` after a comma, unless it is the first of its object.
fn key(out: &mut Vec<u8>, name: &str) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    string(out, name);
    out.push(b':');
}

/// Writes `,"tntId":"…"` and so on for the ids of a profile; `tnt` says whether tntId is a list or the first one.
fn ids(out: &mut Vec<u8>, profile: &ProfileRef<'_>) {
    out.extend_from_slice(b"\"ids\":{");
    let of = |wanted: fn(Kind<'_>) -> bool| profile.ids().map(Address::parts).filter(move |(kind, _)| wanted(*kind));
    let tnt = |kind: Kind<'_>| kind == Kind::Tnt;
    if of(tnt).next().is_some() {
        key(out, "tntId");
        out.push(b'[');
        for (i, (_, id)) in of(tnt).enumerate() {
            if i > 0 {
                out.push(b',');
            }
            string(out, id);
        }
        out.push(b']');
    }
    if let Some((_, id)) = of(|kind| kind == Kind::ThirdParty).next() {
        key(out, "thirdPartyId");
        string(out, id);
    }
    if let Some((_, id)) = of(|kind| kind == Kind::Ecid).next() {
        key(out, "ecid");
        string(out, id);
    }
    let customer = |kind: Kind<'_>| matches!(kind, Kind::Customer(_));
    if of(customer).next().is_some() {
        key(out, "customerIds");
        out.push(b'[');
        for (i, (kind, id)) in of(customer).enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.push(b'{');
            key(out, "id");
            string(out, id);
            if let Kind::Customer(code) = kind {
                key(out, "integrationCode");
                string(out, code);
            }
            out.push(b'}');
        }
        out.push(b']');
    }
    out.push(b'}');
}

fn attributes(out: &mut Vec<u8>, profile: &ProfileRef<'_>) {
    out.extend_from_slice(b"\"profileAttributes\":{");
    for held in profile.attributes() {
        attribute(out, &held);
        out.push(b'}');
    }
    profile.system_attributes(|name, value, modified_at| {
        attribute(out, &AttributeRef { name, value, modified_at });
        out.push(b'}');
    });
    out.push(b'}');
}

/// The native shape: `{client, ids, createdAt, modifiedAt, expiresAt, profileAttributes, categoryAffinities?}`.
pub(crate) fn native(client: &str, profile: &ProfileRef<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    key(out, "client");
    string(out, client);
    out.push(b',');
    ids(out, profile);
    for (name, ms) in [
        ("createdAt", profile.created_at()),
        ("modifiedAt", profile.modified_at()),
        ("expiresAt", profile.expires_at()),
    ] {
        key(out, name);
        time(out, ms);
    }
    out.push(b',');
    attributes(out, profile);
    affinities(out, &profile.affinities());
    out.push(b'}');
}

fn affinities(out: &mut Vec<u8>, points: &[(&str, f64)]) {
    if points.is_empty() {
        return;
    }
    key(out, "categoryAffinities");
    out.push(b'[');
    for (i, (category, points)) in points.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.push(b'{');
        key(out, "category");
        string(out, category);
        key(out, "points");
        out.extend_from_slice(points.to_string().as_bytes());
        out.push(b'}');
    }
    out.push(b']');
}

/// The native shape with `contributions`: what each id brought and did, the home's own first.
pub(crate) fn native_by_parts(client: &str, profile: &ProfileRef<'_>, out: &mut Vec<u8>) {
    native(client, profile, out);
    out.pop();
    key(out, "contributions");
    out.push(b'[');
    for (i, part) in profile.contributions().iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.push(b'{');
        named(out, part.address);
        if i > 0 {
            key(out, "linkedTo");
            out.push(b'{');
            named(out, part.under.unwrap_or(profile.home()));
            out.push(b'}');
        }
        contribution(out, part);
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
}

/// An id by the words that paths have for its kind.
fn named(out: &mut Vec<u8>, address: Address<'_>) {
    let (kind, id) = address.parts();
    key(out, "kind");
    match kind {
        Kind::Tnt => string(out, "tnt"),
        Kind::ThirdParty => string(out, "tp"),
        Kind::Ecid => string(out, "ecid"),
        Kind::Customer(code) => string(out, &format!("cust:{code}")),
    }
    key(out, "id");
    string(out, id);
}

fn contribution(out: &mut Vec<u8>, part: &Contribution<'_>) {
    if part.left {
        key(out, "left");
        out.extend_from_slice(b"true");
    }
    key(out, "createdAt");
    time(out, part.since);
    if let Some(visits) = part.visits {
        key(out, "lastVisit");
        time(out, visits.last_visit);
        key(out, "visitCount");
        out.extend_from_slice(visits.visit_count.to_string().as_bytes());
    }
    affinities(out, &part.affinities);
    key(out, "attributes");
    out.push(b'{');
    for held in &part.attributes {
        attribute(out, &held.attribute);
        if held.shadowed {
            key(out, "shadowed");
            out.extend_from_slice(b"true");
        }
        out.push(b'}');
    }
    out.push(b'}');
}

/// Writes `"name":{"value":…,"modifiedAt":…`, and leaves the object open.
fn attribute(out: &mut Vec<u8>, attribute: &AttributeRef<'_>) {
    key(out, attribute.name);
    out.extend_from_slice(b"{\"value\":");
    string(out, attribute.value);
    out.extend_from_slice(b",\"modifiedAt\":");
    time(out, attribute.modified_at);
}

/// The compatible shape: `{client, visitorId, modifiedAt, profileAttributes}` (TARGET_API §4). `asked` is the id of the
/// request: a tntId stands there as it was asked for, in the place of another one a known tntId.
pub(crate) fn compatible(client: &str, (kind, asked): (Kind<'_>, &str), profile: &ProfileRef<'_>, out: &mut Vec<u8>) {
    let mut known = profile.ids().map(Address::parts);
    let tnt = if kind == Kind::Tnt { None } else { known.find(|(kind, _)| *kind == Kind::Tnt) };
    out.push(b'{');
    key(out, "client");
    string(out, client);
    key(out, "visitorId");
    string(out, tnt.map_or(asked, |(_, id)| id));
    key(out, "modifiedAt");
    time(out, profile.modified_at());
    out.push(b',');
    attributes(out, profile);
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_as_json_wants() {
        for text in ["", "plain", "a\"b\\c", "tab\tnl\ncr\r", "\u{1}\u{1f}é\u{2028}", "</script>"] {
            let mut out = Vec::new();
            string(&mut out, text);
            let back: String = serde_json::from_slice(&out).unwrap();
            assert_eq!(back, text);
        }
    }
}
