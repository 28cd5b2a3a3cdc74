//! The tests in `src` and `tests`, read with `syn`.

use std::sync::LazyLock;

use syn::{Attribute, Expr, Item, Lit, Meta};

use crate::root;

/// A function with the attribute `test`.
pub struct TestFunction {
    /// The path from the root of the repository.
    pub file: String,
    pub name: String,
    pub doc: String,
}

/// All tests in `src` and `tests`.
pub static TESTS: LazyLock<Vec<TestFunction>> = LazyLock::new(|| {
    let mut found = Vec::new();
    for (file, text) in rust_files() {
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        collect(&file, &parsed.items, &mut found);
    }
    found
});

pub fn rust_files() -> Vec<(String, String)> {
    let mut folders = ["src", "tests", "crates"].map(|name| root().join(name)).to_vec();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                found.push((name, std::fs::read_to_string(path).unwrap()));
            } else if path.is_dir() && !path.ends_with("node_modules") {
                folders.push(path);
            }
        }
    }
    found
}

fn collect(file: &str, items: &[Item], found: &mut Vec<TestFunction>) {
    let test = |name: String, doc| TestFunction { file: file.to_owned(), name, doc };
    for item in items {
        match item {
            Item::Fn(function) if function.attrs.iter().any(is_test) => {
                found.push(test(function.sig.ident.to_string(), doc(&function.attrs)));
            }
            Item::Mod(module) => {
                if let Some((_, items)) = &module.content {
                    collect(file, items, found);
                }
            }
            // The functions in `proptest!` have parameters that are not Rust: they are read as tokens.
            Item::Macro(item) if item.mac.path.is_ident("proptest") => {
                let tokens: Vec<String> =
                    item.mac.tokens.clone().into_iter().map(|token| token.to_string()).collect();
                for window in tokens.windows(4) {
                    if window[..3] == ["#", "[test]", "fn"] {
                        found.push(test(window[3].clone(), String::new()));
                    }
                }
            }
            _ => {}
        }
    }
}

fn is_test(attribute: &Attribute) -> bool {
    attribute.path().segments.last().is_some_and(|segment| segment.ident == "test")
}

fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join("\n")
}
