//! The parser by example, and: where a file is cut into pieces never matters.

use proptest::prelude::*;

use super::*;

/// Reads `file` in pieces of `step` bytes; one line per item.
fn read(version: Version, file: &[u8], step: usize) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    let mut parser = Parser::new(version);
    let mut sink = |item: Item<'_>| {
        out.push(match item {
            Item::Skipped => "skipped".into(),
            Item::Failed(RowFailure { line, column, reason }) => {
                format!("{line} [{}] {reason}", column.unwrap_or_default())
            }
            Item::Row(row) => {
                let cells = row.cells().map(|cell| match cell.value {
                    Some(value) => format!(" {}={value}", cell.name),
                    None => format!(" -{}", cell.name),
                });
                format!("{} {}:{}{}", row.line, row.kind.prefix(), row.id, cells.collect::<String>())
            }
        });
    };
    let done = file.chunks(step).try_for_each(|piece| parser.feed(piece, &mut sink));
    done.and_then(|()| parser.finish(&mut sink)).map_err(|refused| refused.to_string())?;
    assert_eq!(parser.rows() as usize, out.len());
    Ok(out)
}

fn v3(file: &str) -> Result<Vec<String>, String> {
    let whole = read(Version::V3, file.as_bytes(), usize::MAX);
    assert_eq!(read(Version::V3, file.as_bytes(), 1), whole, "the cut matters");
    whole
}

#[track_caller]
fn rows(file: &str, expected: &[&str]) {
    assert_eq!(v3(file).as_deref(), Ok(expected.iter().map(|s| s.to_string()).collect::<Vec<_>>()).as_deref());
}

#[track_caller]
fn refused(file: &str, expected: &str) {
    assert_eq!(v3(file), Err(expected.into()));
}

#[test]
fn the_example_of_the_api_page() {
    rows(
        "batch=pcId,param1,param2\n123,value1\n124,,value2\n",
        &["2 tnt:123 param1=value1", "3 tnt:124 param2=value2"],
    );
}

#[test]
fn forms_of_a_good_file() {
    rows("\u{feff}batch=thirdPartyId,a\r\n\r\nx,1\r\n \n\ny,2", &["3 tp:x a=1", "6 tp:y a=2"]);
    rows("\n\nbatch=pcId,a\nx,1\n", &["4 tnt:x a=1"]);
    rows("batch=pcId,a,b\nx,,\ny\nz,\n", &["skipped", "skipped", "skipped"]);
    rows("batch=pcId,a\n", &[]);
    rows("batch=pcId,a\nx.28_0,1\nx,2\n", &["2 tnt:x a=1", "3 tnt:x a=2"]);
    rows("batch=thirdPartyId,a\nx.28_0,1\n", &["2 tp:x.28_0 a=1"]);
    rows("{\"pcId\":\"x.1_1\",\"a\":\"1\"}\n", &["1 tnt:x a=1"]);
    // Names and values are URL-encoded; a plus is a space; case counts; what needs no escape may stand.
    rows("batch=%70cId,%C3%A9,A,a\na%2Cb,1%2b+1,caf%c3%a9 noir,é\n", &["2 tnt:a,b é=1+ 1 A=café noir a=é"]);
    rows("batch=pcId,a,b\nx,\\N,%5CN\n", &["2 tnt:x -a b=\\N"]);
    assert_eq!(read(Version::V2, b"batch=pcId,a\nx,\\N\n", 9), Ok(vec!["2 tnt:x a=\\N".into()]));
}

#[test]
fn a_bad_row_fails_alone() {
    rows(
        "batch=thirdPartyId,a,b\nok,1\nx,1,2,3\nx,%zz\nx,1,%ff\na%2Fb,1\n,1\nx%0A,1\n%,1\nok,2\n",
        &[
            "2 tp:ok a=1",
            "3 [] the row has 4 columns; the header has 3",
            "4 [a] a has a bad escape: % must be followed by two hexadecimal digits",
            "5 [b] b is not UTF-8 after decoding",
            "6 [thirdPartyId] thirdPartyId has a forbidden character '/' at character 2",
            "7 [thirdPartyId] thirdPartyId is empty",
            "8 [thirdPartyId] thirdPartyId has a forbidden character '\\n' at character 2",
            "9 [thirdPartyId] thirdPartyId has a bad escape: % must be followed by two hexadecimal digits",
            "10 tp:ok a=2",
        ],
    );
    let raw = read(Version::V1, b"batch=pcId,a\nx,\xff\n\xffy,1\n", 4);
    let expected = ["2 [a] a is not UTF-8 after decoding", "3 [pcId] pcId is not UTF-8 after decoding"];
    assert_eq!(raw, Ok(expected.map(String::from).to_vec()));
}

