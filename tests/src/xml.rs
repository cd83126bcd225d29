//! Just enough of XML for the replies of the compatible API: the text between two tags.

/// The text of the first `<tag>`, if there is one.
#[must_use]
pub fn text<'a>(xml: &'a str, tag: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{tag}>"))?;
    rest.split_once(&format!("</{tag}>")).map(|(text, _)| text)
}

/// The text of `<tag>` as a number.
///
/// # Panics
/// When there is none; the message shows the whole document.
#[must_use]
pub fn number(xml: &str, tag: &str) -> u64 {
    text(xml, tag).and_then(|t| t.parse().ok()).unwrap_or_else(|| panic!("no number <{tag}> in {xml}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_between_tags() {
        assert_eq!(text("<a><b>1</b></a>", "b"), Some("1"));
        assert_eq!(text("<a/>", "b"), None);
        assert_eq!(number("<n>12</n>", "n"), 12);
    }
}
