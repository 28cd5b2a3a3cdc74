//! Strict YAML. Errors name file, line, column and the path in the document. They never quote text of the file: a
//! secret may be next to the mistake.

mod node;

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_saphyr::granit_parser::{Event, Parser};
use serde_saphyr::options::{AliasLimits, MergeKeyPolicy};
use serde_saphyr::{DuplicateKeyPolicy, Location, Options, Spanned};

use self::node::{NUL, Node};
use super::fault::Fault;

/// Longest unknown name that an error repeats.
const MAX_NAME: usize = 32;
/// Most nodes that all aliases of a document may expand to, counting the beginning and the end of each list and
/// mapping.
const MAX_ALIASED: usize = 100_000;
/// Most values of a document, counting lists, mappings and names.
const MAX_NODES: usize = 1_000_000;

/// Longest name of a member, in bytes.
const MAX_NAME_BYTES: usize = 256;
/// Most bytes of all paths of a document together: a value deep below long names has a long path.
const MAX_PATH_BYTES: usize = 128 * 1024 * 1024;

/// The position of each value of a document in its file.
#[derive(Debug, Clone, Default)]
pub struct Positions {
    origin: String,
    positions: BTreeMap<String, (u64, u64)>,
    path_bytes: usize,
}

impl Positions {
    /// `file:line:column` of the value at a path such as `clients[0].scopes`, or of the nearest enclosing value.
    pub fn of(&self, path: &str) -> String {
        let mut nearest = path;
        loop {
            if let Some((line, column)) = self.positions.get(nearest) {
                return format!("{}:{line}:{column}", self.origin);
            }
            match nearest.rfind(['.', '[']) {
                Some(end) => nearest = nearest.get(..end).unwrap_or_default(),
                None if !nearest.is_empty() => nearest = "",
                None => return self.origin.clone(),
            }
        }
    }
}

/// What is wrong with a declaration: its place and the reason, in words for its author.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidDeclaration(String);

impl InvalidDeclaration {
    pub fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl From<InvalidDeclaration> for Fault {
    fn from(invalid: InvalidDeclaration) -> Self {
        Self::new(invalid.0)
    }
}

/// One entry of a document, for errors found after parsing.
#[derive(Debug, Clone, Default)]
pub struct Place {
    document: Arc<Positions>,
    path: String,
}

impl Place {
    pub fn new(document: &Arc<Positions>, path: String) -> Self {
        Self { document: Arc::clone(document), path }
    }

    /// An error about a member of the entry.
    pub fn fault(&self, member: &str, why: impl Display) -> InvalidDeclaration {
        let path = format!("{}.{member}", self.path);
        self.fault_at(&path, &why)
    }

    /// An error about the entry as a whole.
    pub fn whole(&self, why: impl Display) -> InvalidDeclaration {
        self.fault_at(&self.path, &why)
    }

    fn fault_at(&self, path: &str, why: &dyn Display) -> InvalidDeclaration {
        InvalidDeclaration::new(format!("{}: {path}: {why}", self.document.of(path)))
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.document.of(&self.path))
    }
}

/// Parses a document.
///
/// # Errors
/// The place and the reason: a syntax error, a duplicate key, an unknown or missing member, a value of
/// the wrong type, or a NUL character, which PostgreSQL cannot store.
pub fn read<T: DeserializeOwned>(origin: &str, text: &str) -> Result<(T, Positions), InvalidDeclaration> {
    refuse_tags(origin, text)?;
    let places = places(origin, text)?;
    let mut path = None;
    let options = options(DuplicateKeyPolicy::Error);
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, options, |document| {
        serde_path_to_error::deserialize(document).map_err(|error| {
            path = Some(error.path().to_string());
            error.into_inner()
        })
    });
    match read {
        Ok(value) => Ok((value, places)),
        Err(error) => Err(explain(&places, path.as_deref().unwrap_or_default(), error.without_snippet())),
    }
}

/// Reads a list whose absence means no restriction. A name without a value (`scopes:`) is an error, not an absent
/// list.
///
/// # Errors
/// The value has the wrong type.
pub fn present<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

fn options(duplicates: DuplicateKeyPolicy) -> Options {
    let mut aliases = AliasLimits::default();
    aliases.max_total_replayed_events = MAX_ALIASED;
    // YAML 1.2: `y`, the name of a coordinate in every elliptic-curve JWK, is a string and not «yes». Merge keys are
    // refused.
    serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
        duplicate_keys: duplicates,
        merge_keys: MergeKeyPolicy::Error,
        alias_limits: aliases,
        budget: serde_saphyr::budget! { max_nodes: MAX_NODES, max_events: 2 * MAX_NODES }
    }
}

