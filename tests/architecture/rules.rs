//! The rules, applied to the code.

use std::collections::BTreeMap;

use crate::code::{CODE, Code, Place};
use crate::references::{Kind, Reference};
use crate::{
    DECIDING, DEFAULTING, DEFAULTS, FLOORS, IDIOMS, IMPURE, MOST_LINES, OWNERS, PROTOCOL, ROOTS, SERVICES,
    STORES, UNAUDITED, WRITERS, circles, debt, signatures, writes,
};

fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// The floor of a module or of something in it, by its name.
fn floor(name: &str) -> Option<&'static (&'static str, &'static [&'static str])> {
    FLOORS.iter().find(|(floor, _)| name == *floor || name.starts_with(&format!("{floor}::")))
}

fn floor_of(code: &Code, module: usize) -> Option<&'static str> {
    floor(&code.name_of(&Place { module, rest: Vec::new() })).map(|(name, _)| *name)
}

pub fn upward(code: &Code) -> Vec<String> {
    let mut wrong = Vec::new();
    for module in 0..code.modules.len() {
        let name = code.name_of(&Place { module, rest: Vec::new() });
        if floor(&name).is_none() && !name.is_empty() {
            wrong.push(format!("{}: {name} is on no floor", code.file_of(module).path));
        }
    }
    for reference in &code.references {
        let name = code.name_of(&Place { module: reference.module, rest: Vec::new() });
        let Some((here, allowed)) = floor(&name) else { continue };
        let Some(place) = code.resolve(reference.module, &reference.path) else { continue };
        let target = code.name_of(&place);
        if let Some((there, _)) = floor(&target)
            && there != here
            && !allowed.contains(there)
        {
            let at = code.at(reference.module, reference.line);
            wrong.push(format!("{at}: {here} may not refer to {there}: {target}"));
        }
    }
    wrong
}

#[test]
fn arrows_point_down() {
    none(&upward(&CODE));
}

#[test]
fn each_crate_of_the_workspace_is_read() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("crates");
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let file = format!("crates/{}/src/lib.rs", entry.unwrap().file_name().display());
        assert!(ROOTS.iter().any(|(_, root)| *root == file), "ROOTS does not name {file}");
    }
}

#[test]
fn the_tables_name_what_exists() {
    let floors: Vec<&str> = (0..CODE.modules.len()).filter_map(|module| floor_of(&CODE, module)).collect();
    for (name, _) in FLOORS {
        assert!(floors.contains(&name), "FLOORS names {name}, and there is no such module");
    }
    for folder in OWNERS.iter().flat_map(|(_, folders)| *folders) {
        let exists = CODE.files.iter().any(|file| file.path.starts_with(folder));
        assert!(exists, "OWNERS names {folder}, and there is no such file");
    }
}

#[test]
fn files_are_in_no_circle() {
    debt::check(&[("circle", circles::findings(&CODE))]);
}

#[test]
fn every_write_is_a_service_and_ends_in_an_event() {
    let rule = writes::Rule { stores: &STORES, services: SERVICES, exceptions: UNAUDITED };
    let found = writes::check(&CODE, &rule);
    none(&found.wrong);
    for name in WRITERS {
        assert!(
            found.writers.contains_key(name),
            "WRITERS: {name} is not seen to write; under which name does it now?"
        );
    }
    for (name, writers, reason) in UNAUDITED {
        for by in writers.split(' ') {
            let used = found.used.contains(&((*name).to_owned(), by.to_owned()));
            assert!(used, "UNAUDITED: {name} does not write by {by}: {reason}");
        }
    }
    // By this name the rule knows the connection of an audited transaction.
    let named = CODE.functions.iter().filter(|function| {
        function.is_method && function.place.rest.last().is_some_and(|name| name == "connection")
    });
    let named: Vec<String> = named.map(|function| CODE.name_of(&function.place)).collect();
    assert_eq!(named, ["services::transaction::AuditedTransaction::connection"]);
}

#[test]
fn signatures_name_what_belongs_together() {
    debt::check(&signatures::findings(&CODE));
}

#[test]
fn files_fit_a_head_and_say_what_they_promise() {
    let mut wrong = Vec::new();
    for file in &CODE.files {
        let path = &file.path;
        if file.lines_above_tests > MOST_LINES {
            wrong.push(format!("{path} has {} lines above its tests", file.lines_above_tests));
        }
        if !file.starts_with_a_promise {
            wrong.push(format!("{path} does not say what it promises"));
        }
        if ["utils", "helpers", "common", "shared", "misc"].iter().any(|vague| path.contains(vague)) {
            wrong.push(format!("{path} has a name that says nothing"));
        }
    }
    none(&wrong);
}

