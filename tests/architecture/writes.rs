//! Which functions write to the database, by themselves or through others, and whether an event goes with it.
//!
//! A function below the services that contains a statement that writes, or refers to a function that writes, is a function
//! that writes. A service that gets its connection as a parameter and passes it on is one, too: its callers are checked.
//! Any other caller has to pass `connection()` of an `AuditedTransaction`, which commits only with events.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;

use crate::calls::{Audit, Site, sites};
use crate::code::{Code, Place};
use crate::references::{Arguments, Function};

/// A function that another one refers to.
struct Use {
    target: usize,
    line: usize,
    /// Whether it gets the connection of an `AuditedTransaction`.
    audited: bool,
    /// Whether it gets the connection that the function got itself.
    passed_on: bool,
}

/// The rule for a crate. Floors as in `FLOORS`.
pub struct Rule<'a> {
    pub stores: &'a [&'a str],
    pub services: &'a str,
    /// A function, what it may write by, and why. `SQL` is a statement of its own.
    pub exceptions: &'a [(&'a str, &'a str, &'a str)],
}

#[derive(Default)]
pub struct Writes {
    /// Functions that write, and by what.
    pub writers: BTreeMap<String, String>,
    /// What breaks the rule.
    pub wrong: Vec<String>,
    /// Exceptions without which something would break the rule: a function, and what it writes by.
    pub used: BTreeSet<(String, String)>,
}

pub fn check(code: &Code, rule: &Rule<'_>) -> Writes {
    let search = Search {
        code,
        rule,
        names: code.functions.iter().map(|function| code.name_of(&function.place)).collect(),
        statements: statements(code),
        uses: uses(code),
        writers: BTreeMap::new(),
    };
    search.with_writers().findings()
}

struct Search<'a> {
    code: &'a Code,
    rule: &'a Rule<'a>,
    /// The name of each function of the code.
    names: Vec<String>,
    /// The beginning of the statement that a function contains.
    statements: Vec<Option<String>>,
    uses: Vec<Vec<Use>>,
    /// What each function that writes writes by.
    writers: BTreeMap<usize, String>,
}

impl<'a> Search<'a> {
    fn is_on(&self, function: usize, floor: &str) -> bool {
        let module = self.code.functions[function].written_in;
        let name = self.code.name_of(&Place { module, rest: Vec::new() });
        name.strip_prefix(floor).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    }

    fn is_store(&self, function: usize) -> bool {
        self.rule.stores.iter().any(|floor| self.is_on(function, floor))
    }

    /// The last name of what a function refers to, if that is an exception.
    fn exception(&self, function: usize, by: &str) -> Option<(String, String)> {
        let by = by.rsplit("::").next().unwrap_or(by);
        let excepted = self.rule.exceptions.iter().any(|(name, writers, _)| {
            *name == self.names[function] && writers.split(' ').any(|writer| writer == by)
        });
        excepted.then(|| (self.names[function].clone(), by.to_owned()))
    }

    /// A statement of a function, unless it is an exception.
    fn statement(&self, function: usize) -> Option<String> {
        self.statements[function].clone().filter(|_| self.exception(function, "SQL").is_none())
    }

    /// Uses of functions that write, unless they are exceptions.
    fn calls(&self, function: usize) -> impl Iterator<Item = &Use> {
        self.uses[function].iter().filter(move |one| {
            self.writers.contains_key(&one.target)
                && self.exception(function, &self.names[one.target]).is_none()
        })
    }

    /// Whether the caller of a function is responsible for what the function writes.
    fn hands_up(&self, function: usize, one: &Use) -> bool {
        self.is_store(function) || one.passed_on
    }

    fn with_writers(mut self) -> Self {
        loop {
            let writer = |function: usize| {
                self.statement(function).or_else(|| {
                    let through = self.calls(function).find(|one| self.hands_up(function, one))?;
                    Some(format!("through {}", self.names[through.target]))
                })
            };
            let others = (0..self.names.len()).filter(|function| !self.writers.contains_key(function));
            let found: Vec<_> = others.filter_map(|function| Some((function, writer(function)?))).collect();
            if found.is_empty() {
                return self;
            }
            self.writers.extend(found);
        }
    }

    fn findings(self) -> Writes {
        let mut found = Writes::default();
        for (at, function) in self.code.functions.iter().enumerate() {
            let mut say = |line, what: &str| {
                let place = self.code.at(function.written_in, line);
                found.wrong.push(format!("{place}: {} {what}", self.names[at]));
            };
            if let Some(statement) = self.statement(at).filter(|_| !self.is_store(at)) {
                say(function.line, &format!("contains a statement that writes: {statement}"));
            }
            for one in self.calls(at).filter(|one| !self.hands_up(at, one)) {
                let called = &self.names[one.target];
                if !one.audited {
                    say(one.line, &format!("writes by {called} outside of an AuditedTransaction"));
                } else if !self.is_on(at, self.rule.services) {
                    say(one.line, &format!("writes by {called}, and is no service"));
                }
            }
            if self.statements[at].is_some() {
                found.used.extend(self.exception(at, "SQL"));
            }
            let unaudited = self.uses[at].iter().filter(|one| self.is_store(at) || !one.audited);
            let writing = unaudited.filter(|one| self.writers.contains_key(&one.target));
            found.used.extend(writing.filter_map(|one| self.exception(at, &self.names[one.target])));
        }
        for (module, text) in self.code.loose_texts.iter().filter(|(_, text)| is_write(text)) {
            let file = &self.code.file_of(*module).path;
            found.wrong.push(format!(
                "{file}: a statement that writes is outside of functions: {}",
                beginning(text)
            ));
        }
        found.writers = self.writers.iter().map(|(at, by)| (self.names[*at].clone(), by.clone())).collect();
        found
    }
}

