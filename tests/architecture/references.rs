//! What the code contains and refers to, as plain data.

use std::collections::BTreeSet;

use crate::code::{Names, Place};
use crate::signatures::Parameter;

/// A function, a method, a constant or a static.
#[derive(Debug)]
pub struct Function {
    /// The place by which other code names the function. A method has the place of its type.
    pub place: Place,
    pub written_in: usize,
    /// The module in which, and below which, the function is visible.
    pub visible_in: usize,
    pub line: usize,
    pub parameters: Vec<Parameter>,
    /// Whether it returns `Result<Result<…>>`.
    pub nested_result: bool,
    pub is_method: bool,
    pub is_async: bool,
    /// The trait that an implementation block is for.
    pub of_trait: Option<Names>,
    pub method_calls: Vec<MethodCall>,
    pub texts: Vec<String>,
    /// Names bound to the connection of an `AuditedTransaction`.
    pub audited: BTreeSet<String>,
}

#[derive(Debug)]
pub struct Reference {
    pub module: usize,
    pub function: Option<usize>,
    pub line: usize,
    pub path: Names,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Import,
    ReExport,
    Path,
    Call(Arguments),
}

#[derive(Debug)]
pub struct MethodCall {
    pub name: String,
    pub line: usize,
    /// `["context", "config"]` of `context.config.issuer()`.
    pub receiver: Names,
    pub arguments: Arguments,
}

/// A closure, by its module, line and column.
pub type ClosureId = (usize, usize, usize);

/// The arguments of a call. The lists have a place for each argument.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Arguments {
    /// Variables that are passed unchanged or by reference.
    pub variables: Vec<Option<String>>,
    pub closures: Vec<Option<ClosureId>>,
    /// Whether one argument is the connection of an `AuditedTransaction`.
    pub audited: bool,
    /// The closure around the call that has one argument as its own parameter.
    pub within: Option<ClosureId>,
    /// The closure that is called.
    pub called: Option<ClosureId>,
}

impl Arguments {
    pub fn count(&self) -> usize {
        self.variables.len()
    }

    pub fn pass(&self, variable: &str) -> bool {
        self.variables.iter().flatten().any(|name| name == variable)
    }
}

impl Function {
    pub fn empty() -> Self {
        Self {
            place: Place { module: 0, rest: Vec::new() },
            written_in: 0,
            visible_in: 0,
            line: 0,
            parameters: Vec::new(),
            nested_result: false,
            is_method: false,
            is_async: false,
            of_trait: None,
            method_calls: Vec::new(),
            texts: Vec::new(),
            audited: BTreeSet::new(),
        }
    }
}