/// Types of one crate with the same name, unless the name is idiomatic.
pub fn namesakes(code: &Code) -> Vec<String> {
    let mut places: BTreeMap<(usize, &str), Vec<&str>> = BTreeMap::new();
    for (module, name) in code.types.iter().filter(|(_, name)| !IDIOMS.contains(&name.as_str())) {
        places.entry((code.root_of(*module), name)).or_default().push(&code.file_of(*module).path);
    }
    let several = places.into_iter().filter(|(_, files)| files.len() > 1);
    several.map(|((_, name), files)| format!("{name} is in {}", files.join(" and "))).collect()
}

#[test]
fn a_type_has_a_name_of_its_own() {
    none(&namesakes(&CODE));
}

/// Uses of crates outside of their folders.
pub fn strays(code: &Code) -> Vec<String> {
    let is_stray = |reference: &&Reference| {
        let path = &code.file_of(reference.module).path;
        OWNERS.iter().any(|(name, folders)| {
            reference.path.first().is_some_and(|first| first == name)
                && (reference.path.len() > 1 || reference.kind != Kind::Path)
                && !folders.iter().any(|folder| path.starts_with(folder))
        })
    };
    describe(code, code.references.iter().filter(is_stray), "is used outside of its folder")
}

fn describe<'a>(code: &Code, found: impl Iterator<Item = &'a Reference>, what: &str) -> Vec<String> {
    found.map(|one| format!("{}: {} {what}", code.at(one.module, one.line), one.path.join("::"))).collect()
}

#[test]
fn each_crate_has_its_place() {
    none(&strays(&CODE));
}

pub fn impure(code: &Code) -> Vec<String> {
    let is_impure = |reference: &&Reference| {
        floor_of(code, reference.module) == Some(PROTOCOL)
            && (reference.path == ["async"]
                || IMPURE.iter().any(|names| {
                    reference.path.windows(names.len()).any(|part| part.iter().eq(names.iter()))
                }))
    };
    let mut wrong = describe(code, code.references.iter().filter(is_impure), "is not pure");
    let functions = code.functions.iter().filter(|one| one.is_async);
    wrong.extend(
        functions
            .filter(|function| floor_of(code, function.written_in) == Some(PROTOCOL))
            .map(|function| format!("{}: async is not pure", code.at(function.written_in, function.line))),
    );
    wrong
}

/// Calls in these folders that drop an error or take a default: the function with its file, and the call.
pub fn defaults(code: &Code, folders: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for function in &code.functions {
        let path = &code.file_of(function.written_in).path;
        if folders.iter().any(|folder| path.starts_with(folder)) {
            let calls = function.method_calls.iter().filter(|call| DEFAULTING.contains(&call.name.as_str()));
            let name = code.name_of(&function.place);
            found.extend(calls.map(|call| (name.clone(), format!("{path}:{}: {}", call.line, call.name))));
        }
    }
    found
}

#[test]
fn no_default_takes_the_place_of_a_fact_that_decides() {
    let found = defaults(&CODE, &DECIDING);
    let allowed = |name: &str| DEFAULTS.iter().any(|(function, _)| *function == name);
    let wrong = found.iter().filter(|(name, _)| !allowed(name));
    none(&wrong.map(|(name, call)| format!("{call} in {name}")).collect::<Vec<_>>());
    for (name, reason) in DEFAULTS {
        assert!(found.iter().any(|(function, _)| function == name), "DEFAULTS: {name} takes none: {reason}");
    }
    for folder in DECIDING {
        assert!(
            CODE.files.iter().any(|file| file.path.starts_with(folder)),
            "DECIDING: there is no {folder}"
        );
    }
}

#[test]
fn the_protocol_is_pure() {
    none(&impure(&CODE));
}

pub fn commands(code: &Code) -> Vec<String> {
    let is_command = |module| floor_of(code, module) == Some("cli");
    // The standard macros panic when their reader has ended.
    let prints = |reference: &&Reference| {
        let names: Vec<&str> = reference.path.iter().map(String::as_str).collect();
        is_command(reference.module)
            && code.file_of(reference.module).path != "src/cli/stdio.rs"
            && match names.as_slice() {
                ["std", name] => ["print", "println", "eprint", "eprintln"].contains(name),
                [.., "io", name] => ["stdout", "stderr"].contains(name),
                _ => false,
            }
    };
    let mut wrong = describe(code, code.references.iter().filter(prints), "prints by itself");
    // The configured issuer can differ from the issuer of the server.
    for function in code.functions.iter().filter(|function| is_command(function.written_in)) {
        let configured = function.method_calls.iter().filter(|call| {
            let receiver: Vec<&str> = call.receiver.iter().map(String::as_str).collect();
            call.name == "issuer"
                && receiver.last() == Some(&"config")
                && !receiver.ends_with(&["context", "config"])
                && code.file_of(function.written_in).path != "src/cli/context.rs"
        });
        wrong.extend(
            configured
                .map(|call| format!("{}: an issuer as configured", code.at(function.written_in, call.line))),
        );
    }
    wrong
}

#[test]
fn commands_print_through_one_place_and_take_the_issuer_that_was_agreed() {
    none(&commands(&CODE));
}