fn passes_on(function: &Function, arguments: &Arguments) -> bool {
    let connections = function.parameters.iter().filter(|parameter| parameter.is_connection);
    connections.into_iter().any(|parameter| arguments.pass(&parameter.name))
}

fn uses(code: &Code) -> Vec<Vec<Use>> {
    let sites = sites(code);
    let audit = Audit::of(code, &sites);
    let used = |(sites, function): (&Vec<Site<'_>>, &Function)| {
        let called = sites.iter().filter(|site| !site.targets.is_empty()).flat_map(|site| {
            let audited = audit.is_audited(site.arguments);
            let passed_on = !audited && passes_on(function, site.arguments);
            site.targets.iter().map(move |target| Use {
                target: *target,
                line: site.line,
                audited,
                passed_on,
            })
        });
        called.collect()
    };
    sites.iter().zip(&code.functions).map(used).collect()
}

fn statements(code: &Code) -> Vec<Option<String>> {
    let migrating = code.references.iter().filter(|reference| reference.path == ["sqlx", "migrate"]);
    let migrating: BTreeSet<usize> = migrating.filter_map(|reference| reference.function).collect();
    let statement = |(at, function): (usize, &Function)| {
        let text = function.texts.iter().find(|text| is_write(text)).map(|text| beginning(text));
        let mut calls = function.method_calls.iter();
        text.or_else(|| calls.find(|call| call.name.starts_with("copy_in")).map(|call| call.name.clone()))
            .or_else(|| migrating.contains(&at).then(|| "sqlx::migrate!".to_owned()))
    };
    code.functions.iter().enumerate().map(statement).collect()
}

fn beginning(statement: &str) -> String {
    statement.split_whitespace().take(4).collect::<Vec<_>>().join(" ")
}

/// Functions of the database that write: those of the migrations, and PostgreSQL's own.
static WRITING_FUNCTIONS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let mut found = BTreeSet::from(["nextval".to_owned(), "setval".to_owned()]);
    for entry in std::fs::read_dir(folder).expect("migrations") {
        let text =
            std::fs::read_to_string(entry.expect("a migration").path()).expect("a migration").to_lowercase();
        for function in text.replace("or replace ", "").split("create function ").skip(1) {
            let (name, rest) = function.split_once('(').expect("parameters");
            let expression = || rest.split_once("return ")?.1.split(';').next();
            let body =
                rest.split("$$").nth(1).or_else(expression).expect("a body between $$ or after RETURN");
            if is_writing_statement(body) || body.split_whitespace().any(|word| word == "execute") {
                found.insert(name.trim().to_owned());
            }
        }
    }
    found
});

/// Whether a text is SQL that writes.
pub fn is_write(text: &str) -> bool {
    is_writing_statement(text) || names_writing_function(&text.to_lowercase())
}

fn is_writing_statement(text: &str) -> bool {
    let text = text.to_lowercase();
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || "(),".contains(c))
        .flat_map(|word| word.split_inclusive(';'))
        .filter(|word| !word.is_empty())
        .collect();
    let at = |place: usize| words.get(place).copied().unwrap_or_default();
    let begins = |place: usize| place == 0 || at(place - 1).ends_with(';');
    let after = |place: usize, word: &str| words.iter().skip(place + 1).take(6).any(|other| *other == word);
    (0..words.len()).any(|place| match at(place) {
        "insert" | "merge" => at(place + 1) == "into",
        "delete" => at(place + 1) == "from",
        // Not `FOR UPDATE`, `FOR NO KEY UPDATE`.
        "update" => after(place, "set") && (place == 0 || !["for", "key"].contains(&at(place - 1))),
        "truncate" | "create" | "drop" | "alter" => begins(place) && DEFINED.contains(&at(place + 1)),
        "copy" => begins(place) && words.contains(&"from") && !text.contains("copy ("),
        _ => false,
    })
}

/// What `CREATE`, `DROP`, `ALTER` and `TRUNCATE` are about, in words that no sentence continues with.
const DEFINED: [&str; 20] = [
    "table",
    "index",
    "unique",
    "role",
    "user",
    "database",
    "schema",
    "function",
    "procedure",
    "or",
    "view",
    "materialized",
    "type",
    "sequence",
    "trigger",
    "extension",
    "policy",
    "temporary",
    "unlogged",
    "only",
];

fn names_writing_function(text: &str) -> bool {
    WRITING_FUNCTIONS.iter().any(|name| {
        text.match_indices(&format!("{name}("))
            .any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
    })
}
