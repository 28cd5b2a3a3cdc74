//! Events as CSV (RFC 4180). Text that a spreadsheet would evaluate as a formula is made inert.

use serde_json::Value;

use super::severity::text;
use crate::failure::{Context, Failure};

/// RFC 4180 §3, RFC 7111.
pub const MEDIA_TYPE: &str = "text/csv; charset=utf-8; header=present";

/// All columns, in fixed order. `seq` is a number, all others are text.
pub const COLUMNS: [&str; 32] = [
    "seq",
    "id",
    "at",
    "action",
    "outcome",
    "reason",
    "code",
    "actor_type",
    "actor_client_id",
    "actor_iss",
    "actor_sub",
    "actor_jkt",
    "subject_iss",
    "subject_sub",
    "act_chain",
    "txn",
    "delegation_id",
    "delegation_path",
    "jti",
    "parent_jti",
    "target",
    "scope",
    "audience",
    "session_id",
    "request_id",
    "trace_id",
    "ip",
    "user_agent",
    "took_us",
    "texts",
    "personal_sha256",
    "detail",
];

/// Whether a file begins with U+FEFF. Without it, Excel assumes the local code page; RFC 4180 does not mention it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ByteOrderMark {
    /// The file begins with the name of the first column.
    #[default]
    Absent,
    /// The file begins with U+FEFF.
    Present,
}

impl ByteOrderMark {
    /// The characters before the first line: U+FEFF, or none.
    pub fn text(self) -> &'static str {
        match self {
            Self::Absent => "",
            Self::Present => "\u{feff}",
        }
    }
}

/// The first line of the file: the names of [`COLUMNS`].
pub fn head(mark: ByteOrderMark) -> Result<String, Failure> {
    Ok(format!("{}{}", mark.text(), line(COLUMNS.iter().map(|name| (*name).to_owned()))?))
}

/// A cell of a table with columns of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// Written without quotes.
    Number(i64),
    /// Made inert, and quoted.
    Text(String),
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::Text(text.into())
    }
}

/// A line of a table with columns of its own.
pub fn record(cells: impl IntoIterator<Item = Cell>) -> Result<String, Failure> {
    line(cells.into_iter().map(|cell| match cell {
        Cell::Number(number) => number.to_string(),
        Cell::Text(text) => safe(&text),
    }))
}

/// A line before the names of the columns, which says something about the whole file. It begins with `#`, so that readers can
/// skip it as a comment, and it has as many fields as the others (RFC 4180 §2.4).
pub fn metadata(name: &'static str, value: &str, columns: usize) -> Result<String, Failure> {
    // A comment is one line.
    let value: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let cells =
        std::iter::once(safe(&value)).chain(std::iter::repeat_n(String::new(), columns.saturating_sub(2)));
    Ok(format!("# {name},{}", line(cells)?))
}

/// The line of one event.
pub fn row(event: &Value) -> Result<String, Failure> {
    let cell = |name: &&str| -> String {
        let value = match *name {
            "seq" => return event.get("seq").and_then(Value::as_u64).unwrap_or_default().to_string(),
            "act_chain" => return safe(&names(event)),
            "actor_type" => event.pointer("/actor/type"),
            "actor_client_id" => event.pointer("/actor/client_id"),
            "actor_iss" => event.pointer("/actor/iss"),
            "actor_sub" => event.pointer("/actor/sub"),
            "actor_jkt" => event.pointer("/actor/jkt"),
            "subject_iss" => event.pointer("/subject/iss"),
            "subject_sub" => event.pointer("/subject/sub"),
            name => event.get(name),
        };
        safe(&value.map(plain).unwrap_or_default())
    };
    line(COLUMNS.iter().map(cell))
}

/// The actors of the chain by name, root first.
fn names(event: &Value) -> String {
    let links = event.get("act_chain").and_then(Value::as_array);
    let names = links.into_iter().flatten().filter_map(|link| text(link, "/sub"));
    names.collect::<Vec<_>>().join(" ")
}

/// A string unchanged, a list of strings joined with spaces, any other value as JSON.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) if list.iter().all(Value::is_string) => {
            list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

/// Characters that begin a formula in a spreadsheet.
fn begins_formula(character: char) -> bool {
    matches!(character, '=' | '+' | '-' | '@' | '\t' | '\r' | '\n' | '＝' | '＋' | '－' | '＠')
}

/// Characters after which some spreadsheets begin a new cell.
fn separates(character: char) -> bool {
    matches!(character, '\n' | '\r' | '\t' | ',' | ';')
}

/// Puts an apostrophe before each text that a spreadsheet would evaluate.
fn safe(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    // Whether a formula would begin at this character. Spaces before a formula do not disarm it.
    let mut at_beginning = true;
    let mut spaces = 0;
    for character in text.chars() {
        if at_beginning && character == ' ' {
            spaces += 1;
            continue;
        }
        // In a row of separators only the first can need an apostrophe: the next one begins no formula.
        let opens = safe.is_empty() || !separates(character);
        let dangerous = at_beginning && opens && begins_formula(character);
        if dangerous {
            safe.push('\'');
        }
        safe.extend(std::iter::repeat_n(' ', std::mem::take(&mut spaces)));
        safe.push(character);
        at_beginning = separates(character);
    }
    safe.extend(std::iter::repeat_n(' ', spaces));
    safe
}

