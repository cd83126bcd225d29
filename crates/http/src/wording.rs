//! Reading JSON, and what a decoder says, in words of JSON: fields, text, numbers, lists, objects. Callers need not know
//! what this is written in, and no value of theirs comes back, but for one that is no number, time or choice.

use serde::Deserialize;

use crate::Refusal;

/// Characters of a decoder's message that a reply repeats: it may quote the caller at any length.
const MESSAGE_CHARS: usize = 300;

/// Reads a body.
///
/// # Errors
/// 400 that says what is wrong, by field and by line and column; the field is found by decoding once more.
pub fn read<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        let mut again = serde_json::Deserializer::from_slice(body);
        let stopped = serde_path_to_error::deserialize::<_, T>(&mut again).err();
        let field = stopped.map(|error| error.path().to_string()).filter(|path| error.is_data() && path != ".");
        let place = (error.line() > 0).then(|| (error.line(), error.column()));
        Refusal { place, ..refusal(&error.to_string(), field, "the body") }
    })
}

/// The refusal of a body, or of the field that the decoder stopped at. `whole` is what the body should have been.
#[must_use]
pub fn refusal(said: &str, field: Option<String>, whole: &str) -> Refusal {
    let message: String = plain(said).chars().take(MESSAGE_CHARS).collect();
    let refusal = |text: String| Refusal::new(400, text);
    match field {
        Some(field) if message.contains(&field) => Refusal { field: Some(field.into()), ..refusal(message) },
        Some(field) => {
            let colon = if message.starts_with("must be ") { "" } else { ":" };
            let text = format!("{field}{colon} {message}");
            Refusal { field: Some(field.into()), ..refusal(text) }
        }
        None if message.starts_with("must be ") => refusal(format!("{whole} {message}")),
        None => refusal(message),
    }
}

/// A message of serde, serde_json or rmp-serde without their words for types, and without the place.
#[must_use]
pub fn plain(said: &str) -> String {
    // The place stands in fields of its own.
    let said = match said.rsplit_once(" at line ") {
        Some((text, place)) if place.starts_with(|c: char| c.is_ascii_digit()) => text,
        _ => said,
    };
    for (start, name) in [("invalid type: ", kind as fn(&str) -> String), ("invalid value: ", value)] {
        if let Some((found, wanted)) = said.strip_prefix(start).and_then(|rest| rest.rsplit_once(", expected ")) {
            return format!("must be {}, and is {}", expected(wanted), name(found));
        }
    }
    if let Some(within) = said.strip_prefix("EOF while parsing ") {
        return format!("the JSON ends within {within}");
    }
    match said {
        "expected ident" => return "this is not JSON: a word other than true, false and null stands there".into(),
        "expected value" => return "this is not JSON: a value is missing there".into(),
        "key must be a string" => return "this is not JSON: the name of a field must be in quotes".into(),
        _ => {}
    }
    if said.starts_with("wrong msgpack marker") || said.starts_with("numeric cast") {
        return "the MessagePack has a value of a type that does not belong there".into();
    }
    if said.starts_with("string found to be invalid utf8") {
        return "must be text in UTF-8, and is not".into();
    }
    if said.starts_with("IO error while reading") {
        return "the MessagePack ends too early".into();
    }
    said.to_owned()
}

/// serde's `Unexpected`, as what JSON calls it.
fn kind(found: &str) -> String {
    let names = [
        ("null", "null"),
        ("unit value", "null"),
        ("Option value", "null"),
        ("boolean", "true/false"),
        ("integer", "a number"),
        ("floating point", "a number"),
        ("string", "text"),
        ("character", "text"),
        ("byte array", "binary"),
        ("sequence", "a list"),
        ("map", "an object"),
    ];
    let known = names.into_iter().find(|(start, _)| found.starts_with(start));
    known.map_or("something else", |(_, name)| name).to_owned()
}

/// The value itself, where serde quotes it.
fn value(found: &str) -> String {
    match found.split_once(['`', '"']) {
        Some((what, _)) if what.starts_with("string") => found["string ".len()..].to_owned(),
        Some((_, rest)) => rest.trim_end_matches('`').to_owned(),
        None => kind(found),
    }
}

/// What serde's own visitors ask for; ours say it in words of JSON already.
fn expected(wanted: &str) -> &str {
    match wanted {
        "a sequence" => "a list",
        "a map" => "an object",
        "a string" | "a borrowed string" | "str" | "string" => "text",
        "a boolean" => "true/false",
        "f64" | "f32" => "a number",
        "u64" | "i64" | "u32" | "i32" | "u16" | "i16" | "u8" | "i8" => "a whole number",
        _ if wanted.starts_with("struct ") => "an object",
        _ if wanted.starts_with("field ") => "the name of a field",
        _ => wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_json_is_told_by_its_place() {
        for (body, place, words) in [
            (&b"{\"a\":\n tru}"[..], (2, 5), "a word other than true"),
            (b"{\"a\": }", (1, 7), "a value is missing"),
            (b"{a: 1}", (1, 2), "in quotes"),
            (b"{\"a\":1", (1, 6), "ends within an object"),
        ] {
            let refused = read::<serde_json::Value>(body).unwrap_err();
            assert_eq!(refused.place, Some(place), "{refused:?}");
            assert!(refused.message.contains(words), "{refused:?}");
        }
    }

    #[test]
    fn types_have_the_names_that_callers_know() {
        for (said, plainly) in [
            ("invalid type: null, expected an object at line 1 column 11", "must be an object, and is null"),
            ("invalid type: unit value, expected a sequence", "must be a list, and is null"),
            ("invalid type: string \"a, expected b\", expected f64", "must be a number, and is text"),
            ("invalid value: integer `-1`, expected a time", "must be a time, and is -1"),
            ("invalid value: string \"soon\", expected a time", "must be a time, and is \"soon\""),
            ("invalid value: integer `99`, expected field index 0 <= i < 9", "must be the name of a field, and is 99"),
            ("invalid type: string \"secret\", expected u64 at line 1 column 9", "must be a whole number, and is text"),
            ("EOF while parsing an object at line 1 column 1", "the JSON ends within an object"),
            ("unknown field `at line up`, expected `a`", "unknown field `at line up`, expected `a`"),
        ] {
            assert_eq!(plain(said), plainly, "{said}");
        }
    }
}