/// Refuses every tag: `!!binary` decodes text, and a tag of another program would be ignored. Syntax errors are left
/// to the parser that explains them.
fn refuse_tags(origin: &str, text: &str) -> Result<(), InvalidDeclaration> {
    for (event, span) in Parser::new_from_str(text).map_while(Result::ok) {
        let (Event::Scalar(_, _, _, tag) | Event::SequenceStart(_, _, tag) | Event::MappingStart(_, _, tag)) =
            event
        else {
            continue;
        };
        if tag.is_some() {
            let (line, column) = (span.start.line(), span.start.col() + 1);
            return Err(InvalidDeclaration::new(format!("{origin}:{line}:{column}: {TAG}")));
        }
    }
    Ok(())
}

fn places(origin: &str, text: &str) -> Result<Positions, InvalidDeclaration> {
    let mut places = Positions { origin: origin.to_owned(), ..Positions::default() };
    let options = options(DuplicateKeyPolicy::PassThrough);
    let root: Spanned<Node> = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| explain(&places, "", error.without_snippet()))?;
    places.note(String::new(), &root)?;
    Ok(places)
}

impl Positions {
    fn note(&mut self, path: String, node: &Spanned<Node>) -> Result<(), InvalidDeclaration> {
        self.path_bytes += path.len();
        if self.path_bytes > MAX_PATH_BYTES {
            return Err(InvalidDeclaration::new(format!("{}: {LONG_PATHS}", self.at(&node.referenced))));
        }
        self.put(&path, &node.referenced);
        match &node.value {
            Node::Scalar => {}
            // A limit without a value, as of an empty variable of a template, must not be no limit.
            Node::Null if path.is_empty() => {}
            Node::Null => {
                let member = path.rsplit(['.', '[']).next().and_then(shown).unwrap_or("the value");
                return Err(InvalidDeclaration::new(format!(
                    "{}: {member} has no value: leave it out, or write one",
                    self.of(&path)
                )));
            }
            Node::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.note(format!("{path}[{index}]"), item)?;
                }
            }
            Node::Mapping(entries) => {
                let mut first: BTreeMap<&str, &Location> = BTreeMap::new();
                for (key, value) in entries {
                    if let Some(first) = first.insert(&key.value, &key.referenced) {
                        let name = shown(&key.value).map(|name| format!(" `{name}`")).unwrap_or_default();
                        return Err(InvalidDeclaration::new(format!(
                            "{}: the key{name} is there twice: first in line {}, column {}",
                            self.at(&key.referenced),
                            first.line(),
                            first.column()
                        )));
                    }
                    if key.value.len() > MAX_NAME_BYTES {
                        let place = self.at(&key.referenced);
                        let why = format!("{place}: a name is longer than {MAX_NAME_BYTES} bytes");
                        return Err(InvalidDeclaration::new(why));
                    }
                    let dot = if path.is_empty() { "" } else { "." };
                    self.note(format!("{path}{dot}{}", key.value), value)?;
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, path: &str, location: &Location) {
        if *location != Location::UNKNOWN {
            self.positions.insert(path.to_owned(), (location.line(), location.column()));
        }
    }

    fn at(&self, location: &Location) -> String {
        format!("{}:{}:{}", self.origin, location.line(), location.column())
    }
}

/// An unknown name, if an error may repeat it. A name with digits or signs may be part of a secret.
fn shown(name: &str) -> Option<&str> {
    let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    ((1..=MAX_NAME).contains(&name.len()) && plain).then_some(name)
}

fn explain(places: &Positions, path: &str, error: &serde_saphyr::Error) -> InvalidDeclaration {
    let place = match error.location() {
        Some(location) if location != Location::UNKNOWN => places.at(&location),
        _ => places.of(path),
    };
    let member = path.rsplit(['.', '[']).next().filter(|name| !name.is_empty()).unwrap_or("the document");
    let member = shown(member).unwrap_or("the value");
    // The parser writes an empty path as a dot.
    let path = if path.is_empty() || path == "." { String::new() } else { format!("{}: ", shown_path(path)) };
    InvalidDeclaration::new(format!("{place}: {path}{}", reason(error, member)))
}

/// A path without the parts that an error must not repeat: a key can be part of a secret.
fn shown_path(path: &str) -> String {
    let part = |part: &str| {
        let (name, index) = part.split_once('[').map_or((part, ""), |(name, index)| (name, index));
        let bracket = if index.is_empty() { "" } else { "[" };
        format!("{}{bracket}{index}", shown(name).unwrap_or("…"))
    };
    path.split('.').map(part).collect::<Vec<_>>().join(".")
}

/// The reason in words that contain no text of the file.
fn reason(error: &serde_saphyr::Error, member: &str) -> String {
    use serde_saphyr::Error;
    let list = |names: &[&str]| names.join(", ");
    match error {
        Error::AliasError { error, .. } => reason(error, member),
        Error::SerdeUnknownField { field, expected, .. } => match shown(field) {
            Some(name) => format!("there is no member `{name}`; there are: {}", list(expected)),
            None => format!("there is no such member; there are: {}", list(expected)),
        },
        Error::SerdeMissingField { field, .. } => format!("the member `{field}` is missing"),
        Error::SerdeUnknownVariant { expected, .. } => {
            format!("this value is not known; there are: {}", list(expected))
        }
        Error::Unexpected { expected, .. } if expected.contains("sequence") => {
            format!("{member} is a list: write `{member}: [{}]`", example(member))
        }
        Error::Unexpected { expected, .. } if expected.contains("mapping") => {
            format!("{member} is a mapping: write `name: value` pairs below it")
        }
        Error::Unexpected { expected, .. } if expected.contains("scalar") => {
            format!("{member} is one value, not a list or a mapping")
        }
        Error::InvalidScalar { ty, .. } if ty.starts_with(['u', 'i']) => {
            format!("{member} is a whole number in the range of {ty}")
        }
        Error::InvalidScalar { .. } | Error::InvalidBooleanStrict { .. } => {
            format!("{member} has a value of another type; a boolean is true or false")
        }
        Error::NullIntoString { .. } => format!("{member} has no value"),
        Error::SerdeInvalidType { expected, .. } | Error::SerdeInvalidValue { expected, .. } => {
            format!("{member} has a value of another type than is needed: {expected}")
        }
        Error::DuplicateMappingKey { .. } => "a key is there twice".to_owned(),
        Error::Message { msg, .. } if msg == NUL => NUL.to_owned(),
        Error::MultipleDocuments { .. } => "there is more than one document in the file".to_owned(),
        Error::Eof { .. } => "the file ends too early".to_owned(),
        Error::UnknownAnchor { .. } => "this alias has no anchor".to_owned(),
        Error::MergeKeyNotAllowed { .. } => {
            "merge keys (`<<`) are not supported: write the members out".to_owned()
        }
        Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            format!("the aliases of the file stand for more than {MAX_ALIASED} values: write them out")
        }
        Error::Budget { .. } => {
            format!("the file has more than {MAX_NODES} values, or is too deep: apply it in parts")
        }
        // Text of the parser: fixed sentences with at most one character of the file.
        Error::ExternalMessage { msg, .. } => {
            let words = msg.split(" at char ").next().unwrap_or_default();
            format!("this is not valid YAML: {words}")
        }
        _ => "this is not valid YAML".to_owned(),
    }
}