fn line(cells: impl Iterator<Item = String>) -> Result<String, Failure> {
    // Every text is quoted, whether necessary or not.
    let mut writer = csv::WriterBuilder::new()
        .quote_style(csv::QuoteStyle::NonNumeric)
        .terminator(csv::Terminator::CRLF)
        .from_writer(Vec::new());
    writer.write_record(cells.map(String::into_bytes)).context("writing CSV")?;
    let bytes = writer.into_inner().map_err(|error| Failure::new(error.to_string()))?;
    String::from_utf8(bytes).context("writing CSV")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(text: &str) -> Vec<Vec<String>> {
        let mut reader =
            csv::ReaderBuilder::new().has_headers(false).flexible(false).from_reader(text.as_bytes());
        reader.records().map(|record| record.unwrap().iter().map(str::to_owned).collect()).collect()
    }

    fn cell(value: &str) -> String {
        let row = row(&json!({"seq": 7, "target": value})).unwrap();
        read(&format!("{}{row}", head(ByteOrderMark::Absent).unwrap()))[1][20].clone()
    }

    #[test]
    fn rows_end_in_crlf_have_all_columns_and_are_read_back_unchanged() {
        let event = json!({"seq": 7, "target": "a,\"b\r\nc", "audience": ["x", "y"], "detail": {"a": 1},
            "actor": {"client_id": "me"}, "act_chain": [{"sub": "one", "iss": "i"}, {"sub": "two", "iss": "i"}]});
        let text = format!("{}{}", head(ByteOrderMark::Absent).unwrap(), row(&event).unwrap());
        assert!(text.starts_with("\"seq\",\"id\",") && text.ends_with("\"{\"\"a\"\":1}\"\r\n"), "{text}");
        let rows = read(&text);
        assert!(rows.iter().all(|row| row.len() == COLUMNS.len()));
        assert_eq!((rows[1][0].as_str(), rows[1][8].as_str()), ("7", "me"));
        assert_eq!((rows[1][14].as_str(), rows[1][22].as_str()), ("one two", "x y"));
        assert_eq!(rows[1][20], "a,\"b\r\nc");
        assert_eq!(cell("  spaces are data "), "  spaces are data ");
    }

    #[test]
    fn with_a_byte_order_mark_readers_still_find_the_column_seq() {
        let event = json!({"seq": 7, "target": "é"});
        let text = format!("{}{}", head(ByteOrderMark::Present).unwrap(), row(&event).unwrap());
        assert!(text.starts_with("\u{feff}\"seq\",\"id\","), "{text}");
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        assert_eq!(reader.headers().unwrap().get(0), Some("seq"));
        let row = reader.records().next().unwrap().unwrap();
        assert_eq!((row[0].parse::<u64>().unwrap(), &row[20]), (7, "é"));
    }

    #[test]
    fn lines_about_the_file_are_comments_of_one_line_with_all_fields() {
        let hostile = "=1+1\r\nseq,\"x\"\n@2";
        let about = metadata("session", hostile, 3).unwrap();
        assert_eq!(about, "# session,\"'=1+1  seq,\"\"x\"\" @2\",\"\"\r\n");
        let names = record(["seq", "gap_ms", "target"].map(Cell::from)).unwrap();
        let row = record([Cell::Number(7), Cell::Number(-5), "=cmd".into()]).unwrap();
        assert_eq!(
            (names.as_str(), row.as_str()),
            ("\"seq\",\"gap_ms\",\"target\"\r\n", "7,-5,\"'=cmd\"\r\n")
        );
        let text = format!("{about}{names}{row}");
        assert_eq!(read(&text).iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 3]);
        let mut reader = csv::ReaderBuilder::new().comment(Some(b'#')).from_reader(text.as_bytes());
        assert_eq!(reader.headers().unwrap().get(0), Some("seq"));
        assert_eq!(&reader.records().next().unwrap().unwrap()[2], "'=cmd");
    }

    #[test]
    fn no_cell_begins_a_formula_and_numbers_stay_numbers() {
        for (text, shown) in [
            ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
            ("@SUM(1)", "'@SUM(1)"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("  =1", "'  =1"),
            ("\t=1", "'\t'=1"),
            ("＝1", "'＝1"),
            ("a=1", "a=1"),
            ("", ""),
        ] {
            assert_eq!(cell(text), shown, "{text:?}");
        }
        let row = row(&json!({"seq": 7, "target": "=1"})).unwrap();
        assert!(row.starts_with("7,") && row.contains(",\"'=1\","), "{row}");
    }

    #[test]
    fn no_text_after_a_line_break_or_separator_begins_a_formula() {
        assert_eq!(cell("a\n=1"), "a\n'=1");
        assert_eq!(cell("a\r\n=1"), "a\r\n'=1");
        assert_eq!(cell("a;=1,@b"), "a;'=1,'@b");
        assert_eq!(cell("a, =1"), "a,' =1");
    }

    proptest! {
        #[test]
        fn no_part_of_a_cell_begins_a_formula(text in "[=+@\\-a \t\r\n,;＝\"']{0,12}") {
            let shown = cell(&text);
            for part in shown.split(['\n', '\r', '\t', ',', ';']) {
                let first = part.trim_start_matches(' ').chars().next();
                prop_assert!(!first.is_some_and(|c| "=+-@＝＋－＠".contains(c)), "{text:?} {shown:?}");
            }
        }
    }
}
