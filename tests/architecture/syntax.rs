//! Names in syntax trees.

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Expr, Type};

use crate::code::Names;

pub fn names(path: &syn::Path) -> Names {
    path.segments.iter().map(|segment| segment.ident.to_string()).collect()
}

pub fn type_path(of: &Type) -> Option<Names> {
    match of {
        Type::Path(path) => Some(names(&path.path)),
        Type::Reference(reference) => type_path(&reference.elem),
        _ => None,
    }
}

/// The expression below `&`, `&mut`, `*` and parentheses.
pub fn without_references(expression: &Expr) -> &Expr {
    match expression {
        Expr::Reference(reference) => without_references(&reference.expr),
        Expr::Unary(unary) => without_references(&unary.expr),
        Expr::Paren(paren) => without_references(&paren.expr),
        other => other,
    }
}

pub fn variable(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Path(path) => path.path.get_ident().map(ToString::to_string),
        _ => None,
    }
}

pub fn receiver(expression: &Expr) -> Names {
    match without_references(expression) {
        Expr::Path(path) => names(&path.path),
        Expr::Field(field) => {
            let mut before = receiver(&field.base);
            if let syn::Member::Named(name) = &field.member {
                before.push(name.to_string());
            }
            before
        }
        _ => Vec::new(),
    }
}

/// Names that patterns bind.
pub fn locals(visit: impl FnOnce(&mut Locals)) -> BTreeSet<String> {
    let mut found = Locals::default();
    visit(&mut found);
    found.0
}

#[derive(Default)]
pub struct Locals(BTreeSet<String>);

impl<'ast> Visit<'ast> for Locals {
    fn visit_pat_ident(&mut self, pattern: &'ast syn::PatIdent) {
        let name = pattern.ident.to_string();
        // `None` and constants are no variables.
        if name.starts_with(|first: char| first.is_lowercase() || first == '_') {
            self.0.insert(name);
        }
        visit::visit_pat_ident(self, pattern);
    }
}

/// Paths with their lines, and texts, of tokens that are no expressions. Paths can be empty.
#[derive(Default)]
pub struct Scan {
    pub paths: Vec<(Names, usize)>,
    pub texts: Vec<String>,
}

impl Scan {
    pub fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Names = Vec::new();
        let mut line = 0;
        let mut colons = 0;
        // A name after a dot is a member.
        let mut member = false;
        for token in tokens {
            let continues = colons == 2 && !path.is_empty();
            match token {
                TokenTree::Ident(ident) => {
                    if !continues {
                        self.paths.push((std::mem::take(&mut path), line));
                    }
                    line = ident.span().start().line;
                    if !member {
                        path.push(ident.to_string());
                    }
                    (colons, member) = (0, false);
                    continue;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => {
                    colons += 1;
                    continue;
                }
                TokenTree::Punct(punct) => member = punct.as_char() == '.',
                TokenTree::Group(group) => {
                    self.tokens(group.stream());
                    member = false;
                }
                TokenTree::Literal(literal) => {
                    if let syn::Lit::Str(text) = syn::Lit::new(literal) {
                        self.texts.push(text.value());
                    }
                    member = false;
                }
            }
            self.paths.push((std::mem::take(&mut path), line));
            colons = 0;
        }
        self.paths.push((path, line));
    }
}
