//! The shape of functions: what their parameters are, and how many there are.

use syn::visit::Visit;
use syn::{FnArg, GenericArgument, Pat, PathArguments, ReturnType, Type};

use crate::code::Code;
use crate::debt::Counts;
use crate::references::Function;

/// The most parameters of a function.
const MOST_PARAMETERS: usize = 5;

#[derive(Debug)]
pub struct Parameter {
    pub name: String,
    pub is_tuple: bool,
    pub is_boolean: bool,
    /// Whether it is a connection to the database: then the transaction belongs to the caller.
    pub is_connection: bool,
}

/// `debt.txt` has a word for each kind of finding.
pub fn findings(code: &Code) -> Vec<(&'static str, Counts)> {
    let mut counts: Vec<(&str, Counts)> =
        ["tuple", "boolean", "parameters", "result"].map(|kind| (kind, Counts::default())).to_vec();
    for function in code.functions.iter().filter(|function| !is_foreign(code, function)) {
        let number = |is: fn(&Parameter) -> bool| function.parameters.iter().filter(|one| is(one)).count();
        let found = [
            number(|parameter| parameter.is_tuple),
            number(|parameter| parameter.is_boolean),
            usize::from(function.parameters.len() > MOST_PARAMETERS),
            usize::from(function.nested_result),
        ];
        for ((_, counts), found) in counts.iter_mut().zip(found).filter(|(_, found)| *found > 0) {
            counts.add(&code.file_of(function.written_in).path, found, format!("line {}", function.line));
        }
    }
    counts
}

/// Whether a trait of another crate prescribes the signature.
fn is_foreign(code: &Code, function: &Function) -> bool {
    function.of_trait.as_ref().is_some_and(|path| code.resolve(function.written_in, path).is_none())
}

pub fn parameter(argument: &FnArg) -> Parameter {
    match argument {
        FnArg::Receiver(_) => {
            Parameter { name: "self".into(), is_tuple: false, is_boolean: false, is_connection: false }
        }
        FnArg::Typed(typed) => Parameter {
            name: match &*typed.pat {
                Pat::Ident(name) => name.ident.to_string(),
                _ => String::new(),
            },
            is_tuple: is_directly(
                &typed.ty,
                &|of| matches!(of, Type::Tuple(tuple) if !tuple.elems.is_empty()),
            ),
            is_boolean: is_directly(
                &typed.ty,
                &|of| matches!(of, Type::Path(path) if path.path.is_ident("bool")),
            ),
            is_connection: names_a_connection(&typed.ty),
        },
    }
}

/// Also behind references and within an `Option`.
fn is_directly(of: &Type, is: &dyn Fn(&Type) -> bool) -> bool {
    let within = match of {
        Type::Reference(reference) => Some(&*reference.elem),
        Type::Paren(paren) => Some(&*paren.elem),
        Type::Path(_) => argument_of(of, "Option"),
        _ => None,
    };
    is(of) || within.is_some_and(|within| is_directly(within, is))
}

/// The first argument of a generic type of this name.
fn argument_of<'a>(of: &'a Type, name: &str) -> Option<&'a Type> {
    let Type::Path(path) = of else { return None };
    let last = path.path.segments.last().filter(|last| last.ident == name)?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    arguments.args.iter().find_map(|argument| match argument {
        GenericArgument::Type(of) => Some(of),
        _ => None,
    })
}

fn names_a_connection(of: &Type) -> bool {
    struct Named(bool);
    impl<'ast> Visit<'ast> for Named {
        fn visit_ident(&mut self, name: &'ast proc_macro2::Ident) {
            self.0 |=
                ["PgConnection", "PoolConnection", "Transaction", "Executor"].iter().any(|one| name == one);
        }
    }
    let mut named = Named(false);
    named.visit_type(of);
    named.0
}

pub fn nested_result(output: &ReturnType) -> bool {
    struct Nested(bool);
    impl<'ast> Visit<'ast> for Nested {
        fn visit_type(&mut self, of: &'ast Type) {
            self.0 |= argument_of(of, "Result").is_some_and(|within| argument_of(within, "Result").is_some());
            syn::visit::visit_type(self, of);
        }
    }
    let mut nested = Nested(false);
    nested.visit_return_type(output);
    nested.0
}