/// An example value for a list of this name.
fn example(member: &str) -> &'static str {
    match member {
        "audiences" | "delegation_audiences" => "\"https://mail.example.com\"",
        "grant_types" => "token-exchange",
        "scopes" | "always_scopes" | "ceremony_required_for" => "mail.read",
        _ => "…",
    }
}

const LONG_PATHS: &str = "the values are too deep below names that are too long: apply the file in parts";
const TAG: &str = "tags are not supported: write the value without its tag";

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Document {
        #[serde(default)]
        clients: Vec<Client>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Client {
        id: String,
        #[serde(default)]
        scopes: Vec<String>,
        max: Option<u32>,
    }

    fn complaint(text: &str) -> String {
        read::<Document>("m.yaml", text).unwrap_err().to_string()
    }

    #[test]
    fn a_mistake_is_named_with_file_line_column_and_path() {
        for (text, expected) in [
            (
                "clients:\n  - {id: a, scopes: mail.read}",
                "m.yaml:2:21: clients[0].scopes: scopes is a list: write `scopes: [mail.read]`",
            ),
            ("clients:\n  - {id: a, max: ten}", "m.yaml:2:18: clients[0].max: max is a whole number"),
            ("clients:\n  - {max: 1}", "clients[0]: the member `id` is missing"),
            ("clients:\n  - {id: a, colour: red}", "there is no member `colour`; there are: id, scopes, max"),
            ("clients:\n  - {id: [a]}", "m.yaml:2:10: clients[0].id: id is one value"),
            (
                "clients:\n  - id: a\n    max: 1\n    max: 2",
                "m.yaml:4:5: the key `max` is there twice: first in line 3, column 5",
            ),
            ("clients:\n  - {id: \"a\\0\"}", "NUL"),
            ("clients: []\n---\nclients: []", "more than one document"),
            (": [", "m.yaml:1:"),
        ] {
            let said = complaint(text);
            assert!(said.contains(expected), "{text}\n{said}");
        }
    }

    #[test]
    fn a_tag_is_refused_with_its_place_and_without_its_value() {
        for tag in [
            "!secret",
            "!!python/object",
            "!!python/object/apply:os.system",
            "!<tag:example.com,2026:x>",
            "!!binary",
            "!include",
            "!!set",
            "!!timestamp",
        ] {
            for value in ["cGFzc3cwcmQ=", "[cGFzc3cwcmQ]", "{cGFzc3cwcmQ: 1}"] {
                let text = format!("clients:\n  - {{id: a, scopes: [b, {tag} {value}]}}");
                let said = complaint(&text);
                assert!(said.starts_with("m.yaml:2:") && said.contains("tag"), "{text}\n{said}");
                assert!(!said.contains("cGFz"), "{said}");
            }
        }
        let said = complaint("clients:\n  - {id: !!str cGFzc3cwcmQ}");
        assert!(said.starts_with("m.yaml:2:"), "{said}");
        assert!(said.ends_with(": tags are not supported: write the value without its tag"), "{said}");
    }

    #[test]
    fn an_alias_repeats_its_anchor_and_all_aliases_together_are_bounded() {
        let text = "clients:\n  - {id: a, scopes: &both [x, y]}\n  - {id: b, scopes: *both}";
        let (document, _) = read::<Document>("m.yaml", text).unwrap();
        assert_eq!(document.clients[1].scopes, ["x", "y"]);
        let merged = complaint("clients:\n  - &one {id: a, max: 1}\n  - {<<: *one, id: b}");
        assert!(merged.starts_with("m.yaml:3:") && merged.contains("merge keys (`<<`)"), "{merged}");
        let mut laughs = "x0: &x0 [canary, canary]\n".to_owned();
        for level in 1..30 {
            let below = level - 1;
            laughs += &format!("x{level}: &x{level} [*x{below}, *x{below}, *x{below}, *x{below}]\n");
        }
        let said = complaint(&laughs);
        assert!(said.starts_with("m.yaml:") && said.contains("aliases of the file"), "{said}");
        assert!(!said.contains("canary"), "{said}");
        assert!(complaint("clients: [*none]").contains("this alias has no anchor"));
    }

    #[test]
    fn long_names_and_deep_values_do_not_fill_the_memory() {
        let name = "n".repeat(257);
        let said = complaint(&format!("clients: []\n{name}: [{}]", "x,".repeat(1000)));
        assert!(said.starts_with("m.yaml:2:") && said.ends_with("a name is longer than 256 bytes"), "{said}");
        let deep = format!(
            "{}[{}]{}",
            format!("{{{}: ", &name[..250]).repeat(50),
            "x,".repeat(20_000),
            "}".repeat(50)
        );
        let said = complaint(&deep);
        assert!(said.starts_with("m.yaml:1:") && said.contains("too deep below names"), "{said}");
    }

    #[test]
    fn places_are_those_of_values_and_else_of_what_is_around_them() {
        let text = "clients:\n  - id: a\n    scopes: [x, y]\n";
        let (document, places) = read::<Document>("m.yaml", text).unwrap();
        let one = &document.clients[0];
        assert_eq!((one.id.as_str(), one.scopes.len(), one.max), ("a", 2, None));
        assert_eq!(places.of("clients[0].scopes[1]"), "m.yaml:3:17");
        assert_eq!(places.of("clients[0].max"), "m.yaml:2:5");
        assert_eq!(places.of("sinks[3].id"), "m.yaml:1:1");
    }
}