#[test]
fn a_bad_header_refuses_the_file() {
    for (file, expected) in [
        ("", "line 1, column 1: the file is empty; it starts with batch=pcId, or batch=thirdPartyId,"),
        ("\n \n", "line 1, column 1: the file is empty; it starts with batch=pcId, or batch=thirdPartyId,"),
        (
            "pcId,a\n",
            "line 1, column 1: the file must start with batch=pcId, or batch=thirdPartyId, and not with \"pcId,a\"",
        ),
        ("batch=PCID,a\n", "line 1, column 1: the first column must be pcId or thirdPartyId, not \"PCID\""),
        ("batch=pcId\nx\n", "line 1, column 2: the header names no attribute"),
        ("batch=pcId,a,\n", "line 1, column 3: the attribute name is empty"),
        (
            "batch=pcId,aa1,1",
            "line 1, column 1: the file is a header and no rows, as it has no line end; if curl sends it: -d takes the line ends \
             out, --data-binary leaves them in",
        ),
        ("batch=pcId,a,b,a\n", "line 1, column 4: attribute \"a\" is named twice, first in column 2"),
        ("batch=pcId,a,%61\n", "line 1, column 3: attribute \"a\" is named twice, first in column 2"),
        (
            "batch=pcId,%6\n",
            "line 1, column 2: the column name has a bad escape: % must be followed by two hexadecimal digits",
        ),
        (
            "batch=pcId,visitCount\n",
            "line 1, column 2: attribute \"visitCount\" is a system attribute, which only visits change",
        ),
        (
            "batch=pcId,thirdPartyId\n",
            "line 1, column 2: thirdPartyId is an id and cannot be an attribute; only the first column names one",
        ),
    ] {
        refused(file, expected);
    }
    let broken_mark = read(Version::V1, b"\xef\xbbbatch=pcId,a\n", 1);
    assert_eq!(broken_mark, Err("line 1, column 1: the file starts with a broken byte order mark".into()));
}

#[test]
fn json_rows() {
    let expected = ["1 tnt:a tier=gold n=1.50 b=true", "skipped", "3 tp:b -tier", "skipped", "5 tnt:c x\"=\u{e9}\n"];
    let objects = [
        r#"{"pcId":"a","tier":"gold","n":1.50,"b":true}"#,
        r#"{"pcId":"a"}"#,
        r#"{"tier":null,"thirdPartyId":"b"}"#,
        r#"{"pcId":"a","tier":""}"#,
        r#"{"pcId":"\u0063","x\"":"\u00e9\n"}"#,
    ];
    rows(&objects.join("\n"), &expected);
    rows(&format!("[{}]", objects.join(",")), &expected);
    rows(&format!(" [ {}\n]\n", objects.join(" ,\n ")), &expected);
    rows("[]", &[]);
    assert_eq!(read(Version::V2, br#"{"pcId":"a","tier":null}"#, 3), Ok(vec!["skipped".into()]));
}

/// What is said of `\ud83d` alone.
const HALF: &str =
    "has a bad escape: half of a surrogate pair, such as \\ud83d without its second half, is no character";

#[test]
fn a_bad_first_line_of_ndjson_fails_as_a_row() {
    let good = r#"{"pcId":"ok","a":1}"#;
    for (bad, reason) in [
        ("{", "the row is not valid JSON: the JSON ends within an object at byte 1 of the row"),
        ("{pcId:1}", "the row is not valid JSON: the name of a field must be in quotes at byte 2 of the row"),
        (r#"{"a":1}"#, "the row has neither pcId nor thirdPartyId"),
    ] {
        rows(&format!("{bad}\n{good}\n"), &[&format!("1 [] {reason}"), "2 tnt:ok a=1"]);
        rows(&format!("\u{feff}\n{bad}\n{good}"), &[&format!("2 [] {reason}"), "3 tnt:ok a=1"]);
    }
    let long = format!("{{{}\n{good}", "x".repeat(bounds::LINE_BYTES));
    rows(&long, &["1 [] the row is longer than 262144 bytes", "2 tnt:ok a=1"]);
}

#[test]
fn a_bad_json_row_fails_alone() {
    let (in_value, in_id) = (format!("[x] x {HALF}"), format!("[pcId] pcId {HALF}"));
    let in_name = format!("[\\ud800y] the attribute name \\ud800y {HALF}");
    let cases = [
        (r#"{"pcId":"a","x":{"y":1}}"#, "[x] x is nested; a value is a string, a number, true, false or null"),
        (r#"{"pcId":"a","x":[1]}"#, "[x] x is nested; a value is a string, a number, true, false or null"),
        (r#"{"x":"1"}"#, "[] the row has neither pcId nor thirdPartyId"),
        (
            r#"{"pcId":"a","thirdPartyId":"b"}"#,
            "[] the row has more than one id; it takes one of pcId and thirdPartyId",
        ),
        (r#"{"pcId":7,"x":"1"}"#, "[pcId] pcId must be a string"),
        (
            r#"{"thirdPartyId":"a+b","x":"1"}"#,
            "[thirdPartyId] thirdPartyId has a forbidden character '+' at character 2",
        ),
        (r#"{"pcId":"a","x":"1","x":"2"}"#, "[x] attribute \"x\" stands twice in the row"),
        (r#"{"pcId":"a","":"1"}"#, "[] the attribute name is empty"),
        (
            r#"{"pcId":"a","visitCount":"1"}"#,
            "[visitCount] attribute \"visitCount\" is a system attribute, which only visits change",
        ),
        (r#"{"pcId":"a","x":"1"]"#, "[] the row is not valid JSON: expected `,` or `}` at byte 20 of the row"),
        (r#"{"pcId" "a"}"#, "[] the row is not valid JSON: expected `:` at byte 9 of the row"),
        (r#"{"pcId":"a","x":"\ud83d!"}"#, &*in_value),
        (r#"{"pcId":"\udc00","x":"1"}"#, &*in_id),
        (r#"{"pcId":"a","\ud800y":"1"}"#, &*in_name),
        (r#"{"pcId":"a","x\q":"1"}"#, "[] the row is not valid JSON: invalid escape at byte 16 of the row"),
        (r#"{"pcId":"a","x":01}"#, "[] the row is not valid JSON: invalid number at byte 18 of the row"),
    ];
    for (object, expected) in cases {
        let good = r#"{"pcId":"ok","a":1}"#;
        let expected = ["1 tnt:ok a=1", &format!("2 {expected}"), "3 tnt:ok a=1"];
        rows(&format!("{good}\n{object}\n{good}"), &expected);
        rows(&format!("[{good},{object},{good}]"), &expected);
    }
    rows(
        "[1,\"a,]\",{\"pcId\":\"a\",\"b\":2}]",
        &["1 [] the row is not a JSON object", "2 [] the row is not a JSON object", "3 tnt:a b=2"],
    );
}

#[test]
fn an_array_that_does_not_hold_together_refuses_the_file() {
    let missing = "a row is missing here: expected an object";
    refused("[", "line 1, column 1: the file ends before its array does");
    refused("[{\"pcId\":\"a\"}\n", "line 2, column 1: the file ends before its array does");
    refused("[\n{},,", &format!("line 2, column 4: {missing}"));
    refused("[{},]", &format!("line 1, column 5: {missing}"));
    refused("[,", &format!("line 1, column 2: {missing}"));
    refused("[] x", "line 1, column 4: something follows the end of the array");
}

/// Every bound of a file: the largest that is taken, and what is said of the next.
#[test]
fn bounds_of_a_file() {
    let header = "batch=pcId,a\n";
    let one = |line: String| v3(&[header, &line, "\nok,1\n"].concat()).unwrap();
    let value = |bytes: usize| format!("x,{}", "v".repeat(bytes));
    assert!(one(value(bounds::ROW_BYTES))[0].starts_with("2 tnt:x a=v"));
    let over = one(value(bounds::ROW_BYTES + 1));
    assert_eq!(over, ["2 [] the values take 65537 bytes; a profile holds 65536", "3 tnt:ok a=1"]);
    // A line of escapes has the longest form of what a profile holds.
    assert!(one(format!("x,{}", "%61".repeat(bounds::ROW_BYTES)))[0].starts_with("2 tnt:x a=a"));
    let over = one(value(bounds::LINE_BYTES - 1));
    assert_eq!(over, ["2 [] the row is longer than 262144 bytes", "3 tnt:ok a=1"]);
    let id = |chars: usize| format!("{},1", "é".repeat(chars));
    assert!(one(id(128))[0].starts_with("2 tnt:é"));
    assert_eq!(one(id(129))[0], "2 [pcId] pcId is 129 characters long; the limit is 128");

    let columns = |n: usize| v3(&format!("batch=pcId{}\n", (0..n).map(|n| format!(",a{n}")).collect::<String>()));
    assert_eq!(columns(1000), Ok(vec![]));
    assert_eq!(columns(1001), Err("line 1, column 1002: the header names more than 1000 attributes".into()));
    let name = |chars: usize| v3(&format!("batch=pcId,{}\n", "n".repeat(chars)));
    assert_eq!(name(128), Ok(vec![]));
    assert!(name(129).unwrap_err().ends_with("is 129 characters long; the limit is 128"));
    let long = v3(&format!("batch=pcId,{}\n", "n".repeat(bounds::LINE_BYTES)));
    assert_eq!(long, Err("line 1, column 1: the header is longer than 262144 bytes".into()));
    let json =
        v3(&format!("[{{\"pcId\":\"a\",\"b\":\"{}\"}},{{\"pcId\":\"a\",\"b\":2}}]", "v".repeat(bounds::LINE_BYTES)));
    assert_eq!(json, Ok(vec!["1 [] the row is longer than 262144 bytes".into(), "2 tnt:a b=2".into()]));

    let full = [header, &"x\n".repeat(limits::BATCH_ROWS as usize)].concat();
    assert_eq!(read(Version::V1, full.as_bytes(), 1 << 16).map(|items| items.len()), Ok(500_000));
    let over = [&full, "\n\nx\n"].concat();
    let refused = read(Version::V1, over.as_bytes(), 1 << 16);
    assert_eq!(refused, Err("line 500004, column 1: the file has more than 500000 rows".into()));
}

fn fragments() -> impl Strategy<Value = String> {
    let fragment = prop_oneof![
        "[a-c]{1,3}",
        Just(",".into()),
        Just("\n".into()),
        Just("\r\n".into()),
        "%[0-9a-f]{2}",
        Just("%4".into()),
        Just("é".into()),
        Just("\\N".into()),
        Just("{\"pcId\":\"a\",\"b\":1}".into()),
        Just("\"".into()),
        Just("[".into()),
        Just("]".into()),
        Just("{".into()),
        Just("}".into()),
        Just("null".into()),
    ];
    let start =
        prop_oneof![Just("batch=pcId,a,b\n"), Just("\u{feff}batch=thirdPartyId,a\r\n"), Just("["), Just("{"), Just("")];
    (start, prop::collection::vec(fragment, 0..40)).prop_map(|(start, rest)| [start.into(), rest.concat()].concat())
}

proptest! {
    #[test]
    fn any_cut_gives_the_same_rows(file in fragments(), step in 1..20usize) {
        let whole = read(Version::V3, file.as_bytes(), usize::MAX);
        prop_assert_eq!(read(Version::V3, file.as_bytes(), step), whole);
    }

    #[test]
    fn any_bytes_are_read_or_refused(file in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(Version::V3, &file, 7);
        let _ = read(Version::V1, &[b"batch=pcId,a,b\n", &*file].concat(), 7);
        let _ = read(Version::V1, &[b"[", &*file].concat(), 7);
    }

    #[test]
    fn what_is_written_url_encoded_reads_back(values in prop::collection::vec("\\PC{1,10}", 1..5)) {
        let encode = |text: &str| text.bytes().map(|b| format!("%{b:02X}")).collect::<String>();
        let names: String = (0..values.len()).map(|n| format!(",a{n}")).collect();
        let cells: String = values.iter().map(|value| format!(",{}", encode(value))).collect();
        let file = format!("batch=pcId{names}\nx{cells}\n");
        let expected: String = values.iter().enumerate().map(|(n, value)| format!(" a{n}={value}")).collect();
        prop_assert_eq!(read(Version::V1, file.as_bytes(), 5), Ok(vec![format!("2 tnt:x{expected}")]));
    }
}
